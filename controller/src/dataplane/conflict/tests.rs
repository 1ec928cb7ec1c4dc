//! Each conflict by the facts that were recorded on a node, and facts that only look like a
//! conflict.

use clap::ValueEnum as _;
use policy_engine::cidr::Family;

use super::facts::{BridgeNetfilter, BridgeSwitch, Facts, FilterTable, Link, NftTable, PodRoute};
use super::{Conflict, judge};
use crate::dataplane::preflight::Severity;

/// A pod's interface on the node.
fn veth(index: u32, name: &str) -> Link {
    Link { leads_elsewhere: true, ..link(index, name, "veth") }
}

fn link(index: u32, name: &str, kind: &str) -> Link {
    Link { index, name: name.to_owned(), kind: kind.to_owned(), ..Link::default() }
}

/// A node like many: an uplink, a bridge with a pod, kube-proxy and flannel in FORWARD.
fn node() -> Facts {
    let bridged = Link { master: Some(3), ..veth(4, "veth1a2b3c4d") };
    let links = vec![link(1, "lo", ""), link(2, "eth0", ""), link(3, "cni0", "bridge"), bridged];
    let save = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:FLANNEL-FWD - [0:0]\n\
        :KUBE-FORWARD - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n:PORTCULLIS-FORWARD - [0:0]\n\
        -A FORWARD -j PORTCULLIS-FORWARD\n\
        -A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer \
        firewall\" -j KUBE-PROXY-FIREWALL\n\
        -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
        -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\nCOMMIT\n";
    Facts {
        links,
        filters: vec![FilterTable::parse("iptables-nft", save)],
        nft_tables: ["filter", "nat", "mangle", "kube-proxy"].map(|name| table(name, true)).into(),
        bridge_netfilter: BridgeSwitch::ALL.map(|switch| (switch, BridgeNetfilter::On)).into(),
        ..Facts::default()
    }
}

fn table(name: &str, hooked: bool) -> NftTable {
    NftTable { name: name.to_owned(), hooked, ..NftTable::default() }
}

/// The result of judging `facts`: the names of conflicts, and the severities of notes.
fn check(what: &str, facts: &Facts, conflicts: &[Conflict], notes: &[Severity]) {
    let judgement = judge(facts);
    let found: Vec<Conflict> = judgement.conflicts.iter().map(|found| found.conflict).collect();
    let severities: Vec<Severity> = judgement.notes.iter().map(|note| note.severity).collect();
    assert_eq!(
        (found.as_slice(), severities.as_slice()),
        (conflicts, notes),
        "{what}: {judgement:#?}"
    );
    for detected in judgement.conflicts {
        assert!(!detected.finding.what_to_do.is_empty(), "{what}: {detected}");
        assert_eq!(detected.finding.severity, Severity::Error, "{what}: {detected}");
    }
}

#[test]
fn a_node_with_a_routing_cni_and_kube_proxy_has_no_conflict() {
    check("bridge", &node(), &[], &[]);
    let routed = PodRoute { address: [10, 244, 1, 5].into(), link: 4, has_gateway: false };
    check("routed", &Facts { routes: vec![routed], ..node() }, &[], &[]);
    check("nothing at all", &Facts::default(), &[], &[]);
}

/// Recorded from nodes: the lines that matter of `iptables-save -t filter`, the name of the program
/// and what its message has to name.
const ENFORCERS: [(&str, &str); 5] = [
    (
        "Calico",
        ":cali-FORWARD - [0:0]\n:cali-from-wl-dispatch - [0:0]\n:cali-tw-cali9f1e2d3c4b5 - [0:0]\n\
         -A FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD\n\
         -A FORWARD -m comment --comment \"cali:S93hcgKJrXEqnTfs\" -m comment --comment \"Policy \
         explicitly accepted packet.\" -m mark --mark 0x10000/0x10000 -j ACCEPT\n",
    ),
    (
        "kube-router",
        ":KUBE-NWPLCY-DEFAULT - [0:0]\n:KUBE-POD-FW-3XJQZ7TQJ6PLC4TM - [0:0]\n\
         :KUBE-ROUTER-FORWARD - [0:0]\n\
         -A FORWARD -m comment --comment \"kube-router netpol - TEMCG2JMHZYE7H7T\" \
         -j KUBE-ROUTER-FORWARD\n",
    ),
    (
        // Before version 1.0 each pod had a rule in FORWARD.
        "kube-router",
        ":KUBE-POD-FW-3XJQZ7TQJ6PLC4TM - [0:0]\n\
         -A FORWARD -d 10.1.0.5/32 -m comment --comment \"rule to jump traffic destined to POD \
         name:web to chain KUBE-POD-FW-3XJQZ7TQJ6PLC4TM\" -j KUBE-POD-FW-3XJQZ7TQJ6PLC4TM\n",
    ),
    (
        "Azure Network Policy Manager",
        ":AZURE-NPM - [0:0]\n:AZURE-NPM-INGRESS - [0:0]\n\
         -A FORWARD -m conntrack --ctstate NEW -j AZURE-NPM\n",
    ),
    (
        "Weave Net",
        ":WEAVE-NPC - [0:0]\n:WEAVE-NPC-INGRESS - [0:0]\n\
         -A FORWARD -o weave -m comment --comment \"NOTE: this must go before '-j KUBE-FORWARD'\" \
         -j WEAVE-NPC\n",
    ),
];

