//! What a step expects, spelled out: one verdict for every probe of its world.

use anyhow::{Context, Result, bail, ensure};
use policy_engine::cidr::Family;

use super::file::{Line, OneOrMany, Verdict, Who};
use super::group::{Group, Ports, Side};
use super::probe::{self, Port, Probe};
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
    /// What would come of it if policies in audit were in force.
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

/// A line of `tests`, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Assertion {
    pub(crate) from: Vec<Group>,
    pub(crate) to: Vec<Group>,
    /// The sources (`onlyFrom`) or destinations (`onlyTo`) that are left out are denied.
    only: Option<Side>,
    pub(crate) ports: Option<Vec<Ports>>,
    pub(crate) family: Option<Family>,
    verdict: Verdict,
}

impl Assertion {
    pub(super) fn parse(line: &Line) -> Result<Self> {
        let (from, only_from) = either("from", line.from.as_ref(), line.only_from.as_ref())?;
        let (to, only_to) = either("to", line.to.as_ref(), line.only_to.as_ref())?;
        let only = match (only_from, only_to) {
            (false, false) => None,
            (true, false) => Some(Side::Source),
            (false, true) => Some(Side::Destination),
            (true, true) => bail!("a line has onlyFrom or onlyTo, not both"),
        };
        let verdict = match (line.expect, only) {
            (Some(verdict), None) => verdict,
            (None, Some(_)) => Verdict::Allowed,
            (None, None) => bail!("a line needs expect, onlyFrom or onlyTo"),
            (Some(_), Some(_)) => bail!("onlyFrom and onlyTo say what is expected themselves"),
        };
        let ports = line.ports.as_ref().map(OneOrMany::items);
        let ports = ports.map(|ports| ports.iter().map(|text| text.to_string().parse()).collect());
        let family = line.family.map(Family::from);
        Ok(Self { from, to, only, ports: ports.transpose()?, family, verdict })
    }

    /// What the line says about a probe, if it says anything.
    fn verdict(&self, probe: &Probe) -> Option<Verdict> {
        let in_ports =
            self.ports.as_ref().is_none_or(|all| all.iter().any(|ports| ports.holds(probe.port)));
        let in_family = self.family.is_none_or(|family| family == probe.family);
        if !in_ports || !in_family || (probe.is_exempt() && !self.names_exempt(probe)) {
            return None;
        }
        let holds = |groups: &[Group], side| groups.iter().any(|group| group.holds(side, probe));
        self.says(holds(&self.from, Side::Source), holds(&self.to, Side::Destination))
    }

    /// What the line says about a connection, by whether its groups hold the two sides.
    pub(crate) fn says(&self, from: bool, to: bool) -> Option<Verdict> {
        match (self.only, from, to) {
            (_, true, true) => Some(self.verdict),
            (Some(Side::Source), false, true) | (Some(Side::Destination), true, false) => {
                Some(Verdict::Denied)
            }
            _ => None,
        }
    }

    fn names_exempt(&self, probe: &Probe) -> bool {
        let names = |groups: &[Group], side| {
            groups.iter().any(|group| group.names_exempt_pairs(side) && group.holds(side, probe))
        };
        names(&self.from, Side::Source) || names(&self.to, Side::Destination)
    }

    /// Every word of a line must mean something in the world.
    fn check_groups(&self, probes: &[Probe], line: &Line) -> Result<()> {
        let sides = [
            (&self.from, Side::Source, [&line.from, &line.only_from]),
            (&self.to, Side::Destination, [&line.to, &line.only_to]),
        ];
        for (groups, side, written) in sides {
            let words = written.into_iter().flatten().flat_map(OneOrMany::items);
            for (group, word) in groups.iter().zip(words) {
                let found = probes.iter().any(|probe| group.holds(side, probe));
                ensure!(found, "\"{word}\" matches nothing in the world of this step");
            }
        }
        for ports in self.ports.iter().flatten() {
            let found = probes.iter().any(|probe| ports.holds(probe.port));
            ensure!(found, "{ports:?} matches nothing that is probed in this step");
        }
        Ok(())
    }
}

fn either(
    name: &str,
    plain: Option<&OneOrMany<Who>>,
    only: Option<&OneOrMany<Who>>,
) -> Result<(Vec<Group>, bool)> {
    let (groups, is_only) = match (plain, only) {
        (Some(groups), None) => (groups, false),
        (None, Some(groups)) => (groups, true),
        (None, None) => return Ok((vec![Group::Everything], false)),
        (Some(_), Some(_)) => bail!("a line has {name} or its only… form, not both"),
    };
    let groups = groups.items().iter().map(Group::read).collect::<Result<_>>()?;
    Ok((groups, is_only))
}

/// The lines of a step or a file, parsed.
pub(crate) fn parse(lines: &[Line]) -> Result<Vec<Assertion>> {
    let lines = lines.iter().enumerate();
    lines
        .map(|(index, line)| Assertion::parse(line).with_context(|| format!("line {}", index + 1)))
        .collect()
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
    let in_audit = audited.map(|block| block.verdicts(&probes, families)).transpose()?;
    let in_audit = in_audit.unwrap_or_else(|| said.iter().map(|(said, _)| (*said, None)).collect());
    let both = probes.into_iter().zip(said.into_iter().zip(in_audit));
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
        let lines = parse(written).with_context(|| field.to_owned())?;
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
                if let Some(verdict) = line.verdict(probe) {
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
            line.check_groups(probes, written).with_context(place)?;
            ensure!(used[index], "{}: no connection matches it", place());
            ensure!(decides[index], "{}: later lines undo all that it says", place());
        }
        Ok(verdicts)
    }
}
