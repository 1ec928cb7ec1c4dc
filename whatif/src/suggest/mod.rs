//! The least NetworkPolicies that allow given connections, tried before they are shown.
//!
//! ```text
//! asked ──► links: sources and destinations that policies treat alike
//! links ──► what each direction lacks ──► draft: policies per workload and direction
//!             ▲                              │
//!             └── lacking again ◄── the world with the policies
//! ```
//!
//! A policy isolates the pods that it selects, so connections that were allowed before may need
//! rules too. If a connection is denied although a rule was written for it, no NetworkPolicy can
//! allow it.

pub mod ask;
mod denials;
mod draft;

use std::collections::BTreeSet;

use policy_engine::cidr::CidrSet;
use policy_engine::direction::{Direction, PerDirection};
use policy_engine::evaluate::evaluate_as;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::{Change, PodKey};
use policy_engine::reach::{PortSet, Reach};
use policy_engine::tier::View;
use policy_engine::words;
use policy_engine::world::World;

use self::draft::{Looks, Need, drafts};
use crate::advice::effects::{Wish, effects};
use crate::advice::{self, Effects, split};
use crate::endpoint::{Party, Resolved, Side};
use crate::judge::Views;
use crate::judge::groups::{Pair, pairs};
use crate::model::Cluster;

/// Connections that have to be allowed.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Their name in answers.
    pub name: String,
    /// The sources.
    pub source: Resolved,
    /// The destinations; their own ports do not count.
    pub destination: Resolved,
    /// The ports.
    pub ports: PortSet,
}

/// NetworkPolicies that allow what was asked for.
#[derive(Clone, Default, Debug)]
pub struct Suggestion {
    /// The YAML documents.
    pub policies: Vec<String>,
    /// The result for each question, in their order.
    pub outcomes: Vec<Outcome>,
    /// The other connections that the policies change.
    pub effects: Effects,
}

/// The result for a connection that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was allowed, and still is allowed.
    Unchanged,
    /// The policies allow it.
    Added,
    /// No NetworkPolicy can allow it, or these ports of it. The texts are the reasons.
    Impossible(PortSet, BTreeSet<String>),
}

/// Sources and destinations that policies treat alike.
struct Link {
    /// The index of the question.
    asked: usize,
    source: Resolved,
    destination: Resolved,
    /// The addresses that an external side stands for, if one is external.
    outside: Option<CidrSet>,
    ports: PortSet,
    /// The ports for which rules are written.
    needs: PerDirection<PortSet>,
}

/// The ports that one direction of a link denies.
struct Lack {
    direction: Direction,
    ports: PortSet,
    reason: String,
}

/// The fewest policies that allow `asked`, now and if the policies in audit were enforced.
#[must_use]
pub fn suggest(cluster: &mut Cluster, asked: &[Asked]) -> Suggestion {
    let pods: BTreeSet<PodKey> = asked
        .iter()
        .flat_map(|one| one.source.parties.iter().chain(&one.destination.parties))
        .filter_map(|party| party.side.pod().cloned())
        .collect();
    let mut suggestion =
        Suggestion { outcomes: vec![Outcome::Unchanged; asked.len()], ..Suggestion::default() };
    let mut links = links(cluster, &pods, asked, &mut suggestion.outcomes);
    let looks = Looks::new(&cluster.world);
    loop {
        let needs: Vec<Need<'_>> = links.iter().flat_map(Link::needs).collect();
        suggestion.policies = drafts(cluster, &looks, &needs);
        let lacks = in_world_with(cluster, &suggestion.policies, |cluster| {
            let view = |view| Reach::among(&cluster.world, view, &pods);
            let enforced = view(View::Enforced);
            let audited = cluster.world.has_audit().then(|| view(View::Audited));
            let views = Views { enforced: &enforced, audited: audited.as_ref() };
            links.iter().map(|link| link.lacks(cluster, views)).collect::<Vec<_>>()
        });
        if lacks.iter().all(Vec::is_empty) {
            break;
        }
        for (link, lacks) in links.iter_mut().zip(lacks) {
            link.take(&lacks, &mut suggestion.outcomes);
        }
    }
    for link in &links {
        let needs_any = !link.needs.ingress.is_empty() || !link.needs.egress.is_empty();
        let outcome = suggestion.outcomes.get_mut(link.asked);
        if let Some(outcome) = outcome.filter(|one| needs_any && **one == Outcome::Unchanged) {
            *outcome = Outcome::Added;
        }
    }
    suggestion.effects = changes(cluster, &suggestion.policies, &links);
    suggestion
}

