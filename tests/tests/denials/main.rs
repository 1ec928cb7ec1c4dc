//! What policy denies is told: by the right names, at once, without end to neither memory nor
//! patience.

mod counts;
mod flood;
mod kinds;
mod log;
mod repeated;
mod shop;
