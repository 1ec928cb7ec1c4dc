//! How far policies are applied, for people.

use std::io::{self, Write};

use policy_engine::tier::Mode;
use policy_engine::words::few;

use crate::status::{NodeState, PolicyStatus};

/// How many nodes a line names.
const NODES_SHOWN: usize = 3;

/// Writes the answer: every node if one policy `was_named`; else a line for each policy, and the
/// nodes that do not enforce.
///
/// # Errors
/// When the output cannot be written.
pub fn text(
    policies: &[PolicyStatus],
    nodes: &[NodeState],
    was_named: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if was_named {
        return policies.iter().try_for_each(|policy| one(policy, out));
    }
    let rows = policies.iter().map(|policy| {
        let lagging: Vec<_> = policy.lagging().map(|node| &node.node).collect();
        [
            policy.policy.to_string(),
            generation(policy),
            format!("{}/{}", policy.applied(), policy.nodes.len()),
            few(lagging, NODES_SHOWN),
        ]
    });
    table(["POLICY", "GENERATION", "NODES", "WAITING FOR"], &rows.collect::<Vec<_>>(), out)?;
    writeln!(out)?;
    let rows = nodes.iter().map(|node| {
        let state = node.state.map_or_else(|| "Unknown".to_owned(), |state| format!("{state:?}"));
        [node.node.to_string(), state, node.message.clone()]
    });
    table(["NODE", "STATE", "MESSAGE"], &rows.collect::<Vec<_>>(), out)
}

fn one(policy: &PolicyStatus, out: &mut dyn Write) -> io::Result<()> {
    let (applied, concerned) = (policy.applied(), policy.nodes.len());
    let mode = if policy.mode == Mode::Audit { ", in audit" } else { "" };
    let name = format!("{}, generation {}{mode}", policy.policy, generation(policy));
    let waiting = match policy.unscheduled {
        0 => String::new(),
        1 => "; 1 pod that it selects has no node yet".to_owned(),
        pods => format!("; {pods} pods that it selects have no node yet"),
    };
    if concerned == 0 {
        return writeln!(out, "{name}: selects no pod of a node{waiting}");
    }
    writeln!(out, "{name}: applied on {applied} of {concerned} nodes{waiting}\n")?;
    let rows = policy.nodes.iter().map(|node| {
        let status = format!("{:?}", node.stage);
        [node.node.to_string(), node.pods.to_string(), status, node.why.clone()]
    });
    table(["NODE", "PODS", "STATUS", "MESSAGE"], &rows.collect::<Vec<_>>(), out)
}

fn generation(policy: &PolicyStatus) -> String {
    policy.revision.generation.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

/// Writes columns as kubectl does: as wide as their longest cell, three spaces apart.
fn table<const N: usize>(
    head: [&str; N],
    rows: &[[String; N]],
    out: &mut dyn Write,
) -> io::Result<()> {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain(head.get(at).map(|title| title.len())).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let head = head.map(str::to_owned);
    for row in [&head].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("   ").trim_end())?;
    }
    Ok(())
}
