//! Members of sets: deltas, growth, and what crashes and strangers leave behind.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use policy_engine::cidr::{CidrSet, Family};
use policy_engine::compiled::{Match, Member, TrafficMatch, Update};
use policy_engine::direction::{Direction, PerDirection};
use policy_engine::engine::{Engine, Scope};
use policy_engine::id::SetId;
use policy_engine::labels::Labels;
use policy_engine::model::{Change, Pod, PodKey};
use policy_engine::policy::{Namespaces, Peer, Peers, PodPeer, Policy, Ports, Rule};
use policy_engine::port::Protocol;
use policy_engine::selector::Selector;
use portcullis_controller::dataplane::backend::iptables::sets;
use portcullis_controller::dataplane::drift::{Drift, How};
use portcullis_controller::dataplane::name::{self, SetName};
use portcullis_controller::dataplane::set::{Element, Kind};
use portcullis_controller::dataplane::{
    Backend, Dataplane, IptablesVariant, MEMBERS_AT_ONCE, Options,
};

use crate::VARIANTS;
use crate::netns::Netns;
use crate::world::{World, allow, ip, pod, rules_changed, service, settle};

fn options(variant: IptablesVariant) -> Options {
    Options { variant, initial_maxelem: 4, ..Options::default() }
}

/// A pod in each family whose ingress names a set of addresses and one of ports.
fn world() -> (World, SetId, SetId) {
    let mut world = World::default();
    let pods = world.set("pods", [pod("10.1.0.1"), pod("fd00:1::1")]);
    let ports = world.set("ports", [service("10.1.0.1", Protocol::Tcp, 80)]);
    let rules = vec![
        allow(TrafficMatch::Any, Some(pods), CidrSet::default()),
        Match::PeerPorts { set: ports },
    ];
    let id = world.ruleset(Direction::Ingress, rules);
    world.endpoint(ip("10.1.0.2"), id).endpoint(ip("fd00:1::2"), id);
    (world, pods, ports)
}

fn members(node: &Netns, set: SetName) -> BTreeSet<String> {
    let save = node.sh(&format!("ipset save {set}"));
    let added = save.lines().filter_map(|line| line.strip_prefix("add "));
    added.filter_map(|line| line.split_once(' ')).map(|(_, member)| member.to_owned()).collect()
}

fn numbered(count: u8) -> Vec<Member> {
    (10..10 + count).map(|host| pod(&format!("10.1.0.{host}"))).collect()
}

#[test]
fn members_follow_deltas_and_chains_stay() {
    for variant in VARIANTS {
        let (mut world, pods, ports) = world();
        let node = Netns::new();
        node.enter(|| {
            let mut dataplane = Dataplane::open(options(variant)).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let [v4, v6] = Family::BOTH.map(|family| name::set(family, Kind::Address, &pods));
            let (added, removed) = ([pod("10.1.0.7"), pod("fd00:1::7")], [pod("10.1.0.1")]);
            let update = world.change(pods, &added, &removed);
            let report = settle(&mut dataplane, &world.compiled, &update).unwrap();
            assert_eq!((report.members_changed, report.chains_changed), (3, 0));
            assert_eq!(members(&node, v4), BTreeSet::from(["10.1.0.7".into()]));
            let both = BTreeSet::from(["fd00:1::1".into(), "fd00:1::7".into()]);
            assert_eq!(members(&node, v6), both);

            let name = name::set(Family::V4, Kind::AddressPort, &ports);
            let added = [service("10.1.0.7", Protocol::Sctp, 80)];
            let removed = [service("10.1.0.1", Protocol::Tcp, 80)];
            let update = world.change(ports, &added, &removed);
            settle(&mut dataplane, &world.compiled, &update).unwrap();
            // By name where the host lists protocols, else by number.
            let members = members(&node, name).into_iter();
            let read: Vec<_> =
                members.map(|text| sets::parse_element(Kind::AddressPort, &text)).collect();
            assert_eq!(read, [Element::AddressPort(ip("10.1.0.7"), Protocol::Sctp, 80)]);
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
        });
    }
}