#[test]
fn a_second_enforcer_is_known_by_the_chains_that_forward_leads_to() {
    for (name, lines) in ENFORCERS {
        for command in ["iptables-legacy", "iptables-nft", "ip6tables-nft"] {
            let save = format!("*filter\n:FORWARD ACCEPT [0:0]\n{lines}COMMIT\n");
            let mut facts = node();
            facts.filters.push(FilterTable::parse(command, &save));
            check(name, &facts, &[Conflict::SecondEnforcer], &[]);
            let message = judge(&facts).conflicts[0].to_string();
            assert!(message.contains(name) && message.contains(command), "{message}");
        }
    }
}

#[test]
fn chains_that_no_rule_leads_to_are_unreferenced_and_no_conflict() {
    for (name, lines) in ENFORCERS {
        let chains = lines.lines().filter(|line| line.starts_with(':'));
        let chains: String = chains.flat_map(|line| [line, "\n"]).collect();
        let mut facts = node();
        // The chain is hooked in INPUT only, or named in a comment only: no packet of a pod enters
        // it.
        let save = format!(
            "*filter\n:FORWARD ACCEPT [0:0]\n{chains}-A INPUT -j cali-INPUT\n\
             -A FORWARD -m comment --comment \"-j cali-FORWARD -j KUBE-ROUTER-FORWARD\" -j ACCEPT\n"
        );
        facts.filters.push(FilterTable::parse("iptables-legacy", &save));
        check(name, &facts, &[], &[Severity::Info]);
    }
}

#[test]
fn a_second_enforcer_is_known_by_its_nftables_and_its_programs() {
    for name in
        ["calico", "kube-router-filter-ipv4", "kube-network-policies", "kindnet-network-policies"]
    {
        let with = |hooked| {
            let mut facts = node();
            facts.nft_tables.push(table(name, hooked));
            facts
        };
        check(name, &with(true), &[Conflict::SecondEnforcer], &[]);
        check(name, &with(false), &[], &[Severity::Info]);
    }
    let mut facts = node();
    facts.links[3].tc_programs = vec!["handle_ingress".to_owned()];
    check("AWS", &facts, &[Conflict::SecondEnforcer], &[]);
}

#[test]
fn an_ebpf_datapath_is_known_by_its_interfaces_and_by_programs_on_those_of_pods() {
    use Conflict::EbpfDatapath;
    for name in ["cilium_host", "bpfin.cali"] {
        let mut facts = node();
        facts.links.push(link(9, name, "veth"));
        check(name, &facts, &[EbpfDatapath], &[]);
    }
    for (program, conflicts, notes) in [
        ("cil_from_container-lxc0a1b2c3d", [EbpfDatapath].as_slice(), [].as_slice()),
        ("bpf_lxc.o:[from-container]", &[EbpfDatapath], &[]),
        ("cali_tc_preambl", &[EbpfDatapath], &[]),
        ("mine.o:[tc]", &[EbpfDatapath], &[]),
        ("", &[EbpfDatapath], &[]),
        ("tc/tc_ingress_flow_parse", &[], &[Severity::Info]),
        ("endpoint_ingres", &[], &[Severity::Info]),
    ] {
        let mut facts = node();
        facts.links[3].tc_programs = vec![program.to_owned()];
        check(program, &facts, conflicts, notes);
        // On an interface that is not a pod's, the program forwards no packet between pods.
        let mut facts = node();
        facts.links[1].tc_programs = vec![program.to_owned()];
        check(program, &facts, &[], &[]);
    }
    let mut facts = node();
    facts.links[3].xdp = true;
    check("XDP", &facts, &[EbpfDatapath], &[]);
}

#[test]
fn pods_on_open_vswitch_pass_no_iptables() {
    let mut facts = node();
    facts.links.push(link(7, "ovs-system", "openvswitch"));
    check("a switch without pods", &facts, &[], &[]);
    facts.links[3].master = Some(7);
    check("a pod", &facts, &[Conflict::OpenVSwitchDatapath], &[]);
    let mut facts = node();
    facts.links.push(link(7, "antrea-gw0", "openvswitch"));
    check("Antrea before the first pod", &facts, &[Conflict::OpenVSwitchDatapath], &[]);
}

