//! Evaluates lines for the cluster of the sources.

use anyhow::{Context, Result, ensure};
use policy_engine::cidr::Family;
use policy_engine::explain::explain_as;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::port::PortRange;
use policy_engine::reach::{PortSet, Reach};
use policy_engine::tier::View;
use portcullis_crds::path::FieldPath;

use super::cells::{Cell, CellKind, cells, is_relative};
use super::file::{AuditFile, Line, Verdict};
use super::group::{End, Group, LinePorts};
use super::line::{self, Assertion};
use super::member::{Member, Place};
use super::{Failure, Outcome, Suite};
use crate::endpoint::{Party, Resolved};
use crate::judge::groups;
use crate::model::Cluster;
use crate::output::check::reasons;

/// Lines of a file or step about one view of the cluster.
pub(super) struct Block<'f> {
    /// The place of the lines in the file.
    pub(super) at: FieldPath,
    /// The start of the names of outcomes: the step.
    pub(super) prefix: String,
    pub(super) view: View,
    /// The ports that are evaluated.
    pub(super) ports: PortSet,
    pub(super) tests: &'f [Line],
    pub(super) default: Option<Verdict>,
}

/// One outcome per line, and one for each default that the file has.
///
/// # Errors
/// When a line cannot be understood.
pub(super) fn run(suite: &Suite, cluster: &Cluster) -> Result<Vec<Outcome>> {
    let file = &suite.file;
    ensure!(file.ports.is_empty(), "`ports` beside `tests`: name them in the lines");
    let enforced = Block {
        at: FieldPath::default(),
        prefix: String::new(),
        view: View::Enforced,
        ports: PortSet::everything(),
        tests: &file.tests,
        default: file.default,
    };
    let mut outcomes = run_block(suite, cluster, &enforced)?;
    if let Some(AuditFile { default, tests }) = &file.audit {
        let default = Some(*default);
        let (at, prefix) = (FieldPath::new(["audit"]), String::new());
        let (view, ports) = (View::Audited, PortSet::everything());
        let audited = Block { at, prefix, view, ports, tests, default };
        outcomes.extend(run_block(suite, cluster, &audited)?);
    }
    ensure!(!outcomes.is_empty(), "{}: there are no tests", suite.document.origin());
    Ok(outcomes)
}

/// One outcome per line of a block, and one for its default at the end.
///
/// # Errors
/// When a line cannot be understood.
pub(super) fn run_block(
    suite: &Suite,
    cluster: &Cluster,
    block: &Block<'_>,
) -> Result<Vec<Outcome>> {
    let place = || suite.document.origin().to_string();
    let lines = line::parse(block.tests).with_context(place)?;
    let outcome = |stated: String, field: FieldPath| {
        let stated = format!("{}{stated}", block.prefix);
        Outcome::new(super::in_view(block.view, stated), suite.document.origin_at(&field))
    };
    let mut outcomes: Vec<Outcome> = block
        .tests
        .iter()
        .enumerate()
        .map(|(index, line)| outcome(line.to_string(), block.at.clone().key("tests").index(index)))
        .collect();
    let default = block.default.inspect(|verdict| {
        outcomes.push(outcome(format!("default: {verdict}"), block.at.clone().key("default")));
    });
    let families = match &suite.file.families {
        Some(names) => names.iter().map(|name| Family::from(*name)).collect(),
        None => Family::BOTH.to_vec(),
    };
    let mut run = Run {
        cluster,
        view: block.view,
        ports: block.ports.clone(),
        reach: Reach::new_as(&cluster.world, block.view),
        wanted: lines.iter().map(wanted).collect(),
        applies: vec![false; outcomes.len()],
        decides: vec![false; outcomes.len()],
        families,
        lines: &lines,
        default,
        outcomes,
    };
    let (cells, found) = cells(cluster, &run.reach, &lines);
    for source in &cells {
        for destination in &cells {
            run.pair(source, destination);
        }
    }
    for (index, (line, found)) in lines.iter().zip(found).enumerate() {
        let groups = line.from.iter().chain(&line.to);
        let missing = groups.zip(found).position(|(group, held)| !held && !is_relative(group));
        if let (Some(position), Some(outcome)) = (missing, run.outcomes.get_mut(index)) {
            let word = block.tests.get(index).and_then(|line| line.word(position));
            let word = word.expect("a group was read from a word");
            outcome.problem = Some(format!("tests nothing: {word} matches nothing"));
        }
    }
    for (outcome, flags) in run.outcomes.iter_mut().zip(run.applies.iter().zip(&run.decides)) {
        outcome.finish(*flags.0, *flags.1);
    }
    Ok(run.outcomes)
}

