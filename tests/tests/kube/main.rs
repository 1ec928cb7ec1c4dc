//! What is proved against a real API server.

mod deploy;
mod controller;
mod fixture;
mod report;
mod source;
