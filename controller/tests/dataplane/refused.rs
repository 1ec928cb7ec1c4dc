//! Sets that the kernel refuses: what needs them denies, everything else is applied in the same round.
//!
//! Another program has a set of the name that is needed, of another type, and uses it in a rule.

use std::collections::BTreeSet;
use std::error::Error as _;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{Rule, Target, TrafficMatch};
use policy_engine::direction::Direction;
use policy_engine::id::{RulesetId, SetId};
use policy_engine::tier::Tier;
use portcullis_controller::dataplane::attachment::{Attachment, Attachments, InterfaceName};
use portcullis_controller::dataplane::name::{self, SetName};
use portcullis_controller::dataplane::set::Kind;
use portcullis_controller::dataplane::{Dataplane, IptablesVariant, Options};

use crate::netns::Netns;
use crate::world::{World, allow, ip, pod, rules_changed, settle};
use crate::{command, each_variant, save};

/// The set of another program, under one of our names.
struct Foreign<'a> {
    node: &'a Netns,
    name: SetName,
    iptables: &'static str,
}

impl<'a> Foreign<'a> {
    fn new(node: &'a Netns, variant: IptablesVariant, family: Family, set: &SetId) -> Self {
        Self::named(node, variant, family, name::set(family, Kind::Address, set))
    }

    fn named(node: &'a Netns, variant: IptablesVariant, family: Family, name: SetName) -> Self {
        let iptables = command(variant, family);
        node.sh(&format!(
            "ipset create {name} bitmap:port range 0-9
             {iptables} -t raw -A OUTPUT -p tcp -m set --match-set {name} dst"
        ));
        Self { node, name, iptables }
    }

    fn remove(self) {
        let Self { node, name, iptables } = self;
        // nf_tables releases the set some time after the rule.
        node.sh(&format!(
            "{iptables} -t raw -F OUTPUT
             for i in $(seq 100); do ipset destroy {name} && exit; sleep 0.05; done; exit 1"
        ));
    }
}

/// Pods of two tenants: each has a set that an allow-rule of it needs.
fn tenants() -> (World, [(SetId, RulesetId); 2]) {
    let (world, tenants) = many_tenants(2);
    (world, [tenants[0], tenants[1]])
}

fn many_tenants(count: u8) -> (World, Vec<(SetId, RulesetId)>) {
    let mut world = World::default();
    let tenants = (1..=count).map(|tenant| {
        let members = [format!("10.9.{tenant}.1"), format!("fd00:9::{tenant}:1")];
        let set = world.set(&format!("{tenant}"), members.iter().map(|member| pod(member)));
        let rule = allow(TrafficMatch::Any, Some(set), CidrSet::default());
        let ruleset = world.ruleset(Direction::Ingress, vec![rule]);
        for address in [format!("10.1.0.{tenant}"), format!("fd00:1::{tenant}")] {
            world.endpoint(ip(&address), ruleset);
        }
        (set, ruleset)
    });
    let tenants = tenants.collect();
    (world, tenants)
}

fn denied(dataplane: &Dataplane) -> BTreeSet<(Family, RulesetId)> {
    dataplane.denied().keys().copied().collect()
}

/// The rules of the chain of a ruleset, and of all that are in front of its old ones.
fn rules(saved: &str, ruleset: RulesetId) -> Vec<&str> {
    let chain = format!("-A PORTCULLIS-R{ruleset} ");
    let rules = saved.lines().filter_map(|line| line.split_once(&chain));
    rules.map(|(_, rule)| rule).take_while(|rule| *rule != "-j RETURN").collect()
}

const DENY: [&str; 1] = ["-g PORTCULLIS-DENY-IN-POLICY"];

#[test]
fn a_refused_set_denies_its_tenant_and_everything_else_is_applied_in_the_same_round() {
    each_variant(|variant, family| {
        let node = Netns::new();
        let (mut world, [(bad, closed), (good, open)]) = tenants();
        let foreign = Foreign::new(&node, variant, family, &bad);
        node.enter(|| {
            let options = Options { variant, ..Options::default() };
            let mut dataplane = Dataplane::open(options).unwrap();
            let update = rules_changed();
            settle(&mut dataplane, &world.compiled, &update).unwrap();
            let (bad_name, good_name) = (foreign.name, name::set(family, Kind::Address, &good));
            let check = |dataplane: &Dataplane, count: usize| {
                assert_eq!(denied(dataplane), BTreeSet::from([(family, closed)]));
                assert!(dataplane.has_refusals());
                let why = dataplane.denied().values().next().unwrap().to_string();
                assert!(why.contains("Set cannot be created"), "{why}");
                let saved = node.sh(&format!("{}-save", command(variant, family)));
                assert_eq!(rules(&saved, closed), DENY, "{saved}");
                assert_eq!(rules(&saved, open).len(), 2, "{saved}");
                let members = node.sh(&format!("ipset save {good_name} | grep -c ^add"));
                assert_eq!(members.trim(), count.to_string());
                assert!(node.sh(&format!("ipset save {bad_name}")).contains("bitmap:port"));
            };
            check(&dataplane, 1);

            // Members of the other tenant, and rules, go on while the set is refused.
            let more = if family == Family::V4 { "10.9.2.2" } else { "fd00:9::2:2" };
            let update = world.change(good, &[pod(more)], &[]);
            dataplane.enforce(&world.compiled, &update).unwrap();
            check(&dataplane, 2);
            let update = world.change(bad, &[pod(more)], &[]);
            dataplane.enforce(&world.compiled, &update).unwrap();
            dataplane.retry_refused(&world.compiled).unwrap();
            check(&dataplane, 2);
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
            check(&dataplane, 2);

            foreign.remove();
            dataplane.retry_refused(&world.compiled).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            assert_eq!((denied(&dataplane), dataplane.has_refusals()), (BTreeSet::new(), false));
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
            let saved = save(&node, variant);
            assert_eq!(rules(&saved, closed).len(), 4, "of both families: {saved}");
        });
    });
}