struct Run<'a> {
    cluster: &'a Cluster,
    view: View,
    ports: PortSet,
    reach: Reach<'a>,
    lines: &'a [Assertion],
    /// The ports that each line applies to.
    wanted: Vec<PortSet>,
    families: Vec<Family>,
    default: Option<Verdict>,
    outcomes: Vec<Outcome>,
    applies: Vec<bool>,
    decides: Vec<bool>,
}

impl Run<'_> {
    /// Evaluates all connections between two cells, once for each relation that members can have.
    fn pair(&mut self, from: &Cell, to: &Cell) {
        for (source, destination, exempt) in related(from, to) {
            let lines = self.lines.iter().enumerate();
            let verdicts: Vec<Option<Verdict>> = lines
                .map(|(at, line)| verdict_of(line, at, (from, source), (to, destination), exempt))
                .collect();
            let default = self.default.filter(|_| !exempt);
            if default.is_none() && verdicts.iter().all(Option::is_none) {
                continue;
            }
            let sides = [(from, source), (to, destination)].map(|(cell, member)| Resolved {
                name: self.name(cell, member),
                parties: vec![Party {
                    name: self.name(cell, member),
                    side: cell.side(member),
                    ports: Vec::new(),
                }],
                notes: Vec::new(),
            });
            let [source, destination] = &sides;
            for pair in groups::pairs(self.cluster, (&self.reach).into(), source, destination) {
                if !pair.meets {
                    continue;
                }
                for flow in &pair.flows {
                    let names = (pair.sources.join(", "), pair.destinations.join(", "));
                    self.flow(flow, &names, &verdicts, default);
                }
            }
        }
    }

    /// Compares a flow with the lines. For each port, the last line that applies to it counts.
    fn flow(
        &mut self,
        (source, destination): &(Endpoint, Endpoint),
        names: &(String, String),
        verdicts: &[Option<Verdict>],
        default: Option<Verdict>,
    ) {
        let addresses = [source.address(), destination.address()];
        let family = addresses.into_iter().flatten().next().map(Family::of);
        if family.is_some_and(|family| !self.families.contains(&family)) {
            return;
        }
        let allowed = self.reach.between(source, destination);
        let mut rest = self.ports.clone();
        let own_default = default.map(|verdict| (self.lines.len(), verdict, PortSet::everything()));
        let stated = (0..self.lines.len()).rev().filter_map(|index| {
            let line = self.lines.get(index)?;
            let in_family = line.family.is_none_or(|own| family.is_none_or(|other| own == other));
            let verdict = verdicts.get(index).copied().flatten().filter(|_| in_family)?;
            Some((index, verdict, self.wanted.get(index)?.clone()))
        });
        let stated: Vec<_> = stated.chain(own_default).collect();
        for (index, verdict, wanted) in stated {
            if let Some(applies) = self.applies.get_mut(index) {
                *applies = true;
            }
            let wanted = wanted.intersection(&rest);
            if wanted.is_empty() {
                continue;
            }
            rest = rest.difference(&wanted);
            let wrong = match verdict {
                Verdict::Allowed => wanted.difference(&allowed),
                Verdict::Denied => wanted.intersection(&allowed),
            };
            if let Some(decides) = self.decides.get_mut(index) {
                *decides = true;
            }
            let Some(outcome) = self.outcomes.get_mut(index) else { continue };
            outcome.connections += 1;
            if !wrong.is_empty() {
                let asked = (self.cluster, self.view);
                outcome.fail(|| failure(asked, (source, destination), names, verdict, wrong));
            }
        }
    }

    /// The name of a member, and how many members are similar.
    fn name(&self, cell: &Cell, member: &Member) -> String {
        let more = cell.members.len() - 1;
        let name = match (&member.place, &cell.kind) {
            (Place::Pod(key), _) => self.cluster.pod_ref(key),
            (Place::External, CellKind::Outside(_, set)) => crate::output::words::addresses(set),
            (Place::Node(_) | Place::External, _) => member.place.to_string(),
        };
        if more > 0 { format!("{name} and {more} like it") } else { name }
    }
}

