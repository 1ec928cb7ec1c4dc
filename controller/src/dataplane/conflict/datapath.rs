//! Datapaths on which packets of pods do not reach iptables, or reach it with other addresses.

use super::enforcer;
use super::facts::{BridgeNetfilter, BridgeSwitch, Facts, Link};
use super::judgement::{Conflict, Judgement, list, starts_with};
use crate::dataplane::preflight::Severity;

/// eBPF datapaths: their names, what the names of their interfaces and of their programs on pods'
/// interfaces start with.
const EBPF: [(&str, &[&str], &[&str]); 2] = [
    ("Cilium", &["cilium_host", "cilium_net"], &["cil_", "cilium", "bpf_lxc"]),
    ("Calico", &["bpfin.cali", "bpfout.cali"], &["cali"]),
];

/// Programs that only observe packets: of `NetObserv`, and of Retina, whose names the kernel cuts.
const OBSERVERS: [&str; 4] =
    ["tc/tc_ingress_flow_parse", "tc/tc_egress_flow_parse", "endpoint_ingres", "endpoint_egress"];

/// Interfaces that Open vSwitch makes for networks that switch pods by it.
const OVS_GATEWAYS: [&str; 2] = ["antrea-gw0", "ovn-k8s-mp0"];

/// Interfaces that hold the addresses of Services where IPVS balances them: of kube-proxy and of
/// kube-router.
pub(in crate::dataplane) const IPVS_LINKS: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];

/// CNI plugins that attach pods past the node's network stack.
const BYPASSING_PLUGINS: [&str; 5] = ["macvlan", "ipvlan", "host-device", "sriov", "ib-sriov"];

pub(super) fn judge(facts: &Facts, judgement: &mut Judgement) {
    ebpf(facts, judgement);
    open_vswitch(facts, judgement);
    bridges(facts, judgement);
    pods_past_the_node(facts, judgement);
    ipvs(facts, judgement);
}

fn ebpf(facts: &Facts, judgement: &mut Judgement) {
    let of_pods = || facts.links.iter().filter(|link| link.is_of_pod());
    for (name, interfaces, programs) in EBPF {
        let own = facts.links.iter().filter(|link| starts_with(&link.name, interfaces));
        let mut found: Vec<&str> = own.map(|link| link.name.as_str()).collect();
        if found.is_empty() {
            // Programs appear and disappear with pods: a message which names them changes often.
            let is_marked =
                |link: &&Link| link.tc_programs.iter().any(|p| starts_with(p, programs));
            found = of_pods().filter(is_marked).map(|link| link.name.as_str()).collect();
        }
        if !found.is_empty() {
            let what = format!(
                "{name} forwards packets of pods by eBPF (interfaces {}): they may pass no iptables \
                 rule",
                list(&found)
            );
            let what_to_do = format!(
                "let {name} enforce NetworkPolicies and remove Portcullis from this node; where \
                 {name} is gone, reboot the node"
            );
            judgement.conflict(Conflict::EbpfDatapath, what, what_to_do);
        }
    }
    let unknown: Vec<&str> =
        of_pods().filter(|link| has_unknown_program(link)).map(|link| link.name.as_str()).collect();
    if let Some(first) = unknown.first() {
        let what = format!(
            "BPF programs of an unknown origin on the pods' interfaces {} may forward packets past \
             iptables",
            list(&unknown)
        );
        let what_to_do = format!(
            "see whose they are (`tc filter show dev {first} ingress`, `ip -d link show {first}`); \
             where they only watch packets, set --ignore-conflicts=EbpfDatapath"
        );
        judgement.conflict(Conflict::EbpfDatapath, what, what_to_do);
    }
    let observed: Vec<&str> = of_pods()
        .filter(|link| link.tc_programs.iter().any(|program| starts_with(program, &OBSERVERS)))
        .map(|link| link.name.as_str())
        .collect();
    if !observed.is_empty() {
        let what = format!("BPF programs watch the packets of pods on {}", list(&observed));
        judgement.note(Severity::Info, what, "");
    }
}

fn has_unknown_program(link: &Link) -> bool {
    let is_known = |program: &String| {
        EBPF.iter().any(|(_, _, programs)| starts_with(program, programs))
            || starts_with(program, &OBSERVERS)
            || enforcer::is_enforcers_program(program)
    };
    link.xdp || !link.tc_programs.iter().all(is_known)
}

fn open_vswitch(facts: &Facts, judgement: &mut Judgement) {
    let is_switch = |link: &Link| link.kind == "openvswitch";
    let is_switched =
        |link: &Link| link.master.and_then(|index| facts.link(index)).is_some_and(is_switch);
    let is_gateway = |link: &Link| is_switch(link) && OVS_GATEWAYS.contains(&link.name.as_str());
    let links = facts.links.iter();
    let found: Vec<&str> = links
        .filter(|link| is_gateway(link) || link.is_of_pod() && is_switched(link))
        .map(|link| link.name.as_str())
        .collect();
    if !found.is_empty() {
        let what = format!(
            "Open vSwitch forwards packets of pods (interfaces {}), as Antrea and OVN-Kubernetes use \
             it: they pass no iptables rule",
            list(&found)
        );
        let what_to_do = "let the network plugin enforce NetworkPolicies and remove Portcullis from \
                          this node";
        judgement.conflict(Conflict::OpenVSwitchDatapath, what, what_to_do);
    }
}

