//! What is proved against a real API server.

mod cases;
mod controller;
mod deploy;
mod faults;
mod fixture;
mod kinds;
mod report;
mod source;
mod standing;
mod tiers;
#[path = "../faults/traffic.rs"]
mod traffic;
mod whatif;

use portcullis_tests::shop;