/// What the policies change besides the connections that were asked for.
fn changes(cluster: &Cluster, policies: &[String], links: &[Link]) -> Effects {
    let Some(world) = advice::with(&cluster.world, &policies.join("---\n")) else {
        return Effects::default();
    };
    let sides = |resolved: &Resolved| resolved.parties.iter().map(|p| p.side.clone()).collect();
    let wish = |link: &Link| Wish {
        sources: sides(&link.source),
        destinations: sides(&link.destination),
        outside: link.outside.clone(),
        ports: link.ports.clone(),
    };
    let wishes: Vec<Wish> = links.iter().map(wish).collect();
    let (before, after) = (Reach::new(&cluster.world), Reach::new(&world));
    effects(cluster, &before, (&world, &after), &wishes)
}

/// Runs a question in the cluster with some policies, and removes them again.
fn in_world_with<T>(
    cluster: &mut Cluster,
    policies: &[String],
    ask: impl FnOnce(&Cluster) -> T,
) -> T {
    let changes = advice::changes(&policies.join("---\n")).unwrap_or_default();
    changes.iter().for_each(|change| cluster.world.apply(change.clone()));
    let answer = ask(cluster);
    for change in changes {
        if let Change::Policy(name, _) = change {
            cluster.world.apply(Change::Policy(name, None));
        }
    }
    answer
}

fn links(
    cluster: &Cluster,
    pods: &BTreeSet<PodKey>,
    asked: &[Asked],
    outcomes: &mut [Outcome],
) -> Vec<Link> {
    let view = |view| Reach::among(&cluster.world, view, pods);
    let enforced = view(View::Enforced);
    let audited = cluster.world.has_audit().then(|| view(View::Audited));
    let views = Views { enforced: &enforced, audited: audited.as_ref() };
    let mut links = Vec::new();
    for (number, one) in asked.iter().enumerate() {
        for pair in pairs(cluster, views, &one.source, &one.destination) {
            if !pair.meets {
                let reason = "the two sides have no address family in common".to_owned();
                impossible(outcomes, number, &one.ports, reason);
                continue;
            }
            links.push(Link::new(number, one, &pair));
        }
    }
    links
}

fn impossible(outcomes: &mut [Outcome], asked: usize, ports: &PortSet, reason: String) {
    let Some(outcome) = outcomes.get_mut(asked) else { return };
    match outcome {
        Outcome::Impossible(all, reasons) => {
            all.add(ports);
            reasons.insert(reason);
        }
        Outcome::Unchanged | Outcome::Added => {
            *outcome = Outcome::Impossible(ports.clone(), [reason].into());
        }
    }
}

impl Link {
    fn new(asked: usize, one: &Asked, pair: &Pair) -> Self {
        let side = |sides: &[Side], name: &str| {
            let party = |side: &Side| Party {
                name: name.to_owned(),
                side: match (side, &pair.outside) {
                    (Side::Outside(_), Some(set)) => Side::Outside(set.clone()),
                    _ => side.clone(),
                },
                ports: Vec::new(),
            };
            let parties = sides.iter().map(party).collect();
            Resolved { name: name.to_owned(), parties, notes: Vec::new() }
        };
        let (sources, destinations) = &pair.between;
        Self {
            asked,
            source: side(sources, &one.source.name),
            destination: side(destinations, &one.destination.name),
            outside: pair.outside.clone(),
            ports: one.ports.clone(),
            needs: PerDirection::new(|_| PortSet::default()),
        }
    }

