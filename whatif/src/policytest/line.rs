//! A parsed line of `tests`: the sources, the destinations, the ports and the expectation.

use anyhow::{Context, Result, bail};
use policy_engine::cidr::Family;

use super::file::{Line, OneOrMany, Verdict, Who};
use super::group::{End, Group, LinePorts};

/// A line of `tests`, parsed.
#[derive(Clone, Debug)]
pub struct Assertion {
    /// The groups of the source.
    pub from: Vec<Group>,
    /// The groups of the destination.
    pub to: Vec<Group>,
    /// The sources (`onlyFrom`) or destinations (`onlyTo`) that are left out are denied.
    only: Option<End>,
    /// The ports; `None` for all.
    pub ports: Option<Vec<LinePorts>>,
    /// The family that the line applies to; `None` for both.
    pub family: Option<Family>,
    verdict: Verdict,
}

impl Assertion {
    fn parse(line: &Line) -> Result<Self> {
        let (from, only_from) = either("from", line.from.as_ref(), line.only_from.as_ref())?;
        let (to, only_to) = either("to", line.to.as_ref(), line.only_to.as_ref())?;
        let only = match (only_from, only_to) {
            (false, false) => None,
            (true, false) => Some(End::Source),
            (false, true) => Some(End::Destination),
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

    /// The verdict that the line states, by whether its groups contain the two ends.
    #[must_use]
    pub fn says(&self, from: bool, to: bool) -> Option<Verdict> {
        match (self.only, from, to) {
            (_, true, true) => Some(self.verdict),
            (Some(End::Source), false, true) | (Some(End::Destination), true, false) => {
                Some(Verdict::Denied)
            }
            _ => None,
        }
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
///
/// # Errors
/// When one of them cannot be understood.
pub fn parse(lines: &[Line]) -> Result<Vec<Assertion>> {
    let lines = lines.iter().enumerate();
    lines
        .map(|(index, line)| Assertion::parse(line).with_context(|| format!("line {}", index + 1)))
        .collect()
}
