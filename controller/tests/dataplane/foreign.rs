//! What other software has in the same tables stays byte for byte, counters included.

use policy_engine::cidr::Family;
use policy_engine::compiled::Update;
use portcullis_controller::dataplane::{
    AcceptAction, CleanupReport, Dataplane, DenyAction, IptablesVariant, Options, TableName,
    cleanup,
};

use crate::netns::Netns;
use crate::rules::every_shape;
use crate::world::{World, rules_changed, settle};
use crate::{VARIANTS, command, save};

/// Rules as kube-proxy and a CNI have them, with odd comments, sets and counters.
fn populate(node: &Netns, variant: IptablesVariant) {
    for (family, inet) in [(Family::V4, "inet"), (Family::V6, "inet6")] {
        let restore = format!("{}-restore", command(variant, family));
        let set = format!("foreign-{inet}");
        node.sh(&format!(
            "ipset create {set} hash:ip family {inet} timeout 0 comment
             {restore} -c <<'END'\n\
             *nat\n:KUBE-SERVICES - [1:2]\n\
             [3:4] -A PREROUTING -m comment --comment \"kubernetes service portals\" \
             -j KUBE-SERVICES\nCOMMIT\n\
             *mangle\n:FORWARD ACCEPT [0:0]\n:CNI-MARK - [0:0]\n\
             [23:24] -A FORWARD -j CNI-MARK\nCOMMIT\n\
             *filter\n:INPUT ACCEPT [5:6]\n:FORWARD DROP [7:8]\n:OUTPUT ACCEPT [0:0]\n\
             :KUBE-FORWARD - [0:0]\n:CNI-FORWARD - [0:0]\n:portcullis-like - [0:0]\n\
             [9:10] -A INPUT -m comment --comment \"-j PORTCULLIS-INPUT\" -j RETURN\n\
             [11:12] -A FORWARD -m comment --comment \"kubernetes forwarding rules\" \
             -j KUBE-FORWARD\n\
             [13:14] -A FORWARD -j CNI-FORWARD\n\
             [15:16] -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             [17:18] -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             [19:20] -A CNI-FORWARD -m set --match-set {set} src -j DROP\n\
             [21:22] -A portcullis-like -j RETURN\nCOMMIT\nEND"
        ));
    }
    node.sh("ipset add foreign-inet 192.0.2.1 comment 'a b'; ipset add foreign-inet6 2001:db8::1");
}