#[test]
fn bridged_packets_that_pass_no_rule_are_a_conflict_once_there_are_pods() {
    use BridgeNetfilter::{NotLoaded, Off, On, TurnedOn};
    let bypass = [Conflict::BridgeTrafficBypassesIptables].as_slice();
    let off = Off("Read-only file system".to_owned());
    for (netfilter, conflicts, notes) in [
        (On, [].as_slice(), [].as_slice()),
        (TurnedOn, &[], &[Severity::Warning]),
        (off.clone(), bypass, &[]),
        (NotLoaded, bypass, &[]),
    ] {
        let what = format!("{netfilter:?}");
        for family in Family::BOTH {
            let bridge_netfilter = vec![(BridgeSwitch::Calls(family), netfilter.clone())];
            check(&what, &Facts { bridge_netfilter, ..node() }, conflicts, notes);
        }
    }
    let mut facts =
        Facts { bridge_netfilter: vec![(BridgeSwitch::Calls(Family::V4), off)], ..node() };
    facts.links[2].calls_iptables = vec![Family::V4];
    check("by the bridge's own switch", &facts, &[], &[]);
    facts.links[2].calls_iptables = vec![Family::V6];
    check("of the other family", &facts, bypass, &[]);
    facts.links.pop();
    check("no pod yet", &facts, &[], &[Severity::Warning]);
    facts.links.pop();
    check("no bridge", &facts, &[], &[]);
}

/// A pod with `NET_RAW` sends frames with VLAN id 0, and its peer on the bridge takes them.
#[test]
fn frames_with_a_vlan_tag_that_pass_no_rule_are_a_conflict() {
    use BridgeNetfilter::{NotLoaded, Off};
    let off = Off("Read-only file system".to_owned());
    let with = |netfilter| vec![(BridgeSwitch::FilterVlanTagged, netfilter)];
    let mut facts = Facts { bridge_netfilter: with(off), ..node() };
    facts.links[2].calls_iptables = vec![Family::V4, Family::V6];
    check(
        "the bridge has no switch for it",
        &facts,
        &[Conflict::BridgeTrafficBypassesIptables],
        &[],
    );
    let what = judge(&facts).conflicts.remove(0).finding.to_string();
    assert!(what.contains("packets in frames with a VLAN tag between pods on"), "{what}");
    assert!(what.contains("sysctl -w net.bridge.bridge-nf-filter-vlan-tagged=1"), "{what}");
    let facts = Facts { bridge_netfilter: with(NotLoaded), ..node() };
    check("the other switches say so", &facts, &[], &[]);
}

#[test]
fn pods_that_no_interface_of_the_node_leads_to_are_a_conflict() {
    let past = [Conflict::PodsBypassNode].as_slice();
    let attached = |kind, has_gateway| {
        let mut facts = node();
        facts.links.push(link(9, "net9", kind));
        facts.routes.push(PodRoute { address: [10, 0, 0, 5].into(), link: 9, has_gateway });
        facts
    };
    for (kind, expected) in [
        ("veth", [].as_slice()),
        ("bridge", &[]),
        ("netkit", &[]),
        ("tun", &[]),
        ("", past),
        ("macvlan", past),
        ("ipvlan", past),
        ("bond", past),
    ] {
        check(kind, &attached(kind, false), expected, &[]);
        check(kind, &attached(kind, true), past, &[]);
    }
    for (plugin, expected) in [("bridge", [].as_slice()), ("macvlan", past), ("ipvlan", past)] {
        let cni_plugin = Some(plugin.to_owned());
        check(plugin, &Facts { cni_plugin, ..node() }, expected, &[]);
    }
}

#[test]
fn ipvs_is_in_use_while_its_interface_has_addresses() {
    for name in ["kube-ipvs0", "kube-dummy-if"] {
        let with = |has_addresses| {
            let mut facts = node();
            facts.links.push(Link { has_addresses, ..link(9, name, "dummy") });
            facts
        };
        check(name, &with(true), &[Conflict::KubeProxyIpvs], &[]);
        check(name, &with(false), &[], &[Severity::Info]);
    }
}

#[test]
fn what_could_not_be_examined_is_a_warning() {
    let failures = vec!["`iptables-nft-save -t filter` failed".to_owned()];
    check("failure", &Facts { failures, ..node() }, &[], &[Severity::Warning]);
}

#[test]
fn the_most_important_conflict_comes_first_and_names_read_back() {
    let mut facts = node();
    facts.links.push(link(8, "cilium_host", "veth"));
    facts.links.push(Link { has_addresses: true, ..link(9, "kube-ipvs0", "dummy") });
    facts.nft_tables.push(table("calico", true));
    let expected = [Conflict::EbpfDatapath, Conflict::KubeProxyIpvs, Conflict::SecondEnforcer];
    check("three at once", &facts, &expected, &[]);
    assert!(Conflict::ALL.is_sorted());
    for conflict in Conflict::ALL {
        // A hook that is repaired at once cannot be ignored.
        let ignorable = conflict != Conflict::HookDisplaced;
        assert_eq!(Conflict::from_str(conflict.name(), false).ok(), ignorable.then_some(conflict));
    }
    assert!(Conflict::from_str("Cilium", true).is_err());
}

#[test]
fn a_long_list_of_names_is_cut() {
    assert_eq!(super::judgement::list(&["a", "b", "c"]), "a, b, c");
    assert_eq!(super::judgement::list(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
}
