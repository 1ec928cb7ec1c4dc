//! Alerts against the rule engine of Prometheus: each fires in the fault it is for, and none while
//! nothing is wrong.
//!
//! ```text
//! a real agent or controller ─► /metrics before a fault and during it ─► series ─► promtool test rules
//!                                                 deploy/alerts.yaml ──────────┘
//! ```
//!
//! `make test-alerts`. Series whose fault takes longer than a test are continued by hand, and say so.

mod controller;
mod faults;
mod promtool;
mod scrape;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use promtool::Promtool;
use scrape::Series;

/// What was seen of a fault, and which alerts have to fire, and no others.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) series: Vec<Series>,
    pub(crate) alerts: Vec<&'static str>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn main() -> Result<()> {
    let (promtool, rules) = (Promtool::build()?, root().join("deploy/alerts.yaml"));
    let all = promtool.alerts(&rules)?;
    let mut fired = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in faults::all()? {
        let expected = case.alerts.join(", ");
        match promtool.test(&rules, &case) {
            Ok(()) if case.alerts.is_empty() => println!("{}: no alert", case.name),
            Ok(()) => println!("{}: {expected}", case.name),
            Err(error) => wrong.push(format!("{}: expected {expected:?}: {error:#}", case.name)),
        }
        fired.extend(case.alerts);
    }
    let missing: Vec<_> = all.iter().filter(|alert| !fired.contains(alert.as_str())).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(missing.is_empty(), "alerts without a fault that they fire in: {missing:?}");
    println!("\n{} alerts, each in its fault, and none in the healthy states", all.len());
    Ok(())
}
