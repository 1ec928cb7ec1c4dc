//! A plan as JSON, for people at a terminal, and for a pull request.

mod groups;
pub mod json;
mod lines;
mod markdown;
mod summary;
mod text;

pub(super) use lines::risks as risk_lines;
pub use markdown::markdown;
pub use text::text;

use std::collections::BTreeSet;

use policy_engine::direction::Direction;
use policy_engine::words::few;
use schemars::JsonSchema;
use serde::Serialize;

use super::words;
use crate::plan::{Change, Changed, Effect, ExternalChange, How, Plan, Risk, RiskKind};

/// How many pairs change, by kind of change.
#[derive(Serialize, JsonSchema, Clone, Copy, Default, Debug)]
#[schemars(rename = "Summary")]
#[allow(missing_docs)]
pub struct Counts {
    pub opened: usize,
    pub closed: usize,
    pub widened: usize,
    pub narrowed: usize,
    pub changed: usize,
}

impl Counts {
    /// Counts the changes of a plan: between workloads, and with external addresses.
    #[must_use]
    pub fn new(plan: &Plan<'_>) -> Self {
        let mut counts = Self::default();
        for change in &plan.changes {
            counts.add(kind(change), plan.unit_pairs(change).count());
        }
        // Addresses with the same change are one partner, whatever the causes are.
        let partner = |change: &ExternalChange| {
            let (before, after) = (change.before.clone(), change.after.clone());
            (change.group, change.direction, change.nodes.clone(), before, after)
        };
        let partners: BTreeSet<_> = plan.external.iter().map(partner).collect();
        for (group, .., before, after) in partners {
            counts.add(Effect::of(&before, &after), plan.units.of(group).len());
        }
        counts
    }

    fn add(&mut self, kind: Effect, number: usize) {
        *match kind {
            Effect::Opened => &mut self.opened,
            Effect::Closed => &mut self.closed,
            Effect::Widened => &mut self.widened,
            Effect::Narrowed => &mut self.narrowed,
            Effect::Changed => &mut self.changed,
        } += number;
    }

    fn total(self) -> usize {
        self.opened + self.closed + self.widened + self.narrowed + self.changed
    }

    /// `2 opened, 1 closed`; kinds without changes are left out.
    fn words(self) -> String {
        let all = [
            (self.opened, "opened"),
            (self.closed, "closed"),
            (self.widened, "widened"),
            (self.narrowed, "narrowed"),
            (self.changed, "changed"),
        ];
        let said = all.into_iter().filter(|(number, _)| *number > 0);
        said.map(|(number, word)| format!("{number} {word}")).collect::<Vec<_>>().join(", ")
    }
}

fn kind(change: &Change) -> Effect {
    Effect::of(&change.before, &change.after)
}

/// The answer in one line.
pub(super) fn headline(plan: &Plan<'_>) -> String {
    let objects = match plan.objects.len() {
        1 => "1 object differs".to_owned(),
        number => format!("{number} objects differ"),
    };
    if plan.is_same() {
        return match plan.objects.len() {
            0 => "Nothing changes: no object differs.".to_owned(),
            _ => format!("No connection changes; {objects}."),
        };
    }
    let risks = match lines::risks(plan, false).len() {
        0 => "no risk found".to_owned(),
        1 => "1 risk".to_owned(),
        number => format!("{number} risks"),
    };
    format!("{}; {risks}; {objects}.", Counts::new(plan).words())
}

/// An object, how it changes, and where it is written: `networkpolicy/shop/db, …`.
pub(super) fn cause(object: &Changed) -> String {
    let how = how(object.how);
    match &object.origin {
        Some(origin) => format!("{} {how} ({origin})", object.name),
        None => format!("{} {how}", object.name),
    }
}

fn how(how: How) -> &'static str {
    match how {
        How::Added => "added",
        How::Removed => "removed",
        How::Modified => "modified",
        How::Enforced => "enforced",
        How::Audited => "put in audit",
    }
}

/// The names of the causes, without places: `networkpolicy/shop/db`; a few of many.
pub(super) fn because(plan: &Plan<'_>, causes: &[usize]) -> String {
    const SHOWN: usize = 10;
    let objects = causes.iter().filter_map(|number| plan.objects.get(*number));
    let names = objects.map(|object| format!("{} {}", object.name, how(object.how)));
    if causes.len() > SHOWN { few(names, SHOWN) } else { names.collect::<Vec<_>>().join(", ") }
}

/// The meaning of a risk, without its pods.
fn risk(risk: &Risk) -> String {
    match &risk.kind {
        RiskKind::DnsLost(ports) => {
            format!("DNS lost: names can no longer be looked up ({})", words::ports(ports))
        }
        RiskKind::ExternalOpened(addresses, ports) => format!(
            "newly reachable from external addresses: {} from {}",
            words::ports(ports),
            words::addresses(addresses)
        ),
        RiskKind::BackendLost(object, ports, _) => format!(
            "{} loses its backend: none of its clients can connect on {} any more",
            object.titled(),
            words::ports(ports)
        ),
        RiskKind::IsolationLost(Direction::Ingress) => {
            "no policy isolates it for ingress any more: everyone may connect to it".to_owned()
        }
        RiskKind::IsolationLost(Direction::Egress) => {
            "no policy isolates it for egress any more: it may connect to everyone".to_owned()
        }
    }
}

/// Whether an external change is towards the workload.
fn is_incoming(change: &ExternalChange) -> bool {
    change.direction == Direction::Ingress
}

fn word(kind: Effect) -> &'static str {
    match kind {
        Effect::Opened => "opened",
        Effect::Widened => "widened",
        Effect::Changed => "changed",
        Effect::Narrowed => "narrowed",
        Effect::Closed => "closed",
    }
}