fn bridges(facts: &Facts, judgement: &mut Judgement) {
    let has_pods = |bridge: &&Link| {
        facts.links.iter().any(|link| link.is_of_pod() && link.master == Some(bridge.index))
    };
    for (switch, netfilter) in &facts.bridge_netfilter {
        let passes_none = |bridge: &&Link| {
            // A bridge can hand packets to iptables by a setting of its own.
            *netfilter == BridgeNetfilter::NotLoaded || !bridge.has_own(*switch)
        };
        let bridges = facts.links.iter().filter(|link| link.kind == "bridge");
        let (with_pods, without): (Vec<&Link>, Vec<&Link>) =
            bridges.filter(passes_none).partition(has_pods);
        bridge(*switch, netfilter, &with_pods, &without, judgement);
    }
}

fn bridge(
    switch: BridgeSwitch,
    netfilter: &BridgeNetfilter,
    with_pods: &[&Link],
    without: &[&Link],
    judgement: &mut Judgement,
) {
    let (packets, name) = (switch.packets(), switch.name());
    let (cause, what_to_do) = match netfilter {
        BridgeNetfilter::On => return,
        // Reported for the settings of both families already.
        BridgeNetfilter::NotLoaded if switch == BridgeSwitch::FilterVlanTagged => return,
        BridgeNetfilter::TurnedOn => {
            let what = format!("net.bridge.{name} was 0 on a node with a bridge; it was set to 1");
            let what_to_do = format!("set net.bridge.{name}=1 in /etc/sysctl.d");
            return judgement.note(Severity::Warning, what, what_to_do);
        }
        BridgeNetfilter::Off(why) => (
            format!("net.bridge.{name} is 0 and could not be set: {why}"),
            format!("sysctl -w net.bridge.{name}=1"),
        ),
        BridgeNetfilter::NotLoaded => {
            ("br_netfilter is not loaded".to_owned(), "modprobe br_netfilter".to_owned())
        }
    };
    let names =
        |links: &[&Link]| list(&links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>());
    if !with_pods.is_empty() {
        let what = format!("{packets} between pods on {} pass no rule: {cause}", names(with_pods));
        judgement.conflict(Conflict::BridgeTrafficBypassesIptables, what, what_to_do);
    } else if !without.is_empty() {
        let what = format!(
            "{packets} between pods on {}, which has none yet, would pass no rule: {cause}",
            names(without)
        );
        judgement.note(Severity::Warning, what, what_to_do);
    }
}

fn pods_past_the_node(facts: &Facts, judgement: &mut Judgement) {
    let what_to_do = "attach pods by veth pairs: bridge, ptp, flannel, or the CNI of a cloud";
    if let Some(plugin) = &facts.cni_plugin
        && BYPASSING_PLUGINS.contains(&plugin.as_str())
    {
        let what = format!(
            "the CNI plugin {plugin} attaches pods past the node's network stack: their packets pass \
             no iptables rule of the node"
        );
        judgement.conflict(Conflict::PodsBypassNode, what, what_to_do);
    }
    let past = facts.routes.iter().filter(|route| facts.is_past_the_node(route));
    let past = past.filter_map(|route| {
        Some(format!("{} (reached by {})", route.address, facts.link(route.link)?.name))
    });
    let past: Vec<String> = past.collect();
    if !past.is_empty() {
        let what = format!(
            "pods are not attached to an interface of this node, as with macvlan, ipvlan or SR-IOV, \
             so that policies for them are not enforced: {}",
            list(&past)
        );
        judgement.conflict(Conflict::PodsBypassNode, what, what_to_do);
    }
}

fn ipvs(facts: &Facts, judgement: &mut Judgement) {
    for link in facts.links.iter().filter(|link| IPVS_LINKS.contains(&link.name.as_str())) {
        let name = &link.name;
        if link.has_addresses {
            let what = format!(
                "kube-proxy or kube-router balances Services by IPVS ({name} holds their addresses): \
                 packets to Services do not pass FORWARD, and egress policies see the address of \
                 the Service"
            );
            let what_to_do = "run kube-proxy in nftables or iptables mode, then run `kube-proxy \
                              --cleanup` or reboot the node";
            judgement.conflict(Conflict::KubeProxyIpvs, what, what_to_do);
        } else {
            let what = format!("{name} has no addresses: IPVS was used here, and is not any more");
            judgement.note(Severity::Info, what, format!("ip link del {name}"));
        }
    }
}
