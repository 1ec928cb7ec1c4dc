//! The table of faults: each is tried on an agent under traffic, and what was promised is compared with
//! what was seen.
//!
//! ```text
//! row: ready ─► fault begins ─► something closes, something opens ─► fault ends ─► ready again
//!      └──── connections that are allowed, forbidden, and open, all the time ────────────┘
//!      at the end, an agent that starts finds nothing to change
//! ```
//!
//! | file | what is in it |
//! |---|---|
//! | `stage`, `api` | the lab with its agent and tools; an API server that can lie |
//! | `traffic` | connections all the time |
//! | `row` | one fault from beginning to end, and its promises |
//! | `memory` | what an agent of a large cluster uses |
//! | `tools`, `process`, `server`, `neighbours`, `machine`, `versions` | the faults |

mod api;
pub mod large_sets;
mod machine;
pub mod memory;
mod neighbours;
mod process;
mod row;
mod server;
mod stage;
mod tools;
mod traffic;
mod versions;

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::IptablesVariant;

use self::row::Fault;
use self::stage::Stage;

/// Tries the faults whose name `is_wanted`, and prints a line for each; how many there were.
///
/// # Errors
/// When one breaks a promise, after all were tried, or when a row cannot be set up.
pub fn run(is_wanted: impl Fn(&str) -> bool) -> Result<usize> {
    let all = || {
        let lists = [
            tools::faults(),
            process::faults(),
            versions::faults(),
            server::faults(),
            neighbours::faults(),
            machine::faults(),
        ];
        lists.into_iter().flatten().filter(|fault| is_wanted(&fault.name))
    };
    let (mut count, mut broken) = (0, Vec::new());
    println!("{}", row::HEAD);
    for variant in [IptablesVariant::Nft, IptablesVariant::Legacy] {
        let faults: Vec<Fault> = all().filter(|fault| fault.variant == variant).collect();
        if faults.is_empty() {
            continue;
        }
        let mut stage = Stage::new(variant)?;
        for fault in &faults {
            count += 1;
            match row::try_out(&stage, fault).with_context(|| fault.name.clone()) {
                Ok(seen) => {
                    println!("{}", seen.line(fault));
                    broken.extend(seen.broken(fault).map(|what| format!("{}: {what}", fault.name)));
                }
                Err(error) => {
                    println!("| {} | **{error:#}** |", fault.name);
                    broken.push(format!("{error:#}"));
                    stage = Stage::new(variant)?;
                }
            }
        }
    }
    ensure!(broken.is_empty(), "{} of {count} rows:\n{}", broken.len(), broken.join("\n"));
    Ok(count)
}