/// All that is not ours, of both variants.
///
/// Without the counters of policies in legacy: each change by iptables-legacy, whoever makes
/// it, starts them anew (`iptables -I` does). Those of rules stay.
fn foreign(node: &Netns) -> String {
    let [legacy, nft] = VARIANTS.map(|variant| save(node, variant));
    let legacy = legacy.lines().map(|line| match line.split_once(" [") {
        Some((policy, _)) if line.starts_with(':') => policy.to_owned() + "\n",
        _ => line.to_owned() + "\n",
    });
    let everything = legacy.collect::<String>() + &nft + &node.sh("ipset save");
    let ours = |line: &&str| {
        let word = |word: &str| word.starts_with("PORTCULLIS-") || word.starts_with(":PORTCULLIS-");
        line.split(' ').any(word) && !line.contains("--comment \"-j ")
    };
    everything.lines().filter(|line| !ours(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn everything_of_others_stays_byte_for_byte() {
    for variant in VARIANTS {
        let node = Netns::new();
        populate(&node, variant);
        let before = foreign(&node);
        assert!(before.contains("[19:20]") && before.contains(":FORWARD DROP"), "{before}");
        let options = Options { variant, ..Options::default() };
        let check = |when: &str| assert_eq!(foreign(&node), before, "{variant:?} {when}");
        node.enter(|| {
            let mut dataplane = Dataplane::open(options.clone()).unwrap();
            settle(&mut dataplane, &World::default().compiled, &rules_changed()).unwrap();
            check("first apply");
            let mut world = every_shape();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            check("update");
            world.compiled.endpoints.pop_first();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            dataplane.verify(&world.compiled).unwrap();
            check("second update");
            drop(dataplane);
            clean(&node, &options);
            check("cleanup");
        });
    }
}

#[test]
fn cleanup_leaves_nothing_also_of_half_a_state_and_of_nothing() {
    let node = Netns::new();
    node.enter(|| {
        for variant in VARIANTS {
            let options = Options { variant, ..Options::default() };
            let mut dataplane = Dataplane::open(options.clone()).unwrap();
            settle(&mut dataplane, &every_shape().compiled, &rules_changed()).unwrap();
            let iptables = format!("{} -t mangle", command(variant, Family::V4));
            node.sh(&format!(
                "{iptables} -D FORWARD 1; {iptables} -F PORTCULLIS-EGRESS
                 {iptables} -A INPUT -j PORTCULLIS-INPUT; ipset create PORTCULLIS-4x~ hash:net"
            ));
        }
        let options = Options::default();
        clean(&node, &options);
        let report = cleanup(&options).unwrap();
        assert_eq!(report, CleanupReport::default(), "a second time");
    });
    Netns::new().enter(|| {
        assert_eq!(cleanup(&Options::default()).unwrap(), CleanupReport::default(), "of nothing");
    });
}

#[test]
fn a_chain_that_others_use_is_kept_empty_and_said_to_be() {
    for variant in VARIANTS {
        let node = Netns::new();
        let iptables = format!("{} -t mangle", command(variant, Family::V4));
        node.enter(|| {
            let options = Options { variant, ..Options::default() };
            let mut dataplane = Dataplane::open(options.clone()).unwrap();
            settle(&mut dataplane, &every_shape().compiled, &rules_changed()).unwrap();
            node.sh(&format!("{iptables} -A OUTPUT -j PORTCULLIS-EGRESS"));
            let report = cleanup(&options).unwrap();
            assert!(report.kept.contains(&"PORTCULLIS-EGRESS".to_owned()), "{report:?}");
            let rules = node.sh(&format!("{iptables} -S"));
            assert_eq!(rules.matches("PORTCULLIS").count(), 2, "{rules}");
        });
    }
}

/// Our chains are in filter where what the operator chose works only there.
#[test]
fn a_switch_of_the_table_leaves_nothing_in_the_other() {
    for variant in VARIANTS {
        let node = Netns::new();
        node.enter(|| {
            let world = every_shape();
            for (deny, accept, table) in [
                (DenyAction::Reject, AcceptAction::Return, TableName::Filter),
                (DenyAction::Drop, AcceptAction::Return, TableName::Mangle),
                (DenyAction::Drop, AcceptAction::Accept, TableName::Filter),
            ] {
                let options = Options { variant, deny, accept, ..Options::default() };
                let mut dataplane = Dataplane::open(options.clone()).unwrap();
                assert_eq!(dataplane.table(), table);
                let report = settle(&mut dataplane, &world.compiled, &Update::default()).unwrap();
                assert!(!report.elsewhere_unclean);
                assert_eq!(dataplane.verify(&world.compiled).unwrap(), []);
                for name in TableName::BOTH {
                    for family in Family::BOTH {
                        let save = format!("{}-save -t {name}", command(variant, family));
                        let there = node.sh(&save).contains("PORTCULLIS-");
                        assert_eq!(there, name == table, "{variant:?} {family:?} {name}");
                    }
                }
            }
            clean(&node, &Options::default());
        });
    }
}

#[test]
fn a_switch_of_the_variant_leaves_nothing_in_the_other() {
    let node = Netns::new();
    node.enter(|| {
        let world = every_shape();
        for variant in [VARIANTS[0], VARIANTS[1], VARIANTS[0]] {
            let mut dataplane = Dataplane::open(Options { variant, ..Options::default() }).unwrap();
            settle(&mut dataplane, &world.compiled, &Update::default()).unwrap();
            for other in VARIANTS {
                let there = save(&node, other).contains("PORTCULLIS-");
                assert_eq!(there, other == variant, "{other:?} after {variant:?}");
            }
        }
    });
}

#[test]
fn the_variant_is_where_kubernetes_is() {
    for variant in VARIANTS {
        let node = Netns::new();
        populate(&node, variant);
        let opened = node.enter(|| Dataplane::open(Options::default()).unwrap().variant().unwrap());
        assert_eq!(opened.command(Family::V6), command(variant, Family::V6));
    }
}

/// Cleans up; nothing of ours is left.
fn clean(node: &Netns, options: &Options) {
    assert_eq!(cleanup(options).unwrap().kept, [""; 0]);
    let rules: String = VARIANTS.iter().map(|variant| save(node, *variant)).collect();
    let left = (rules + &node.sh("ipset save")).replace("\"-j PORTCULLIS-INPUT\"", "");
    assert!(!left.contains("PORTCULLIS-"), "{left}");
}
