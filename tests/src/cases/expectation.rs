//! What a step expects, spelled out: one verdict for every probe of its world.

use anyhow::{Context, Result, ensure};
use policy_engine::cidr::Family;
use portcullis_whatif::policytest::file::{Line, OneOrMany, Verdict};
use portcullis_whatif::policytest::group::{End, Group};
use portcullis_whatif::policytest::line::{self, Assertion};
use portcullis_whatif::policytest::member::Port;

use super::probe::{self, Probe, Via};
use super::world::World;

/// A connection to try and what has to come of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    /// The connection.
    pub probe: Probe,
    /// What has to come of it.
    pub verdict: Verdict,
    /// The line of `tests` that says so, from 1; `None`: the default, or no policy can forbid it.
    pub line: Option<usize>,
    /// What would come of it if policies in audit were enforced.
    pub audited: Verdict,
    /// The line of `audit` that says so, from 1; `None`: its default, or there is no `audit`.
    pub audited_line: Option<usize>,
}

impl Expectation {
    /// Whether it is allowed, and policies in audit would deny it.
    #[must_use]
    pub fn would_be_denied(&self) -> bool {
        self.verdict == Verdict::Allowed && self.audited == Verdict::Denied
    }
}

/// What a step says of its connections: lines, and what holds where none speaks.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The field that holds it.
    field: &'static str,
    default: Verdict,
    written: Vec<Line>,
    lines: Vec<Assertion>,
}

/// One expectation for every probe of `world` in the given families. Without `audit` nothing is in
/// audit, or it makes no difference.
pub(super) fn expand(
    enforced: &Block,
    audited: Option<&Block>,
    world: &World,
    families: &[Family],
    more: &[Port],
) -> Result<Vec<Expectation>> {
    let mut probes = Vec::new();
    for family in families {
        probes.extend(probe::all(world, *family, more)?);
    }
    let said = enforced.verdicts(&probes, families)?;
    let besides = audited.map(|block| block.verdicts(&probes, families)).transpose()?;
    let besides = besides.unwrap_or_else(|| said.iter().map(|(said, _)| (*said, None)).collect());
    let both = probes.into_iter().zip(said.into_iter().zip(besides));
    let expectations: Vec<Expectation> = both
        .map(|(probe, ((verdict, line), (audited, audited_line)))| Expectation {
            probe,
            verdict,
            line,
            audited,
            audited_line,
        })
        .collect();
    ensure!(
        audited.is_none() || expectations.iter().any(|item| item.verdict != item.audited),
        "audit says nothing that tests do not say"
    );
    Ok(expectations)
}

impl Block {
    /// The lines of a field, parsed.
    pub(super) fn parse(field: &'static str, default: Verdict, written: &[Line]) -> Result<Self> {
        let lines = line::parse(written).with_context(|| field.to_owned())?;
        Ok(Self { field, default, written: written.to_vec(), lines })
    }

    /// A verdict for each probe, and the line that says so: of all lines that speak of a probe the
    /// last one wins, and the default holds where none does.
    fn verdicts(
        &self,
        probes: &[Probe],
        families: &[Family],
    ) -> Result<Vec<(Verdict, Option<usize>)>> {
        // Whether each line matches something, and whether it has the last word about something.
        let count = self.lines.len();
        let (mut used, mut decides) = (vec![false; count], vec![false; count]);
        let mut verdicts = Vec::with_capacity(probes.len());
        for probe in probes {
            let default = if probe.is_exempt() { Verdict::Allowed } else { self.default };
            let mut found = (default, None);
            for (index, line) in self.lines.iter().enumerate() {
                if let Some(verdict) = verdict(line, probe) {
                    found = (verdict, Some(index + 1));
                    used[index] = true;
                }
            }
            if let Some(line) = found.1 {
                decides[line - 1] = true;
            }
            verdicts.push(found);
        }
        for (index, (line, written)) in self.lines.iter().zip(&self.written).enumerate() {
            if line.family.is_some_and(|family| !families.contains(&family)) {
                continue;
            }
            let place = || format!("{}, line {}", self.field, index + 1);
            check_groups(line, probes, written).with_context(place)?;
            ensure!(used[index], "{}: no connection matches it", place());
            ensure!(decides[index], "{}: later lines undo all that it says", place());
        }
        Ok(verdicts)
    }
}

/// What the line says about a probe, if it says anything.
fn verdict(line: &Assertion, probe: &Probe) -> Option<Verdict> {
    let in_ports =
        line.ports.as_ref().is_none_or(|all| all.iter().any(|ports| ports.holds(probe.port)));
    let in_family = line.family.is_none_or(|family| family == probe.family);
    if !in_ports || !in_family || (probe.is_exempt() && !names_exempt(line, probe)) {
        return None;
    }
    let any = |groups: &[Group], side| groups.iter().any(|group| holds(group, side, probe));
    line.says(any(&line.from, End::Source), any(&line.to, End::Destination))
}

fn names_exempt(line: &Assertion, probe: &Probe) -> bool {
    let names = |groups: &[Group], side| {
        groups.iter().any(|group| group.names_exempt_pairs(side) && holds(group, side, probe))
    };
    names(&line.from, End::Source) || names(&line.to, End::Destination)
}

/// Every word of a line must mean something in the world.
fn check_groups(line: &Assertion, probes: &[Probe], written: &Line) -> Result<()> {
    let sides = [
        (&line.from, End::Source, [&written.from, &written.only_from]),
        (&line.to, End::Destination, [&written.to, &written.only_to]),
    ];
    for (groups, side, written) in sides {
        let words = written.into_iter().flatten().flat_map(OneOrMany::items);
        for (group, word) in groups.iter().zip(words) {
            let found = probes.iter().any(|probe| holds(group, side, probe));
            ensure!(found, "\"{word}\" matches nothing in the world of this step");
        }
    }
    for ports in line.ports.iter().flatten() {
        let found = probes.iter().any(|probe| ports.holds(probe.port));
        ensure!(found, "{ports:?} matches nothing that is probed in this step");
    }
    Ok(())
}

/// Whether the group holds one side of a probe.
fn holds(group: &Group, side: End, probe: &Probe) -> bool {
    let (this, other) = match side {
        End::Source => (&probe.source, &probe.destination),
        End::Destination => (&probe.destination, &probe.source),
    };
    // What is reached through a service is called by the service's name.
    let via = probe.via.as_ref().filter(|_| side == End::Destination);
    match (group, via) {
        (Group::Everything, _) => true,
        (Group::Service(namespace, name, port), Some(Via::ClusterIp { service })) => {
            (namespace, name) == (&service.0, &service.1) && is_port(probe.port, *port)
        }
        (Group::NodePort(node, port), Some(Via::NodePort { node: asked, .. })) => {
            node.matches(asked) && is_port(probe.port, Some(*port))
        }
        (Group::Service(..) | Group::NodePort(..), _) | (_, Some(_)) => false,
        (_, None) => group.holds_member(this, other),
    }
}

fn is_port(port: Port, wanted: Option<u16>) -> bool {
    match (port, wanted) {
        (_, None) => true,
        (Port::Number(_, number), Some(wanted)) => number == wanted,
        (Port::Icmp, Some(_)) => false,
    }
}
