//! Worlds of a few objects, judged by hand.
