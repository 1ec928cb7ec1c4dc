//! Hooks that others move or remove: noticed, found and put back without a look at anything else.

use std::time::{Duration, Instant};

use policy_engine::cidr::Family;
use portcullis_controller::dataplane::drift::{Drift, How};
use portcullis_controller::dataplane::hook_watch::HookWatch;
use portcullis_controller::dataplane::netlink::nft_events::{Touch, Touched};
use portcullis_controller::dataplane::{Dataplane, IptablesVariant, Options};

use crate::netns::Netns;
use crate::rules::every_shape;
use crate::world::{World, rules_changed, settle};
use crate::{VARIANTS, command};

/// How long nothing may be announced before it counts as nothing.
const QUIET: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(10);

fn open(variant: IptablesVariant) -> (Dataplane, World) {
    let mut dataplane = Dataplane::open(Options { variant, ..Options::default() }).unwrap();
    let world = every_shape();
    settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
    (dataplane, world)
}

/// What is announced until it is quiet.
fn heard(watch: &mut HookWatch) -> Vec<Touched> {
    std::iter::from_fn(|| watch.next(QUIET)).collect()
}

#[test]
fn hooks_that_are_missing_doubled_or_behind_others_are_put_back_alone() {
    for variant in VARIANTS {
        let node = Netns::new();
        node.enter(|| {
            let (mut dataplane, world) = open(variant);
            assert_eq!(dataplane.displaced_hooks().unwrap(), []);
            for family in Family::BOTH {
                let iptables = format!("{} -t mangle", command(variant, family));
                for (change, count) in [
                    ("-F FORWARD", 0),
                    ("-I INPUT 1 -s 10.0.0.0/8 -j ACCEPT", 1),
                    ("-A FORWARD -j PORTCULLIS-FORWARD", 2),
                ] {
                    let change = match family {
                        Family::V4 => change.to_owned(),
                        Family::V6 => change.replace("10.0.0.0/8", "fd00::/8"),
                    };
                    node.sh(&format!("{iptables} {change}"));
                    let displaced = dataplane.displaced_hooks().unwrap();
                    let [hook] = displaced.as_slice() else { panic!("{change}: {displaced:?}") };
                    assert_eq!((hook.family, hook.places.count), (family, count), "{change}");
                    dataplane.restore_hooks(&displaced).unwrap();
                    assert_eq!(dataplane.displaced_hooks().unwrap(), [], "{change}");
                }
                node.sh(&format!("{iptables} -F INPUT; {iptables} -I INPUT -j PORTCULLIS-INPUT"));
            }
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
        });
    }
}

#[test]
fn chains_that_others_flush_are_repaired_without_a_look_at_sets() {
    for variant in VARIANTS {
        let node = Netns::new();
        node.enter(|| {
            let (mut dataplane, world) = open(variant);
            assert_eq!(dataplane.repair_chains(&world.compiled).unwrap(), []);
            node.sh(&format!("{} -t mangle -F", command(variant, Family::V4)));
            node.sh("ipset flush $(ipset list -name | grep PORTCULLIS-4a | head -1)");
            let drift = dataplane.repair_chains(&world.compiled).unwrap();
            let hooks = drift.iter().filter(|found| matches!(found, Drift::Hook(_))).count();
            let is_chain = |found: &&Drift| {
                matches!(found, Drift::Chain { family: Family::V4, how: How::Changed, .. })
            };
            let chains = drift.iter().filter(is_chain).count();
            assert!(hooks == 2 && chains > 5 && hooks + chains == drift.len(), "{drift:?}");
            assert_eq!(dataplane.repair_chains(&world.compiled).unwrap(), []);
            let left = dataplane.verify(&world.compiled).unwrap();
            assert!(matches!(left.as_slice(), [Drift::Members { .. }]), "{left:?}");
        });
    }
}

#[test]
fn changes_of_others_that_concern_us_are_announced_and_all_others_cost_nothing() {
    let node = Netns::new();
    node.enter(|| {
        let (mut dataplane, world) = open(IptablesVariant::Nft);
        let mut watch = dataplane.hook_watch();
        // As kube-proxy does when Services change, in both variants.
        for round in 0..10 {
            let all =
                |line: &dyn Fn(u8) -> String| (0..200).map(line).collect::<Vec<_>>().join("\n");
            let chains = all(&|n| format!(":KUBE-SEP-{n} - [0:0]"));
            let rules = all(&|n| format!("-A KUBE-SEP-{n} -s 10.0.{round}.{n}/32 -j RETURN"));
            for restore in ["iptables-nft-restore", "iptables-legacy-restore"] {
                node.sh(&format!(
                    "{restore} --noflush <<'END'\n*nat\n{chains}\n{rules}\nCOMMIT\n*filter\n\
                     :KUBE-FORWARD - [0:0]\n-A KUBE-FORWARD -j ACCEPT\nCOMMIT\nEND"
                ));
            }
            // As the thread of the agent does: what nobody takes is lost, and is looked at then.
            assert_eq!(heard(&mut watch), [], "nothing to look at");
        }
        // Our own changes are known by the tool that makes them.
        settle(&mut dataplane, &World::default().compiled, &rules_changed()).unwrap();
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        let own = heard(&mut watch);
        assert!(!own.is_empty(), "this test shows nothing");
        for touched in own {
            let is_own = touched.by.keys().all(|port| dataplane.is_own(*port));
            // What is larger than the socket's buffer is looked at once.
            assert!(is_own, "{touched:?}");
        }
        for (change, expected) in [
            ("iptables-nft -t mangle -F FORWARD", Touch::Hook),
            ("ip6tables-nft -t mangle -I INPUT 1 -j ACCEPT", Touch::Hook),
            ("iptables-nft -t mangle -F PORTCULLIS-JUDGE", Touch::Chain),
            ("nft flush ruleset", Touch::Chain),
        ] {
            node.sh(change);
            let worst = heard(&mut watch).into_iter().flat_map(|touched| touched.by);
            let worst = worst.filter(|(port, _)| !dataplane.is_own(*port)).map(|(_, touch)| touch);
            assert_eq!(worst.max(), Some(expected), "{change}");
            dataplane.verify(&world.compiled).unwrap();
            heard(&mut watch);
        }
    });
}

#[test]
fn legacy_hooks_are_looked_at_so_often_that_a_flush_is_seen_within_2_s() {
    let node = Netns::new();
    node.enter(|| {
        let (dataplane, _) = open(IptablesVariant::Legacy);
        let mut watch = dataplane.hook_watch();
        assert_eq!(watch.next(Duration::from_millis(2500)), None, "nothing was changed");
        node.sh("iptables-legacy -t mangle -F FORWARD");
        let start = Instant::now();
        while watch.next(LIMIT).is_none() {
            assert!(start.elapsed() < LIMIT, "not noticed");
        }
        println!("noticed after {:?}", start.elapsed());
    });
}
