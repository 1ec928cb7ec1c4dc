//! The nftables backend on a real kernel: what it writes reads back, what others change is repaired,
//! and a change of the backend leaves nothing of the other one.

use std::time::{Duration, Instant};

use policy_engine::cidr::Family;
use policy_engine::compiled::{Match, Update};
use policy_engine::direction::Direction;
use portcullis_controller::dataplane::{
    AcceptAction, Backend, CleanupReport, Dataplane, DenyAction, IptablesVariant, Options, cleanup,
};

use crate::netns::Netns;
use crate::rules::{every_shape, on_a_bridge};
use crate::world::{World, allow, cidrs, ip, pod, rules_changed, settle};
use crate::{VARIANTS, save};

const TABLES: [&str; 4] =
    ["ip portcullis", "ip6 portcullis", "bridge portcullis-ip", "bridge portcullis-ip6"];

fn options() -> Options {
    Options { backend: Backend::Nftables, ..Options::default() }
}

fn open() -> Dataplane {
    Dataplane::open(options()).unwrap()
}

#[test]
fn every_shape_of_rule_reads_back_from_nftables_as_it_was_written() {
    let world = every_shape();
    for (deny, allow_egress_to_own_node, log) in [
        (DenyAction::Drop, false, Some("65535")),
        (DenyAction::Reject, true, Some("1")),
        (DenyAction::Reject, false, None),
    ] {
        let denial_log = log.map(|group| group.parse().unwrap());
        let options = Options { deny, denial_log, allow_egress_to_own_node, ..options() };
        let node = Netns::new();
        node.enter(|| {
            let open = || {
                let mut dataplane = Dataplane::open(options.clone()).unwrap();
                dataplane.set_attachments(on_a_bridge(&world));
                dataplane
            };
            let report = settle(&mut open(), &world.compiled, &rules_changed()).unwrap();
            assert!(report.chains_changed > 20 && report.hooks_changed > 0, "{report:?}");
            let report = settle(&mut open(), &world.compiled, &Update::default()).unwrap();
            assert!(report.wrote_nothing(), "{options:?} {report:?}");
            let mut dataplane = open();
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
            assert_eq!(dataplane.displaced_hooks().unwrap(), []);
        });
        let printed = TABLES.map(|table| node.sh(&format!("nft list table {table}")));
        for text in ["@PORTCULLIS-4a", "vmap {", "ct status ! dnat", "sctp chunk init"] {
            assert!(printed[0].contains(text), "{text}: {}", printed[0]);
        }
        for text in ["iifname vmap { \"veth", "oifname vmap { \"veth"] {
            assert!(printed[2].contains(text), "{text}: {}", printed[2]);
        }
        assert!(printed[3].contains("meta protocol ip6 jump"), "{}", printed[3]);
    }
}

#[test]
fn all_that_others_change_in_our_tables_is_repaired() {
    let world = every_shape();
    let node = Netns::new();
    node.enter(|| {
        let mut dataplane = open();
        dataplane.set_attachments(on_a_bridge(&world));
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        let set = "$(nft list sets | grep -o 'PORTCULLIS-4a[^ ]*' | head -1)";
        for change in [
            "nft flush chain ip portcullis PORTCULLIS-JUDGE",
            "nft insert rule ip portcullis PORTCULLIS-FORWARD accept",
            "nft add rule ip6 portcullis PORTCULLIS-INGRESS counter",
            "nft flush chain ip portcullis forward",
            "nft delete table ip portcullis",
            "nft flush ruleset",
            "nft delete chain ip portcullis forward
             nft 'add chain ip portcullis forward { type filter hook output priority 0; }'",
            "nft flush chain bridge portcullis-ip prerouting",
            "nft delete table bridge portcullis-ip6",
            &format!("nft add element ip portcullis {set} '{{ 192.0.2.1 }}'"),
            &format!("nft flush set ip portcullis {set}"),
        ] {
            node.sh(change);
            let found = dataplane.verify(&world.compiled).unwrap();
            assert!(!found.is_empty(), "{change}");
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), [], "{change}");
            let report = settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            assert!(report.wrote_nothing(), "{change}: {report:?}");
        }
    });
}

#[test]
fn a_change_of_the_backend_leaves_nothing_of_the_other() {
    let world = every_shape();
    let node = Netns::new();
    let ours = |node: &Netns| {
        let rules: String = VARIANTS.iter().map(|variant| save(node, *variant)).collect();
        let iptables = (rules + &node.sh("ipset list -name")).contains("PORTCULLIS-");
        (iptables, node.sh("nft list tables").contains("portcullis"))
    };
    node.enter(|| {
        for backend in [Backend::Iptables, Backend::Nftables, Backend::Iptables] {
            let variant = IptablesVariant::Nft;
            let options = Options { backend, variant, ..Options::default() };
            let mut dataplane = Dataplane::open(options).unwrap();
            let report = settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            assert!(!report.elsewhere_unclean);
            let is_iptables = backend == Backend::Iptables;
            assert_eq!(ours(&node), (is_iptables, !is_iptables), "{backend:?}");
        }
        let mut dataplane = open();
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        assert!(cleanup(&options()).unwrap().chains_deleted > 20);
        assert_eq!(ours(&node), (false, false));
        assert_eq!(cleanup(&options()).unwrap(), CleanupReport::default(), "a second time");
    });
}