#[test]
fn a_full_set_is_swapped_for_a_bigger_one() {
    for variant in VARIANTS {
        let (mut world, pods, _) = world();
        let node = Netns::new();
        node.enter(|| {
            let mut dataplane = Dataplane::open(options(variant)).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let name = name::set(Family::V4, Kind::Address, &pods);
            for count in [3, 4, 5, 40, 200] {
                if [4, 40, 200].contains(&count) {
                    // It has to grow now, and a crash left something under the name that the
                    // bigger set is built under.
                    node.sh(&format!("ipset create {name}~ hash:net maxelem 9"));
                    drop(dataplane);
                    dataplane = Dataplane::open(options(variant)).unwrap();
                }
                let update = world.change(pods, &numbered(count), &[]);
                settle(&mut dataplane, &world.compiled, &update).unwrap();
                assert_eq!(members(&node, name).len(), usize::from(count) + 1);
                assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
            }
            let list = node.sh("ipset list -name");
            assert!(!list.contains('~'), "{list}");
            let rules = node.sh(&format!("ipset list -terse {name}"));
            assert!(rules.contains("maxelem 256") && rules.contains("References: 1"), "{rules}");
        });
    }
}

#[test]
fn sets_go_when_nothing_refers_to_them_and_come_back_complete() {
    for variant in VARIANTS {
        let (mut world, pods, _) = world();
        let node = Netns::new();
        node.enter(|| {
            let mut dataplane = Dataplane::open(options(variant)).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let name = name::set(Family::V4, Kind::Address, &pods);
            // While somebody else uses it, it cannot go.
            node.sh(&format!("iptables-legacy -A OUTPUT -m set --match-set {name} dst -j RETURN"));
            let mut nobody = World::default();
            let report = settle(&mut dataplane, &nobody.compiled, &rules_changed()).unwrap();
            assert!(report.sets_in_use >= 1, "{report:?}");
            let update = world.change(pods, &[pod("10.1.0.8")], &[pod("10.1.0.1")]);
            settle(&mut dataplane, &world.compiled, &update).unwrap();
            assert_eq!(members(&node, name), BTreeSet::from(["10.1.0.8".into()]));
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
            node.sh("iptables-legacy -F OUTPUT");
            nobody.compiled.endpoints.clear();
            settle(&mut dataplane, &nobody.compiled, &rules_changed()).unwrap();
            wait_until(|| {
                settle(&mut dataplane, &nobody.compiled, &Update::default()).unwrap().sets_in_use
                    == 0
            });
            assert_eq!(node.sh("ipset list -name | grep -v isolated || true"), "");
        });
    }
}

#[test]
fn drift_is_found_and_repaired() {
    for variant in VARIANTS {
        let (world, pods, ports) = world();
        let node = Netns::new();
        node.enter(|| {
            let mut dataplane = Dataplane::open(options(variant)).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let iptables = format!("{} -t mangle", dataplane.command(Family::V4));
            let set = name::set(Family::V4, Kind::Address, &pods);
            let ports = name::set(Family::V6, Kind::AddressPort, &ports);
            node.sh(&format!(
                "ipset add {set} 10.9.9.9; ipset del {set} 10.1.0.1
                 ipset add {ports} fd00::9,udplite:9
                 ipset create PORTCULLIS-4aold hash:ip; ipset create PORTCULLIS-x bitmap:port range 1-9
                 {iptables} -A PORTCULLIS-JUDGE -j ACCEPT; {iptables} -N PORTCULLIS-Told
                 {iptables} -D INPUT 1; {iptables} -I FORWARD 1 -j ACCEPT"
            ));
            let drifts = dataplane.verify(&world.compiled).unwrap();
            let set_of = |set, how| Drift::Set { set: SetName::parse(set).unwrap(), how };
            for expected in [
                Drift::Members { set, missing: 1, unexpected: 1 },
                Drift::Members { set: ports, missing: 0, unexpected: 1 },
                set_of("PORTCULLIS-4aold", How::Unexpected),
                set_of("PORTCULLIS-x", How::Unexpected),
            ] {
                assert!(drifts.contains(&expected), "{expected} is missing: {drifts:#?}");
            }
            assert_eq!(drifts.len(), 8, "{drifts:#?}");
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
            let rules = node.sh(&format!("{iptables} -S FORWARD"));
            let rules: Vec<&str> = rules.lines().collect();
            assert_eq!(rules[1..], ["-A FORWARD -j PORTCULLIS-FORWARD", "-A FORWARD -j ACCEPT"]);
        });
    }
}

