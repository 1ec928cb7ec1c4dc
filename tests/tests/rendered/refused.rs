//! Whichever sets the kernel refuses: what needs them is denied, everything else is as `evaluate` says,
//! and once it takes them, everything is.
//!
//! The kernel refuses a set because another program uses one of its name, of another type.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{Compiled, Match, Rule, Target, TrafficMatch};
use policy_engine::direction::Direction;
use policy_engine::engine::{Engine, Scope};
use policy_engine::flow::Traffic;
use policy_engine::id::SetId;
use policy_engine::model::Change;
use policy_engine::world;
use portcullis_controller::dataplane::set::Kind;
use portcullis_controller::dataplane::{Dataplane, IptablesVariant, Options, name};
use portcullis_tests::worlds;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::places::Places;
use super::{Printed, expected, fail, flows, in_namespace, output, packet};

/// Each case starts some tools for each set.
const CASES: u32 = 40;

/// Sets of another program under the names of ours, in both families.
struct Foreign(String);

impl Foreign {
    fn new(compiled: &Compiled, refused: &BTreeSet<SetId>) -> Result<Self> {
        let (mut make, mut unmake) = (String::new(), String::new());
        for (id, set) in compiled.sets.iter().filter(|(id, _)| refused.contains(id)) {
            let families = [(Family::V4, "iptables", "inet"), (Family::V6, "ip6tables", "inet6")];
            for (family, iptables, inet) in families {
                let name = name::set(family, Kind::from(set.kind), id);
                let rule = format!("OUTPUT -p tcp -m set --match-set {name} dst");
                writeln!(make, "ipset create {name} hash:net family {inet}")?;
                writeln!(make, "{iptables}-nft -t raw -A {rule}")?;
                writeln!(unmake, "{iptables}-nft -t raw -D {rule}")?;
                // nf_tables releases the set some time after the rule.
                writeln!(unmake, "until ipset destroy {name} 2> /dev/null; do sleep 0.01; done")?;
            }
        }
        output("sh", &["-ec", &make])?;
        Ok(Self(unmake))
    }

    fn remove(self) -> Result<()> {
        output("sh", &["-ec", &self.0]).map(drop)
    }
}

/// What is enforced for `family` without these sets.
fn without(compiled: &Compiled, family: Family, refused: &BTreeSet<SetId>) -> Compiled {
    let mut compiled = compiled.clone();
    for ruleset in compiled.rulesets.values_mut() {
        let ruleset = Arc::make_mut(ruleset);
        let rules = std::mem::take(&mut ruleset.rules).into_iter();
        ruleset.rules = rules.map(|rule| rule_without(rule, family, refused)).collect();
    }
    compiled
}

fn rule_without(rule: Rule, family: Family, refused: &BTreeSet<SetId>) -> Rule {
    let needs = match &rule.matches {
        Match::Peers { labelled, cidrs, .. } => {
            labelled.is_some_and(|set| refused.contains(&set)) && !cidrs.is_whole(family)
        }
        Match::PeerPorts { set } => refused.contains(set),
    };
    if !needs {
        return rule;
    }
    let (traffic, cidrs) = match rule.matches {
        Match::Peers { traffic, cidrs, .. } => (traffic, cidrs),
        Match::PeerPorts { .. } => (TrafficMatch::Any, CidrSet::default()),
    };
    let (cidrs, target) = match rule.target {
        Target::Allow => (cidrs, Target::Allow),
        Target::Deny | Target::Next(_) => (CidrSet::everything(), Target::Deny),
    };
    let matches = Match::Peers { traffic, labelled: None, cidrs };
    Rule { matches, target }
}

fn check(
    changes: Vec<Change>,
    mask: &[bool],
    flows: &[(IpAddr, IpAddr, Traffic)],
) -> Result<(), TestCaseError> {
    let fail = |failure: anyhow::Error| fail(&failure);
    unshare(CloneFlags::CLONE_NEWNET).context("unshare").map_err(fail)?;
    let scope = Scope::Node(worlds::OWN_NODE.into());
    let mut engine = Engine::new(scope, world::Options::default());
    changes.into_iter().for_each(|change| engine.apply(change));
    let update = engine.flush();
    let compiled = engine.compiled();
    let picked = compiled.sets.keys().zip(mask).filter(|(_, is_refused)| **is_refused);
    let refused: BTreeSet<SetId> = picked.map(|(id, _)| *id).collect();
    let foreign = Foreign::new(compiled, &refused).map_err(fail)?;
    let options = Options { variant: IptablesVariant::Nft, denial_log: None, ..Options::default() };
    let mut dataplane = Dataplane::open(options).map_err(|e| fail(e.into()))?;
    let places = Places::new(engine.world());
    dataplane.set_attachments(places.attachments.clone());
    let families = Family::BOTH.map(|family| without(compiled, family, &refused));
    dataplane.enforce(compiled, &update).map_err(|e| fail(e.into()))?;
    let is_denied = families.iter().any(|without| without.rulesets != compiled.rulesets);
    prop_assert!(is_denied || dataplane.denied().is_empty(), "{:?}", dataplane.denied());
    let judge = |without: Option<&[Compiled; 2]>| -> Result<(), TestCaseError> {
        let printed = |address: &str| {
            Printed::read("nft", address.parse().expect("an address")).map_err(fail)
        };
        let printed = [printed("0.0.0.0")?, printed("::")?];
        for (source, destination, traffic) in flows {
            let flow = engine.world().flow(*source, *destination, *traffic);
            let Some((chain, by_policies)) = expected(engine.world(), &flow, None) else {
                continue;
            };
            let family = usize::from(source.is_ipv6());
            let allowed = without.map_or(by_policies.allowed, |without| {
                let allows = |direction, subject: &IpAddr, peer: &IpAddr| {
                    without[family].allows_in(direction, *subject, *peer, *traffic)
                };
                source == destination
                    || allows(Direction::Egress, source, destination)
                        && (chain == "INPUT" || allows(Direction::Ingress, destination, source))
            });
            prop_assert!(by_policies.allowed || !allowed, "{:?} is forbidden", &flow);
            let mut packet = places.at_home(packet(*source, *destination, *traffic));
            packet.destination_translated = source == destination;
            let says = printed[family].says(chain, &packet).map_err(fail)?;
            prop_assert_eq!(says.allowed, allowed, "{:?} in {}", &flow, chain);
        }
        Ok(())
    };
    judge(Some(&families))?;
    foreign.remove().map_err(fail)?;
    // A few at a time; each set is one of each family.
    for _ in 0..2 * refused.len() {
        dataplane.retry_refused(compiled).map_err(|e| fail(e.into()))?;
    }
    prop_assert!(!dataplane.has_refusals() && dataplane.denied().is_empty());
    judge(None)
}

#[test]
fn what_needs_a_refused_set_is_denied_and_everything_else_is_as_evaluate_says() -> Result<()> {
    in_namespace(|| {
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
        let cases = cases.map_or(CASES, |cases: u32| (cases / 30).max(1));
        let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
        let mask = prop::collection::vec(prop::bool::weighted(0.4), 16);
        let strategy = (worlds::history(10..40), mask, flows());
        TestRunner::new(config)
            .run(&strategy, |(changes, mask, flows)| check(changes, &mask, &flows))?;
        Ok(())
    })
}
