//! One change on a node with many rulesets: from what the engine compiled to what has to be written.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{
    AddressSet, Compiled, Endpoint, Match, Member, Rule, Ruleset, SetKind, Target, TrafficMatch,
    Update,
};
use policy_engine::direction::{Direction, PerDirection};
use policy_engine::id::{ContentHasher, RulesetId, SetId};
use policy_engine::model::PodKey;
use policy_engine::port::{PortRange, Protocol};
use policy_engine::tier::Tier;
use portcullis_controller::dataplane::applied::Applied;
use portcullis_controller::dataplane::attachment::Attachments;
use portcullis_controller::dataplane::desired::{Desired, Wanted};
use portcullis_controller::dataplane::diff::{Terms, diff};
use portcullis_controller::dataplane::options::Options;
use portcullis_controller::dataplane::refusals::Refusals;

/// Dual-stack pods of the node, if there are as many rulesets.
const PODS: u32 = 250;

/// How many changes the median is of.
const CHANGES: u32 = 21;

/// Prints what one change costs: with what is desired made again and compared as a whole, as it was
/// before it was kept, and as it is.
pub(crate) fn print() {
    println!();
    println!("{:>9} {:>18} {:>18} {:>9}", "rulesets", "made again, ms", "followed, ms", "compared");
    for rulesets in [10, 100, 1_000, 10_000] {
        let (made_again, followed, compared) = one_change(rulesets);
        let [made_again, followed] = [made_again, followed].map(|took| took.as_secs_f64() * 1e3);
        println!("{rulesets:>9} {made_again:>18.2} {followed:>18.2} {compared:>9}");
    }
}

/// With the defaults of everything else.
fn wanted(compiled: &Compiled) -> Wanted<'_> {
    static ATTACHMENTS: LazyLock<Attachments> = LazyLock::new(Attachments::default);
    static OPTIONS: LazyLock<Options> = LazyLock::new(Options::default);
    static REFUSALS: LazyLock<Refusals> = LazyLock::new(Refusals::default);
    let (attachments, options, refusals) = (&ATTACHMENTS, &OPTIONS, &REFUSALS);
    Wanted { compiled, attachments, options, refusals }
}

fn one_change(rulesets: u32) -> (Duration, Duration, usize) {
    let mut compiled = world(rulesets);
    let mut desired = Desired::new(wanted(&compiled), &Family::BOTH);
    let update = Update { rules_changed: true, ..Update::default() };
    let nothing = Applied::default();
    let all = desired.all_touched(&nothing);
    let terms = Terms { update: &update, sets: &compiled.sets, initial_maxelem: 65_536 };
    let (_, mut applied) = diff(&nothing, &desired, &all, &terms);
    let (mut made_again, mut followed, mut compared) = (Vec::new(), Vec::new(), 0);
    for number in 0..CHANGES {
        let id = add(&mut compiled, Direction::Ingress, vec![allow(60_000 + number, None)]);
        let pod = compiled.endpoints.values_mut().next().expect("there are pods");
        pod.enforced.ingress = Some(id);
        let terms = Terms { update: &update, sets: &compiled.sets, initial_maxelem: 65_536 };

        let begun = Instant::now();
        let all_again = Desired::new(wanted(&compiled), &Family::BOTH);
        let (plan, _) = diff(&applied, &all_again, &all_again.all_touched(&applied), &terms);
        made_again.push(begun.elapsed());

        let begun = Instant::now();
        let touched = desired.follow(wanted(&compiled));
        let (same, after) = diff(&applied, &desired, &touched, &terms);
        followed.push(begun.elapsed());

        assert_eq!(plan, same, "both write the same");
        compared = touched.chains.len();
        for (family, table) in after.tables {
            let now = applied.tables.entry(family).or_default();
            now.chains.extend(table.chains);
            let gone = same.tables.get(&family).into_iter().flat_map(|change| &change.delete);
            gone.for_each(|chain| drop(now.chains.remove(chain)));
        }
        same.destroy.iter().for_each(|set| drop(applied.sets.remove(set)));
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    (median(&mut made_again), median(&mut followed), compared)
}

/// Pods that are isolated in both directions, each by a ruleset of its own that leads to others, so
/// that there are `rulesets`, each with a set.
fn world(rulesets: u32) -> Compiled {
    let mut compiled = Compiled { sets: BTreeMap::new(), ..Compiled::default() };
    let pods = PODS.min(rulesets / 2);
    let per_chain = rulesets / (pods * 2);
    let mut number = 0;
    for pod in 0..pods {
        let mut of_pod = |direction| {
            let mut rules = Vec::new();
            for at in 1..per_chain {
                number += 1;
                let set = add_set(&mut compiled, number);
                let next = add(&mut compiled, direction, vec![allow(at, Some(set))]);
                rules.push(Rule { target: Target::Next(next), ..allow(at, None) });
            }
            number += 1;
            rules.push(allow(9_000, Some(add_set(&mut compiled, number))));
            Some(add(&mut compiled, direction, rules))
        };
        let (ingress, egress) = (of_pod(Direction::Ingress), of_pod(Direction::Egress));
        let enforced = PerDirection { ingress, egress };
        let endpoint = Endpoint {
            pod: PodKey::new("shop", &format!("pod-{pod}")),
            enforced,
            audited: PerDirection::default(),
        };
        let v4 = IpAddr::from(Ipv4Addr::from(0x0ac8_0001 + pod));
        let v6 = IpAddr::from(Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(pod) + 1));
        compiled.endpoints.extend([(v4, endpoint.clone()), (v6, endpoint)]);
    }
    compiled
}

fn add_set(compiled: &mut Compiled, number: u32) -> SetId {
    let mut hasher = ContentHasher::new("set");
    hasher.text(&number.to_string());
    let id = SetId::new(hasher.finish());
    let peers = (0..10).map(|peer| Ipv4Addr::from(0x0a00_0000 + number * 16 + peer));
    let members = peers.map(|peer| Member::Address(peer.into())).collect();
    compiled.sets.insert(id, AddressSet { kind: SetKind::Addresses, members });
    id
}

fn add(compiled: &mut Compiled, direction: Direction, rules: Vec<Rule>) -> RulesetId {
    let (tier, otherwise) = (Tier::NetworkPolicy, Target::Deny);
    let ruleset = Ruleset { direction, tier, rules, otherwise };
    let mut hasher = ContentHasher::new("ruleset");
    hasher.text(&format!("{ruleset:?}"));
    let id = RulesetId::new(hasher.finish());
    compiled.rulesets.insert(id, Arc::new(ruleset));
    id
}

fn allow(port: u32, labelled: Option<SetId>) -> Rule {
    let port = u16::try_from(port).expect("a port");
    let traffic =
        TrafficMatch::Ports(Protocol::Tcp, vec![PortRange::new(port, port).expect("one port")]);
    let cidrs = if labelled.is_some() { CidrSet::default() } else { CidrSet::everything() };
    Rule { matches: Match::Peers { traffic, labelled, cidrs }, target: Target::Allow }
}