#[test]
fn a_set_of_the_wrong_type_is_replaced_while_in_use() {
    for variant in VARIANTS {
        let (world, pods, _) = world();
        let node = Netns::new();
        node.enter(|| {
            let open = || Dataplane::open(options(variant)).unwrap();
            settle(&mut open(), &world.compiled, &rules_changed()).unwrap();
            let name = name::set(Family::V4, Kind::Address, &pods);
            let iptables = format!("{} -t mangle", open().command(Family::V4));
            let chain = node.sh(&format!("{iptables} -S | grep {name} | cut -d' ' -f2"));
            let chain = chain.trim();
            node.sh(&format!("{iptables} -F {chain}"));
            wait_until(|| node.sh(&format!("ipset destroy {name} || echo in use")).is_empty());
            node.sh(&format!(
                "ipset create {name} hash:net; ipset add {name} 0.0.0.0/1
                 {iptables} -A {chain} -m set --match-set {name} src -j RETURN"
            ));
            let mut dataplane = open();
            settle(&mut dataplane, &world.compiled, &Update::default()).unwrap();
            // nf_tables lets go of rules a little later: until then, the set is refused.
            wait_until(|| {
                dataplane.retry_refused(&world.compiled).unwrap();
                !dataplane.has_refusals()
            });
            dataplane.remove_unreferenced(&world.compiled).unwrap();
            assert_eq!(members(&node, name), BTreeSet::from(["10.1.0.1".into()]));
            assert_eq!(open().verify(&world.compiled).unwrap(), []);
        });
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !done() {
        assert!(std::time::Instant::now() < end, "not done within 5 s");
        std::thread::yield_now();
    }
}

#[test]
fn a_change_does_not_wait_for_the_members_of_a_large_set() {
    for variant in VARIANTS {
        let (mut world, large, _) = world();
        let small = world.set("small", [pod("10.1.0.1")]);
        let rule = allow(TrafficMatch::Any, Some(small), CidrSet::default());
        let id = world.ruleset(Direction::Ingress, vec![rule]);
        world.endpoint(ip("10.1.0.3"), id);
        let node = Netns::new();
        node.enter(|| {
            let mut dataplane = Dataplane::open(Options { variant, ..Options::default() }).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let many = |hosts: std::ops::Range<u32>| -> Vec<Member> {
                let address = |host| std::net::Ipv4Addr::from(0x0a09_0000 + host).into();
                hosts.map(|host| Member::Address(address(host))).collect()
            };
            let update = world.change(large, &many(0..25_000), &[]);
            let report = dataplane.enforce(&world.compiled, &update).unwrap();
            assert_eq!((report.members_changed, report.members_waiting), (10_000, 15_000));

            // Another tenant's pod joins, and pods of the large set leave, some of which still wait.
            let mut update = world.change(small, &[pod("10.1.0.9")], &[]);
            let leaving = many(9_000..11_000);
            update.sets_changed.extend(world.change(large, &[], &leaving).sets_changed);
            let report = dataplane.enforce(&world.compiled, &update).unwrap();
            assert_eq!((report.members_changed, report.members_waiting), (11_000, 4_001));
            let [large, small] =
                [large, small].map(|set| name::set(Family::V4, Kind::Address, &set));
            assert!(members(&node, small).contains("10.1.0.9"));
            let found = members(&node, large);
            for member in &leaving {
                assert!(!found.contains(&member.address().to_string()), "{member:?} left");
            }

            let report = dataplane.enforce(&world.compiled, &Update::default()).unwrap();
            assert_eq!((report.members_changed, report.members_waiting), (4_001, 0));
            assert_eq!(members(&node, large).len(), 25_000 - 2_000 + 1);
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
        });
    }
}

/// A policy of the pods of `namespace` that allows all pods of the namespace, or nothing.
fn policy(namespace: &str, allows: bool) -> Change {
    let peer = PodPeer { namespaces: Namespaces::Own, pods: Selector::everything() };
    let rule = Rule { peers: Peers::Listed(vec![Peer::Pods(peer)]), ports: Ports::Any };
    let rules = if allows { vec![rule] } else { Vec::new() };
    let rules = PerDirection { ingress: Some(rules), egress: None };
    Policy::network_policy(namespace, "policy", Selector::everything(), rules).into()
}

fn pod_of(namespace: &str, node: &str, address: Ipv4Addr) -> Change {
    let pod = Pod::new(PodKey::new(namespace, &address.to_string()), Labels::default());
    Pod { node: Some(node.into()), addresses: vec![address.into()].into(), ..pod }.into()
}

/// The rounds are those of the agent.
#[test]
fn a_large_new_set_is_complete_before_a_pod_is_judged_by_it_and_another_pod_does_not_wait() {
    const PEERS: u32 = 25_000;
    for backend in [Backend::Iptables, Backend::Nftables] {
        let mut engine =
            Engine::new(Scope::Node("n1".into()), policy_engine::world::Options::default());
        let (large, small) = (Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3));
        engine.apply(pod_of("large", "n1", large));
        engine.apply(pod_of("small", "n1", small));
        for peer in 0..PEERS {
            engine.apply(pod_of("large", "n2", Ipv4Addr::from(0x0a09_0000 + peer)));
        }
        let node = Netns::new();
        node.enter(|| {
            let mut dataplane = Dataplane::open(Options { backend, ..Options::default() }).unwrap();
            let update = engine.flush();
            dataplane.enforce(engine.compiled(), &update).unwrap();
            engine.fill_in_slices(MEMBERS_AT_ONCE);
            engine.apply(policy("large", true));
            engine.apply(policy("small", false));
            let (mut rounds, mut joined) = (0, 0);
            loop {
                let update = engine.flush();
                let report = dataplane.enforce(engine.compiled(), &update).unwrap();
                assert!(report.members_changed <= MEMBERS_AT_ONCE + 10, "{report:?}");
                joined += report.members_changed;
                rounds += 1;
                let endpoints = &engine.compiled().endpoints;
                assert!(endpoints.contains_key(&small.into()));
                // One pod of the namespace may join in the round of the last slice.
                assert_eq!(endpoints.contains_key(&large.into()), !engine.is_filling(), "{rounds}");
                if !engine.is_filling() {
                    break;
                }
                engine.applied(|set| dataplane.has_all_members(set));
            }
            assert!(rounds > PEERS as usize / MEMBERS_AT_ONCE, "{rounds}");
            // The first slice is in the set when it is made.
            assert!(joined > PEERS as usize - MEMBERS_AT_ONCE, "{joined}");
            assert_eq!(dataplane.verify(engine.compiled()).unwrap(), []);
        });
    }
}

