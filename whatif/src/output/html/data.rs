//! What the page shows, each name and each set of ports once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::Direction;
use policy_engine::reach::{GroupId, Outside, Reach};
use serde::Serialize;

use crate::output::plan::{because, cause, headline, risk_lines};
use crate::output::words;
use crate::plan::{Causes, Isolation, Kind, Plan};

/// The data block of the page.
#[derive(Serialize)]
pub(super) struct Data {
    headline: String,
    /// What is wrong, with whom, because of what.
    risks: Vec<(String, String, String)>,
    objects: Vec<String>,
    /// Name, namespace, pods, group. The last one stands for outside.
    units: Vec<(Arc<str>, Str, usize, GroupId)>,
    /// Who isolates each group.
    groups: Vec<Policies>,
    /// The group that stands for outside.
    outside: GroupId,
    /// Sets of ports; the first is nothing.
    ports: Vec<String>,
    causes: Vec<Causes>,
    /// Per pair of groups: source, destination, ports before and after, kind, cause or -1.
    cells: Vec<i64>,
}

#[derive(Serialize, Default)]
struct Policies {
    /// Of ingress, of egress.
    before: [Vec<String>; 2],
    after: [Vec<String>; 2],
}

/// Texts and causes by number.
struct Tables {
    ports: Vec<String>,
    numbers: BTreeMap<String, usize>,
    causes: Vec<Causes>,
    cause_numbers: BTreeMap<Causes, usize>,
    cells: Vec<i64>,
}

impl Data {
    pub(super) fn new(plan: &Plan<'_>) -> Self {
        let outside = plan.difference.groups.len();
        let mut tables = Tables::new();
        tables.pairs(plan);
        tables.outside(plan, outside);
        let groups = plan.isolation.iter().map(|Isolation { before, after }| Policies {
            before: before.clone(),
            after: after.clone(),
        });
        let named = plan.units.of_class.iter().enumerate().flat_map(|(group, units)| {
            let unit = move |unit: &crate::model::Unit| {
                (unit.name.clone(), unit.namespace.clone(), unit.pods, group)
            };
            units.iter().map(unit)
        });
        let mut units: Vec<_> = named.collect();
        units.sort();
        // No namespace is called so: its name has a space.
        units.push(("outside the cluster".into(), "the outside".into(), 1, outside));
        let risks = risk_lines(plan).into_iter();
        Self {
            headline: headline(plan),
            risks: risks.map(|(text, who, causes)| (text, who, because(plan, causes))).collect(),
            objects: plan.objects.iter().map(cause).collect(),
            units,
            groups: groups.chain([Policies::default()]).collect(),
            outside,
            ports: tables.ports,
            causes: tables.causes,
            cells: tables.cells,
        }
    }
}

impl Tables {
    fn new() -> Self {
        let nothing = "nothing".to_owned();
        Self {
            ports: vec![nothing.clone()],
            numbers: [(nothing, 0)].into(),
            causes: Vec::new(),
            cause_numbers: BTreeMap::new(),
            cells: Vec::new(),
        }
    }

    fn pairs(&mut self, plan: &Plan<'_>) {
        let because: BTreeMap<(GroupId, GroupId), &Causes> =
            plan.changes.iter().map(|c| ((c.source, c.destination), &c.because)).collect();
        for pair in plan.difference.pairs() {
            let (before, after) = (words::ports(pair.before), words::ports(pair.after));
            let kind = (pair.before != pair.after).then(|| Kind::of(pair.before, pair.after));
            let because = because.get(&(pair.source, pair.destination)).copied();
            self.cell((pair.source, pair.destination), [before, after], kind, because);
        }
    }

    /// One cell for each group and direction, whatever the addresses.
    fn outside(&mut self, plan: &Plan<'_>, outside: GroupId) {
        let (old, new) = (Reach::new(&plan.before.world), Reach::new(&plan.after.world));
        for (id, group) in plan.difference.groups.iter().enumerate() {
            for direction in Direction::BOTH {
                let (before, after) =
                    (group.outside_before(&old, direction), group.outside_after(&new, direction));
                if before.parts.is_empty() && after.parts.is_empty() {
                    continue;
                }
                let changes = plan.external.iter();
                let mut changes = changes.filter(|c| c.group == id && c.direction == direction);
                let causes: BTreeSet<usize> =
                    changes.clone().flat_map(|c| c.because.iter().copied()).collect();
                let causes: Causes = causes.into_iter().collect();
                let kind = match (before.parts.is_empty(), after.parts.is_empty()) {
                    _ if before == after => None,
                    (true, _) => Some(Kind::Opened),
                    (_, true) => Some(Kind::Closed),
                    _ => {
                        let kinds = changes.clone().map(|c| Kind::of(&c.before, &c.after));
                        let (mut gains, mut loses) = (false, false);
                        for kind in kinds {
                            gains |= kind.gains();
                            loses |= kind.loses();
                        }
                        Some(match (gains, loses) {
                            (true, false) => Kind::Widened,
                            (false, true) => Kind::Narrowed,
                            _ => Kind::Changed,
                        })
                    }
                };
                let because = changes.next().map(|_| &causes);
                let pair = match direction {
                    Direction::Ingress => (outside, id),
                    Direction::Egress => (id, outside),
                };
                self.cell(pair, [all(&before), all(&after)], kind, because);
            }
        }
    }

    fn cell(
        &mut self,
        (source, destination): (GroupId, GroupId),
        ports: [String; 2],
        kind: Option<Kind>,
        because: Option<&Causes>,
    ) {
        let cause = because.map_or(-1, |causes| {
            let next = self.causes.len();
            let number = *self.cause_numbers.entry(causes.clone()).or_insert(next);
            if number == next {
                self.causes.push(causes.clone());
            }
            signed(number)
        });
        let [before, after] = ports.map(|text| self.number(text));
        let kind = match kind {
            None => 0,
            Some(Kind::Opened) => 1,
            Some(Kind::Widened) => 2,
            Some(Kind::Changed) => 3,
            Some(Kind::Narrowed) => 4,
            Some(Kind::Closed) => 5,
        };
        self.cells.extend([signed(source), signed(destination), before, after, kind, cause]);
    }

    fn number(&mut self, text: String) -> i64 {
        let next = self.ports.len();
        let number = *self.numbers.entry(text.clone()).or_insert(next);
        if number == next {
            self.ports.push(text);
        }
        signed(number)
    }
}

/// All that is allowed outside: `every port`, or `443/TCP with 10.0.0.0/8; …`.
fn all(outside: &Outside) -> String {
    let part = |(addresses, ports): &(_, _)| {
        let ports = words::ports(ports);
        match words::addresses(addresses) {
            anywhere if anywhere == "anywhere" => ports,
            addresses => format!("{ports} with {addresses}"),
        }
    };
    let parts: Vec<String> = outside.parts.iter().map(part).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