    fn needs(&self) -> impl Iterator<Item = Need<'_>> {
        Direction::BOTH.into_iter().filter_map(|direction| {
            let ports = self.needs.get(direction);
            let (subjects, peers) = self.sides(direction);
            let outside = self.outside.as_ref();
            (!ports.is_empty()).then_some(Need { direction, subjects, peers, outside, ports })
        })
    }

    /// The subjects of the policies of a direction, and their peers.
    fn sides(&self, direction: Direction) -> (&Resolved, &Resolved) {
        match direction {
            Direction::Ingress => (&self.destination, &self.source),
            Direction::Egress => (&self.source, &self.destination),
        }
    }

    /// The denied ports of a link, in each direction.
    fn lacks(&self, cluster: &Cluster, views: Views<'_, '_>) -> Vec<Lack> {
        let mut lacks = Vec::new();
        let all = pairs(cluster, views, &self.source, &self.destination);
        for (source, destination) in all.iter().flat_map(|pair| &pair.flows) {
            let reaches = [(Some(views.enforced), View::Enforced), (views.audited, View::Audited)];
            for (reach, view) in reaches {
                let Some(reach) = reach else { continue };
                for direction in Direction::BOTH {
                    let (subject, peer) = match direction {
                        Direction::Ingress => (destination, source),
                        Direction::Egress => (source, destination),
                    };
                    let allowed = reach.allowed(direction, subject, peer);
                    let ports = self.ports.difference(&allowed);
                    if !ports.is_empty() {
                        let sides = (source, destination);
                        let reason = self.reason(&cluster.world, sides, direction, &ports, view);
                        lacks.push(Lack { direction, ports, reason });
                    }
                }
            }
        }
        lacks
    }

    /// The reason why a flow is denied.
    fn reason(
        &self,
        world: &World,
        (source, destination): (&Endpoint, &Endpoint),
        direction: Direction,
        ports: &PortSet,
        view: View,
    ) -> String {
        let (_, peers) = self.sides(direction);
        for party in &peers.parties {
            if split(world, std::slice::from_ref(&party.side), self.outside.as_ref()).is_none() {
                return format!(
                    "an ipBlock is needed, and the address of {} is not known",
                    peers.name
                );
            }
        }
        let traffic = ports.iter().next();
        let traffic = traffic
            .map_or(Traffic::Other, |(protocol, range)| Traffic::Port(protocol, range.first()));
        let flow = Flow { source: source.clone(), destination: destination.clone(), traffic };
        let verdict = evaluate_as(world, &flow, view);
        let decision = verdict.decision(direction);
        let side = direction.as_str().to_lowercase();
        let audit = if view == View::Audited { ", if policies in audit are enforced" } else { "" };
        if decision.decided_by.is_empty() {
            format!("{side}: {}; no rule allows it{audit}", words::isolated(decision))
        } else {
            format!("{side}: {}{audit}", words::decided(decision))
        }
    }

    /// Records the denied ports: they need rules. If they have rules, they cannot be allowed.
    fn take(&mut self, lacks: &[Lack], outcomes: &mut [Outcome]) {
        let had = self.needs.clone();
        for lack in lacks {
            let denied = lack.ports.intersection(had.get(lack.direction));
            let denied = denied.intersection(&self.ports);
            if !denied.is_empty() {
                self.ports = self.ports.difference(&denied);
                impossible(outcomes, self.asked, &denied, lack.reason.clone());
            }
        }
        for lack in lacks {
            let needed = match lack.direction {
                Direction::Ingress => &mut self.needs.ingress,
                Direction::Egress => &mut self.needs.egress,
            };
            needed.add(&lack.ports);
        }
        let possible = |needs: PortSet| needs.intersection(&self.ports);
        self.needs = std::mem::replace(&mut self.needs, had).map(possible);
    }
}
