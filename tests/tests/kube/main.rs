//! What is proved against a real API server.

mod cases;
mod fixture;
mod source;
