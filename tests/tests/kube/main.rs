//! What is proved against a real API server.

mod deploy;
mod fixture;
mod report;
mod source;
mod whatif;
