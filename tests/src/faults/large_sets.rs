//! How long the change of one tenant takes while another tenant makes large sets.
//!
//! ```text
//! a policy whose peers are 100,000 pods in new sets ─┐
//! a policy that closes, or opens, a pod ─────────────┴─► agent ─► packets
//! ```

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_lab::IptablesVariant;
use serde_json::{Value, json};

use super::memory::{app, namespace, network_policy, pod};
use super::stage::{CLOSES, Stage};
use crate::cluster::AgentSetup;

const PODS: u32 = 100_000;
const PODS_OF_A_NAMESPACE: u32 = 100;
/// Each round has a policy that closes and one that opens.
const ROUNDS: u32 = 10;
/// The peers of each policy that makes sets, each in a set of its own.
const SETS: u32 = 4;
/// How long a change may take, so that the bench ends.
const LIMIT: Duration = Duration::from_mins(2);
/// After a round, until all its sets are filled.
const REST: Duration = Duration::from_secs(4);

/// Prints how long changes take, alone and beside large sets, with this agent and with the one whose
/// path `PORTCULLIS_OTHER` is.
///
/// # Errors
/// When a change does not reach packets within two minutes.
pub fn run() -> Result<()> {
    let stage = Stage::new(IptablesVariant::Nft)?;
    stage.api.put((0..PODS / PODS_OF_A_NAMESPACE).map(namespace));
    stage.api.put((0..PODS).map(pod));
    println!("| agent | sets of {PODS} pods made before each change | median, ms | highest, ms |");
    println!("|---|---|---|---|");
    let other = std::env::var_os("PORTCULLIS_OTHER").map(PathBuf::from);
    for (name, binary) in
        [("this", None)].into_iter().chain(other.map(|path| ("other", Some(path))))
    {
        stage.start(AgentSetup { binary, ..AgentSetup::default() })?;
        took(&stage, false)?;
        took(&stage, true)?;
        for sets in [0, SETS] {
            let mut all = Vec::new();
            for round in 0..ROUNDS {
                for is_open in [false, true] {
                    let number = round * 2 + u32::from(is_open);
                    stage.api.put((sets > 0).then(|| everybody(number, sets)));
                    all.push(took(&stage, is_open)?);
                    thread::sleep(if sets > 0 { REST } else { Duration::ZERO });
                }
            }
            all.sort_unstable();
            let (median, highest) = (all[all.len() / 2], all[all.len() - 1]);
            println!("| {name} | {sets} | {} | {} |", median.as_millis(), highest.as_millis());
        }
    }
    Ok(())
}

/// How long a policy that closes or opens takes to reach packets.
fn took(stage: &Stage, is_open: bool) -> Result<Duration> {
    if is_open {
        stage.reset();
    } else {
        stage.close();
    }
    stage.until(CLOSES, is_open, LIMIT)?.with_context(|| format!("not applied: {}", stage.why()))
}

/// A policy of pods of the node. Its peers are all pods, in sets that were not there before.
fn everybody(number: u32, sets: u32) -> Value {
    let rule = |set: u32| {
        let name = format!("none-{number}-{set}");
        json!({"from": [{"namespaceSelector": {}, "podSelector": {"matchExpressions": [
            {"key": "app", "operator": "NotIn", "values": [name]}]}}], "ports": [{"port": 1 + set}]})
    };
    let rules: Vec<Value> = (0..sets).map(rule).collect();
    network_policy("ns-0", "everybody", &json!({"matchLabels": {"app": app(0)}}), &json!(rules))
}