/// The verdict that line `index` states for a connection between members of two cells.
pub(super) fn verdict_of(
    line: &Assertion,
    index: usize,
    (from, source): (&Cell, &Member),
    (to, destination): (&Cell, &Member),
    exempt: bool,
) -> Option<Verdict> {
    let relative = |groups: &[Group], this, other| {
        groups.iter().any(|group| is_relative(group) && group.holds_member(this, other))
    };
    let in_from = relative(&line.from, source, destination);
    let in_to = relative(&line.to, destination, source);
    if exempt {
        let exempts =
            |groups: &[Group], side| groups.iter().any(|group| group.names_exempt_pairs(side));
        let by_source = in_from && exempts(&line.from, End::Source);
        let by_destination = in_to && exempts(&line.to, End::Destination);
        if !by_source && !by_destination {
            return None;
        }
    }
    let held = |all: &[bool]| *all.get(index).expect("one for each line");
    line.says(in_from || held(&from.from), in_to || held(&to.to))
}

fn failure(
    (cluster, view): (&Cluster, View),
    (source, destination): (&Endpoint, &Endpoint),
    (from, to): &(String, String),
    expected: Verdict,
    ports: PortSet,
) -> Failure {
    let first = ports.iter().next();
    let traffic =
        first.map_or(Traffic::Other, |(protocol, range)| Traffic::Port(protocol, range.first()));
    let flow = Flow { source: source.clone(), destination: destination.clone(), traffic };
    let explanation = explain_as(&cluster.world, &flow, view);
    let why = reasons(cluster, &flow, &explanation, from, to);
    Failure {
        source: from.clone(),
        destination: to.clone(),
        expected,
        ports,
        flow,
        explanation,
        why,
    }
}

/// One pair of members for each relation that members of two cells can have, and whether no policy
/// can deny its connections. Empty where neither end is a pod.
pub(super) fn related<'c>(from: &'c Cell, to: &'c Cell) -> Vec<(&'c Member, &'c Member, bool)> {
    let first = |cell: &'c Cell| cell.members.first();
    let on = |cell: &'c Cell, node: Option<&String>, own: bool| {
        cell.members.iter().find(|member| (member.node.as_ref() == node) == own)
    };
    match (&from.kind, &to.kind) {
        (CellKind::Pods(_), CellKind::Pods(_)) => {
            let Some(source) = first(from) else { return Vec::new() };
            let itself = to.members.iter().find(|member| member.place == source.place);
            let other = to.members.iter().find(|member| member.place != source.place);
            let itself = itself.map(|same| (source, same, true));
            itself.into_iter().chain(other.map(|other| (source, other, false))).collect()
        }
        (CellKind::Host(_), CellKind::Pods(_)) => {
            let Some(source) = first(from) else { return Vec::new() };
            let node = source.node.as_ref();
            let own = on(to, node, true).map(|member| (source, member, true));
            own.into_iter().chain(on(to, node, false).map(|m| (source, m, false))).collect()
        }
        (CellKind::Pods(_), CellKind::Host(_)) => {
            let Some(target) = first(to) else { return Vec::new() };
            let node = target.node.as_ref();
            let own = on(from, node, true).into_iter().chain(on(from, node, false));
            own.map(|member| (member, target, false)).collect()
        }
        (CellKind::Outside(..), CellKind::Pods(_)) | (CellKind::Pods(_), CellKind::Outside(..)) => {
            first(from).zip(first(to)).map(|(from, to)| (from, to, false)).into_iter().collect()
        }
        (CellKind::Host(_) | CellKind::Outside(..), CellKind::Host(_) | CellKind::Outside(..)) => {
            Vec::new()
        }
    }
}

/// The ports that a line applies to: every port when it names none.
pub(super) fn wanted(line: &Assertion) -> PortSet {
    let Some(all) = &line.ports else { return PortSet::everything() };
    let mut set = PortSet::default();
    for ports in all {
        match ports {
            LinePorts::One(port) => set.add(&PortSet::of(port.traffic())),
            LinePorts::All(protocol) => {
                set.insert(*protocol, PortRange::new(1, u16::MAX).unwrap_or(PortRange::single(1)));
            }
            LinePorts::Range(protocol, first, last) => {
                if let Ok(range) = PortRange::new(*first, *last) {
                    set.insert(*protocol, range);
                }
            }
        }
    }
    set
}
