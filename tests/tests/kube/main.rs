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
mod whatif;
// What the faults without an API server are tried on; not all of it is used here.
#[allow(dead_code)]
#[path = "../faults/shop.rs"]
mod shop;
#[path = "../faults/traffic.rs"]
mod traffic;
