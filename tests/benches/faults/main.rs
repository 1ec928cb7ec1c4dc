//! The table of faults: what happens to packets during each, and how long it takes until all is as it
//! should be.
//!
//! `make faults`; `FAULTS=ipset` tries only those with this text in their name.

use anyhow::Result;

fn main() -> Result<()> {
    let wanted = std::env::var("FAULTS").unwrap_or_default();
    let count = portcullis_tests::faults::run(|name| name.contains(&wanted))?;
    println!("\n{count} faults, and each promise was kept");
    Ok(())
}
