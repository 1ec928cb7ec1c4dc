//! What is proved against a real API server.

mod controller;
mod fixture;
mod report;
mod source;
