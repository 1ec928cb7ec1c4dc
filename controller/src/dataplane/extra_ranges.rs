//! Packets at a bridge with an address that a pod of this bridge uses beside its own, if the port
//! by which they come or leave is not known: all pods that have the address judge them. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::{Direction, PerDirection};

use super::attachment::Attachment;
use super::rule::{Is, IsInterface, Match, Rule, Side, Verdict};
use super::tree::Judges;

/// The rules for these packets. Without the rules, the packets would be of no known pod.
pub(super) fn of_bridges(
    direction: Direction,
    family: Family,
    ranges: &BTreeMap<Attachment, BTreeSet<IpNet>>,
    judges: &BTreeMap<Attachment, PerDirection<Judges>>,
) -> Vec<Rule> {
    let bridged = || {
        let bridged = ranges.iter().filter_map(|(at, networks)| Some((at, at.bridge?, networks)));
        bridged.flat_map(|(at, bridge, networks)| {
            let networks =
                networks.iter().filter(move |network| Family::of(network.addr()) == family);
            networks.map(move |network| (at, bridge, *network))
        })
    };
    // The longest prefix decides which pods have an address.
    let networks: BTreeSet<_> = bridged()
        .map(|(_, bridge, network)| (Reverse(network.prefix_len()), network, bridge))
        .collect();
    let mut rules = Vec::new();
    for (_, network, bridge) in networks {
        let having =
            bridged().filter(|(_, other, range)| *other == bridge && range.contains(&network));
        let having =
            having.filter_map(|(at, ..)| judges.get(at)).map(|judges| *judges.get(direction));
        let having: Vec<Judges> = having.collect();
        // Policies in audit judge the packets that all enforced policies allow.
        let enforced: BTreeSet<_> = having.iter().filter_map(|judges| judges.enforced).collect();
        let audited: BTreeSet<_> = having.iter().filter_map(|judges| judges.audited).collect();
        let side = Side::of_subject(direction);
        let matches = [
            Match::Address(side, Is::Within(network)),
            Match::Interface(side, IsInterface::Named(bridge)),
            Match::NotBridged,
        ];
        let jumps = enforced.into_iter().chain(audited).map(Verdict::Jump);
        let verdicts = jumps.chain([Verdict::Return]);
        rules.extend(verdicts.map(|verdict| Rule::new(matches.clone(), verdict)));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::attachment::InterfaceName;
    use crate::dataplane::backend::iptables::text;
    use crate::dataplane::name::ChainName;

    #[test]
    fn all_pods_that_have_an_address_judge_what_is_routed_to_it() {
        let name = |text: &str| InterfaceName::new(text).unwrap();
        let chain = |text| Some(ChainName::short(text));
        let (mut ranges, mut judges) = (BTreeMap::new(), BTreeMap::new());
        for (interface, bridge, networks, enforced, audited) in [
            ("veth1", Some("cni0"), &["192.0.2.0/24", "2001:db8::/64"][..], chain("R1"), None),
            ("veth2", Some("cni0"), &["192.0.2.7/32"], chain("R2"), chain("A2")),
            ("veth3", Some("cni1"), &["192.0.2.8/32"], None, None),
            ("cali4", None, &["192.0.2.9/32"], chain("R4"), None),
        ] {
            let at = Attachment { interface: name(interface), bridge: bridge.map(name) };
            let networks: BTreeSet<IpNet> =
                networks.iter().map(|network| network.parse().unwrap()).collect();
            ranges.insert(at, networks);
            let ingress = Judges { enforced, audited };
            judges.insert(at, PerDirection { ingress, egress: Judges::default() });
        }
        let rules = of_bridges(Direction::Ingress, Family::V4, &ranges, &judges);
        let rules: Vec<String> = rules.iter().map(text::rule).collect();
        let (seven, all) = ("-d 192.0.2.7/32 -o cni0", "-d 192.0.2.0/24 -o cni0");
        let not_bridged = "-m physdev ! --physdev-is-bridged";
        assert_eq!(
            rules,
            [
                format!("{seven} {not_bridged} -j PORTCULLIS-R1"),
                format!("{seven} {not_bridged} -j PORTCULLIS-R2"),
                format!("{seven} {not_bridged} -j PORTCULLIS-A2"),
                format!("{seven} {not_bridged} -j RETURN"),
                format!("-d 192.0.2.8/32 -o cni1 {not_bridged} -j RETURN"),
                format!("{all} {not_bridged} -j PORTCULLIS-R1"),
                format!("{all} {not_bridged} -j RETURN"),
            ]
        );
    }
}
