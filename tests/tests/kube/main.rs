//! What is proved against a real API server.

mod fixture;
