//! The table against frames with two VLAN tags: each backend has it where pods are on bridges, and
//! it ends with anti-spoofing, with the last pod, and with a cleanup. What it drops: `tests/tests/attacks`.

use portcullis_controller::dataplane::attachment::{Attachments, InterfaceName};
use portcullis_controller::dataplane::{Backend, Dataplane, IptablesVariant, Options, cleanup};

use crate::netns::Netns;
use crate::rules::{every_shape, on_a_bridge};
use crate::world::{rules_changed, settle};

fn table(node: &Netns) -> String {
    node.sh("nft list table bridge portcullis-tags 2>/dev/null || true")
}

fn each_backend(check: impl Fn(&Netns, Options) + Sync) {
    for (backend, variant) in [
        (Backend::Iptables, IptablesVariant::Legacy),
        (Backend::Iptables, IptablesVariant::Nft),
        (Backend::Nftables, IptablesVariant::Auto),
    ] {
        println!("{backend:?} {variant:?}");
        let node = Netns::new();
        node.enter(|| check(&node, Options { backend, variant, ..Options::default() }));
    }
}

#[test]
fn the_table_follows_the_bridges_of_pods_and_is_repaired() {
    each_backend(|node, options| {
        let world = every_shape();
        let mut dataplane = Dataplane::open(options.clone()).unwrap();
        assert!(!node.sh("nft list tables").contains("portcullis"), "the probe leaves nothing");
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        assert_eq!(table(node), "", "no pod is on a bridge");
        dataplane.set_attachments(on_a_bridge(&world));
        settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
        let written = table(node);
        for rule in [
            "type filter hook prerouting priority",
            "meta protocol 8021q jump two-tags",
            "meta protocol 8021ad jump two-tags",
            "iifname \"veth0\" drop",
        ] {
            assert!(written.contains(rule), "{rule}: {written}");
        }
        for change in [
            "nft delete table bridge portcullis-tags",
            "nft flush chain bridge portcullis-tags two-tags",
            "nft insert rule bridge portcullis-tags prerouting accept",
            "nft flush chain bridge portcullis-tags prerouting
             nft delete chain bridge portcullis-tags prerouting
             nft add chain bridge portcullis-tags prerouting",
        ] {
            node.sh(change);
            dataplane.verify(&world.compiled).unwrap();
            assert_eq!(table(node), written, "{change}");
        }
        // An agent that starts again writes nothing, and one that does not compare interfaces
        // removes it.
        let marked = "nft add set bridge portcullis-tags seen '{ type mark; }'";
        node.sh(marked);
        let mut again = Dataplane::open(options.clone()).unwrap();
        again.set_attachments(on_a_bridge(&world));
        settle(&mut again, &world.compiled, &rules_changed()).unwrap();
        assert!(table(node).contains("set seen"), "it was written again");
        let off = Options { anti_spoofing: false, ..options };
        let mut off = Dataplane::open(off).unwrap();
        settle(&mut off, &world.compiled, &rules_changed()).unwrap();
        assert_eq!(table(node), "", "anti-spoofing is off");
    });
}

#[test]
fn the_table_ends_with_the_last_pod_and_with_a_cleanup() {
    each_backend(|node, options| {
        let world = every_shape();
        let mut dataplane = Dataplane::open(options.clone()).unwrap();
        let port = InterfaceName::new("veth-new").unwrap();
        for last in [false, true] {
            dataplane.set_attachments(on_a_bridge(&world));
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let before = table(node);
            assert!(before.contains("veth0") && !before.contains("veth-new"), "{before}");
            let mut more = on_a_bridge(&world);
            more.bridge_ports.insert(port);
            dataplane.set_attachments(more);
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            assert!(table(node).contains("iifname \"veth-new\" drop"), "{}", table(node));
            dataplane.set_attachments(on_a_bridge(&world));
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            dataplane.verify(&world.compiled).unwrap();
            assert_eq!(table(node), before, "it follows with the next comparison");
            if last {
                assert!(cleanup(&options).unwrap().chains_deleted > 0);
            } else {
                dataplane.set_attachments(Attachments::default());
                settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
                dataplane.verify(&world.compiled).unwrap();
            }
            assert_eq!(table(node), "");
        }
    });
}