#[test]
fn without_the_tools_of_iptables_nftables_is_chosen() {
    let node = Netns::new();
    let opened = node.enter(|| Dataplane::open(Options::default()).unwrap().variant());
    assert!(opened.is_some(), "iptables and ipset work here");
    let options = Options { accept: AcceptAction::Accept, ..options() };
    let opened = node.enter(|| Dataplane::open(options).unwrap());
    assert_eq!(opened.families(), Family::BOTH);
}

#[test]
fn nftables_is_chosen_beside_kube_proxy_in_nftables_mode_unless_iptables_is_used() {
    let chosen = |commands: &str| {
        let node = Netns::new();
        node.sh(commands);
        let variant = node.enter(|| Dataplane::open(Options::default()).unwrap().variant());
        variant.map_or("nftables", |_| "iptables")
    };
    let kube_proxy = "nft add table ip kube-proxy";
    // What the kubelet makes wherever it finds iptables.
    let kubelet = "iptables-nft -t mangle -N KUBE-IPTABLES-HINT";
    assert_eq!(chosen(kube_proxy), "nftables");
    assert_eq!(chosen(&format!("{kube_proxy}; {kubelet}")), "nftables");
    assert_eq!(chosen(&format!("{kube_proxy}; iptables-nft -A FORWARD -j ACCEPT")), "iptables");
    let legacy = "iptables-legacy -t nat -A POSTROUTING -j MASQUERADE";
    assert_eq!(chosen(&format!("{kube_proxy}; {legacy}")), "iptables");
    assert_eq!(chosen("nft add table inet kube-proxy"), "iptables");
    assert_eq!(chosen("true"), "iptables");
}

#[test]
fn a_set_of_a_foreign_type_is_replaced() {
    let world = every_shape();
    let node = Netns::new();
    node.enter(|| {
        settle(&mut open(), &world.compiled, &rules_changed()).unwrap();
        let set =
            node.sh("nft list sets table ip portcullis | grep -o 'PORTCULLIS-4a[^ ]*' | head -1");
        node.sh(&format!(
            "nft delete table ip portcullis; nft add table ip portcullis
             nft add set ip portcullis {} '{{ type ether_addr; }}'",
            set.trim()
        ));
        settle(&mut open(), &world.compiled, &rules_changed()).unwrap();
        assert_eq!(open().verify(&world.compiled).unwrap(), []);
    });
}

/// Prints what changes take, with a large set and many rules beside them.
#[test]
fn changes_are_quick_beside_a_large_set() {
    let _alone = crate::alone();
    let mut world = World::default();
    let address = |n: u32| pod(&std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string());
    let set = world.set("large", (1..=100_000).map(address));
    for host in 1..=250_u8 {
        let port = (1000 + u16::from(host), 1000 + u16::from(host));
        let rule = allow(crate::world::tcp(&[port]), Some(set), cidrs(&["192.0.2.0/24"]));
        let id = world.ruleset(Direction::Ingress, vec![rule]);
        world.endpoint(ip(&format!("10.200.0.{host}")), id);
    }
    Netns::new().enter(|| {
        let mut dataplane = open();
        let begin = Instant::now();
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        println!("first apply: {:?}", begin.elapsed());
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            (times[times.len() / 2], times[times.len() - 1])
        };
        let members = (0..100).map(|n| {
            let update = world.change(set, &[address(200_000 + n)], &[]);
            let begin = Instant::now();
            dataplane.enforce(&world.compiled, &update).unwrap();
            begin.elapsed()
        });
        let members = median(members.collect());
        println!("one member more of 100,000: {members:?} (median, slowest)");
        let policies = (0..50_u16).map(|n| {
            let port = (3000 + n, 3000 + n);
            let rule: Match = allow(crate::world::tcp(&[port]), Some(set), cidrs(&[]));
            let id = world.ruleset(Direction::Ingress, vec![rule]);
            world.endpoint(ip("10.200.0.7"), id);
            let begin = Instant::now();
            dataplane.enforce(&world.compiled, &rules_changed()).unwrap();
            let taken = begin.elapsed();
            dataplane.remove_unreferenced(&world.compiled).unwrap();
            taken
        });
        let policies = median(policies.collect());
        println!("the policy of one pod changes: {policies:?} (median, slowest)");
        let begin = Instant::now();
        assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
        println!("compared with the kernel: {:?}", begin.elapsed());
        // Far above what is usual, so that a loaded machine does not fail.
        assert!(members.0 < Duration::from_millis(20) && policies.0 < Duration::from_millis(100));
    });
}
