//! The connections that the lines of a test file expect to be allowed.

use anyhow::Result;
use policy_engine::reach::{PortSet, Reach};

use super::Suite;
use super::cells::{Cell, CellKind, cells};
use super::file::Verdict;
use super::line;
use super::lines::{related, verdict_of, wanted};
use super::member::Member;
use crate::endpoint::{Party, Resolved};
use crate::model::Cluster;
use crate::suggest::Asked;

/// What the lines in `tests` expect to be allowed. If several lines apply to a connection, the last one
/// counts. `default`, `audit` and `steps` do not count.
///
/// # Errors
/// When a line cannot be understood.
pub fn expected(suite: &Suite, cluster: &Cluster) -> Result<Vec<Asked>> {
    let tests = &suite.file.tests;
    let lines = line::parse(tests)?;
    let reach = Reach::new(&cluster.world);
    let (cells, _) = cells(cluster, &reach, &lines);
    let mut asked = Vec::new();
    for from in &cells {
        for to in &cells {
            for (source, destination, exempt) in related(from, to) {
                if exempt {
                    continue;
                }
                let mut rest = PortSet::everything();
                for (index, line) in lines.iter().enumerate().rev() {
                    let Some(verdict) =
                        verdict_of(line, index, (from, source), (to, destination), false)
                    else {
                        continue;
                    };
                    let ports = wanted(line).intersection(&rest);
                    // A line about one family denies nothing of the other family.
                    if verdict == Verdict::Allowed || line.family.is_none() {
                        rest = rest.difference(&ports);
                    }
                    if verdict == Verdict::Allowed && !ports.is_empty() {
                        asked.push(Asked {
                            name: tests.get(index).map(ToString::to_string).unwrap_or_default(),
                            source: alike(from, source, destination),
                            destination: alike(to, destination, source),
                            ports,
                        });
                    }
                }
            }
        }
    }
    Ok(asked)
}

/// The members of a cell with the same relation to `other` as `member`: on its node, or not.
fn alike(cell: &Cell, member: &Member, other: &Member) -> Resolved {
    let own = |one: &Member| one.node == other.node;
    let is_alike = |one: &&Member| {
        let apart = other.on_host && matches!(cell.kind, CellKind::Pods(_));
        !apart || own(one) == own(member)
    };
    let party = |one: &Member| Party {
        name: one.place.to_string(),
        side: cell.side(one),
        ports: Vec::new(),
    };
    let parties = cell.members.iter().filter(is_alike).map(party).collect();
    Resolved { name: member.place.to_string(), parties, notes: Vec::new() }
}