/// Other changes wait for a retry, so it must not take long.
#[test]
fn of_many_refused_sets_a_retry_tries_a_few() {
    const SETS: u8 = 40;
    const AT_ONCE: usize = 8;
    let (node, variant) = (Netns::new(), IptablesVariant::Nft);
    let (world, tenants) = many_tenants(SETS);
    let foreign: Vec<Foreign<'_>> =
        tenants.iter().map(|(set, _)| Foreign::new(&node, variant, Family::V4, set)).collect();
    node.enter(|| {
        let mut dataplane = Dataplane::open(Options { variant, ..Options::default() }).unwrap();
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        assert_eq!(denied(&dataplane).len(), usize::from(SETS));
        for round in 0..2 {
            let mut tried = Vec::new();
            while !tried.last().is_some_and(|(_, is_last)| *is_last) {
                let report = dataplane.retry_refused(&world.compiled).unwrap();
                tried.push((report.sets_created, report.retried_all));
            }
            let counts: Vec<usize> = tried.iter().map(|(count, _)| *count).collect();
            assert_eq!(counts, [AT_ONCE; 5], "round {round}");
            assert_eq!(denied(&dataplane).len(), usize::from(SETS), "still refused");
        }
        foreign.into_iter().for_each(Foreign::remove);
        while !dataplane.retry_refused(&world.compiled).unwrap().retried_all {}
        assert!(!dataplane.has_refusals());
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
    });
}

#[test]
fn without_the_set_of_the_nodes_own_pods_a_family_denies_what_needs_a_set() {
    each_variant(|variant, family| {
        let node = Netns::new();
        let (world, tenants) = tenants();
        let name = name::attached_set(family);
        let foreign = Foreign::named(&node, variant, family, name);
        node.enter(|| {
            let mut dataplane = Dataplane::open(Options { variant, ..Options::default() }).unwrap();
            let interface = InterfaceName::new("cali1").unwrap();
            let at = Attachment { interface, bridge: None };
            let addresses = ["10.1.0.1", "fd00:1::1"].map(|address| (ip(address), at)).into();
            dataplane.set_attachments(Attachments { addresses, ..Attachments::default() });
            let error = dataplane.enforce(&world.compiled, &rules_changed()).unwrap_err();
            assert_eq!(error.family(), Some(family), "{error}");
            for of in Family::BOTH {
                let expected = if of == family { 1 } else { 2 };
                let saved = node.sh(&format!("{}-save", command(variant, of)));
                for (_, ruleset) in tenants {
                    assert_eq!(rules(&saved, ruleset).len(), expected, "{of:?}: {saved}");
                }
                let is_compared =
                    saved.contains(&format!("--match-set {} src", name::attached_set(of)));
                assert_eq!(is_compared, of != family, "{of:?}: {saved}");
            }
            assert!(error.source().unwrap().to_string().starts_with("ipsets cannot be used"));
            foreign.remove();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
        });
    });
}

#[test]
fn a_rule_that_denies_members_of_a_refused_set_denies_everybody() {
    each_variant(|variant, family| {
        let node = Netns::new();
        let mut world = World::default();
        let set = world.set("denied", [pod("10.9.1.1"), pod("fd00:9::1")]);
        let matches = allow(TrafficMatch::Any, Some(set), CidrSet::default());
        let rules_of = vec![Rule { matches, target: Target::Deny }];
        let id = world.tier(Direction::Ingress, Tier::Admin, rules_of, Target::Allow);
        world.endpoint(ip("10.1.0.1"), id).endpoint(ip("fd00:1::1"), id);
        let _foreign = Foreign::new(&node, variant, family, &set);
        node.enter(|| {
            let options = Options { variant, ..Options::default() };
            let mut dataplane = Dataplane::open(options).unwrap();
            dataplane.enforce(&world.compiled, &rules_changed()).unwrap();
            assert_eq!(denied(&dataplane), BTreeSet::from([(family, id)]));
            let saved = node.sh(&format!("{}-save", command(variant, family)));
            assert_eq!(rules(&saved, id)[0], "-g PORTCULLIS-DENY-IN-ADMIN", "{saved}");
        });
    });
}