#[test]
fn a_comparison_in_parts_repairs_what_others_changed_and_keeps_what_changed_since_it_read() {
    for variant in VARIANTS {
        let (mut world, pods, ports) = world();
        let node = Netns::new();
        node.enter(|| {
            let mut dataplane = Dataplane::open(options(variant)).unwrap();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let [v4, v6] = Family::BOTH.map(|family| name::set(family, Kind::Address, &pods));
            node.sh(&format!("ipset del {v6} fd00:1::1; ipset add {v6} fd00:1::66"));
            let mut reading = dataplane.reader().read().unwrap();
            // After it was read: a member joins, and a pod with rules of its own comes.
            let update = world.change(pods, &[pod("10.1.0.9")], &[]);
            dataplane.enforce(&world.compiled, &update).unwrap();
            let rule = Match::PeerPorts { set: ports };
            let id = world.ruleset(Direction::Egress, vec![rule]);
            world.endpoint(ip("10.1.0.3"), id);
            dataplane.enforce(&world.compiled, &rules_changed()).unwrap();
            let mut drifts = Vec::new();
            while !reading.is_compared() {
                drifts.extend(dataplane.compare_part(&world.compiled, &mut reading).unwrap());
            }
            assert_eq!(drifts, [Drift::Members { set: v6, missing: 1, unexpected: 1 }]);
            assert_eq!(members(&node, v6), ["fd00:1::1".to_owned()].into());
            assert!(members(&node, v4).contains("10.1.0.9"));
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
        });
    }
}
