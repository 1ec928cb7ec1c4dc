//! Finds the pod behind an interface, for packets whose address names no known pod: link-local
//! addresses, broadcast and multicast, forged addresses, and those of pods not known yet.
//!
//! ```text
//! SOURCE:      -i cni0 -g PORT-IN                 the bridge of pods
//!              -i cali+ -g I…                     routed pods; I… has one rule per interface
//! PORT-IN:     -m physdev --physdev-in veth1+ -g I…       the ports of bridges
//!              -s fe80::/10 -m physdev --physdev-in veth7 -g R…    judged as the pod
//!              -i cni0 -g DENY-OUT-ADDRESS        any other packet of pods, also at the end of I…
//! DESTINATION: -o cni0 -g PORT-OUT                as SOURCE, for packets to pods
//! PORT-OUT:    -m physdev --physdev-out veth7 --physdev-is-bridged -g R…
//!              -d 192.0.2.7/32 -o cni0 -m physdev ! --physdev-is-bridged -j R…
//! ```
//!
//! The addresses that a pod may use beside its own are treated as its link-local address.
//!
//! Only packets whose address and interface are not in the set of attached addresses enter these
//! chains. So most packets never meet them, however many pods there are.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::cidr::Family;
use policy_engine::direction::{Direction, PerDirection};

use super::attachment::{Attachment, Attachments, InterfaceName};
use super::denial::Denial;

use super::name::{self, ChainName, SetName};
use super::options::UnknownPods;
use super::rule::{Chains, Is, IsInterface, Match, Rule, Side, Verdict};
use super::tree::Judges;
use super::{entry, extra_ranges};

/// How many interfaces or groups of them a chain lists before it is split by the next letter.
const ENTRIES_MAX: usize = 4;

/// How many chains may follow one another: see `tree::LEVELS_MAX`.
const LEVELS_MAX: usize = 5;

/// The input of the chains of one family.
pub(super) struct Interfaces<'a> {
    pub family: Family,
    pub attachments: &'a Attachments,
    /// The judges of the pod behind each interface.
    pub judges: &'a BTreeMap<Attachment, PerDirection<Judges>>,
    pub unknown_pods: UnknownPods,
    /// The set of addresses of pods whose interface is not known; `None` if there are none.
    pub unattached: Option<SetName>,
    /// Whether an interface is found in a map, and ports of bridges in chains of their own.
    pub in_map: bool,
}

impl Interfaces<'_> {
    /// The chains for one direction.
    pub(super) fn chains(&self, direction: Direction) -> Chains {
        let (mut chains, mut rules) = (Chains::new(), Vec::new());
        if let Some(set) = self.unattached {
            let is_unattached = Match::Set(set, Side::of_subject(direction));
            rules.push(Rule::new([is_unattached], Verdict::Return));
        }
        rules.extend(self.bridges(direction, &mut chains));
        rules.extend(self.routed(direction, &mut chains));
        chains.insert(name::unknown_address(direction), rules.into());
        chains
    }

    /// The rules for packets of bridges. The chains that they lead to are added to `chains`.
    fn bridges(&self, direction: Direction, chains: &mut Chains) -> Vec<Rule> {
        let side = Side::of_subject(direction);
        let bridges: BTreeSet<InterfaceName> =
            self.judges.keys().filter_map(|attachment| attachment.bridge).collect();
        let ports = self.judges.iter().filter(|(attachment, _)| attachment.bridge.is_some());
        let entries = ports.map(|(attachment, judges)| {
            (attachment.interface, self.known(direction, *attachment, *judges.get(direction)))
        });
        let by = |bridge, chain| {
            let bridge = Match::Interface(side, IsInterface::Named(bridge));
            Rule::new([bridge], Verdict::Goto(chain))
        };
        let covered = bridges.iter().filter(|bridge| self.denies_unknown(**bridge));
        let deny = covered.map(|bridge| by(*bridge, Denial::by_address(direction).chain()));
        let end: Vec<Rule> = deny.collect();
        let entries: Vec<_> = entries.filter(|(_, rules)| !rules.is_empty()).collect();
        let (ranges, pods) = (&self.attachments.extra_ranges, self.judges);
        if self.in_map {
            let mut rules = extra_ranges::of_bridges(direction, self.family, ranges, pods);
            rules.extend(end);
            return rules;
        }
        if entries.is_empty() {
            return end;
        }
        let mut tree = Tree { direction, side, is_port: true, in_map: false, end: &end, chains };
        let mut ports = tree.rules(&entries);
        if direction == Direction::Ingress {
            ports.extend(extra_ranges::of_bridges(direction, self.family, ranges, pods));
        }
        ports.extend_from_slice(&end);
        let chain = name::bridge_ports(direction);
        chains.insert(chain, ports.into());
        bridges.iter().map(|bridge| by(*bridge, chain)).collect()
    }

    /// The rules for packets of routed pods. The chains that they lead to are added to `chains`.
    fn routed(&self, direction: Direction, chains: &mut Chains) -> Vec<Rule> {
        let deny = Verdict::Goto(Denial::by_address(direction).chain());
        let unknown = self.attachments.pod_interfaces.iter();
        let unknown = unknown.filter(|interface| self.denies_unknown(**interface));
        let mut entries: BTreeMap<InterfaceName, Vec<Rule>> =
            unknown.map(|interface| (*interface, vec![Rule::all(deny.clone())])).collect();
        for (attachment, judges) in self.judges {
            if let Some(bridge) = attachment.bridge {
                entries.remove(&bridge);
            } else {
                let rules = self.known(direction, *attachment, *judges.get(direction));
                entries.insert(attachment.interface, rules);
            }
        }
        entries.retain(|_, rules| !rules.is_empty());
        let side = Side::of_subject(direction);
        let (entries, in_map): (Vec<_>, _) = (entries.into_iter().collect(), self.in_map);
        Tree { direction, side, is_port: false, in_map, end: &[], chains }.rules(&entries)
    }

    /// Whether every packet of `interface` that is of no known pod is denied.
    fn denies_unknown(&self, interface: InterfaceName) -> bool {
        self.unknown_pods == UnknownPods::Deny
            && self.attachments.pod_interfaces.contains(&interface)
    }

    /// The rules for packets of the interface of a known pod.
    fn known(&self, direction: Direction, attachment: Attachment, judges: Judges) -> Vec<Rule> {
        let rest_is_denied = attachment.bridge.is_some_and(|bridge| self.denies_unknown(bridge));
        let or_pass = |mut rules: Vec<Rule>, matches: Vec<Match>| {
            if rules.is_empty() {
                rules.push(Rule::new(matches, Verdict::Return));
            }
            rules
        };
        match direction {
            Direction::Egress => {
                let mut rules = Vec::new();
                let link_local = (self.family == Family::V6).then(entry::link_local);
                let extra = self.attachments.extra_ranges.get(&attachment).into_iter().flatten();
                let extra = extra.copied().filter(|range| Family::of(range.addr()) == self.family);
                for network in link_local.into_iter().chain(extra) {
                    let source = vec![Match::Address(Side::Source, Is::Within(network))];
                    rules.extend(or_pass(judges.rules(&source), source));
                }
                if !rest_is_denied {
                    let deny = Denial::by_address(direction).chain();
                    rules.push(Rule::all(Verdict::Goto(deny)));
                }
                rules
            }
            Direction::Ingress if rest_is_denied => or_pass(judges.rules(&[]), Vec::new()),
            Direction::Ingress => judges.rules(&[]),
        }
    }
}

/// Finds an interface by the letters of its name.
struct Tree<'a> {
    direction: Direction,
    side: Side,
    is_port: bool,
    /// Whether each interface has a chain, and all are listed: the backend looks an interface up.
    in_map: bool,
    /// The last rules of each chain: a packet that enters by `-g` does not return to its caller.
    end: &'a [Rule],
    chains: &'a mut Chains,
}

impl Tree<'_> {
    /// The rules of the chain that the tree begins in; `entries` are sorted by name.
    fn rules(&mut self, entries: &[(InterfaceName, Vec<Rule>)]) -> Vec<Rule> {
        if self.in_map {
            return entries.iter().map(|entry| self.own_chain(entry)).collect();
        }
        match InterfaceName::common_beginning(entries.iter().map(|(name, _)| *name)) {
            // Packets of other interfaces are to meet one rule.
            Some(beginning) if entries.len() > ENTRIES_MAX => {
                vec![self.below(beginning, entries, 0)]
            }
            _ => self.level(0, entries, 0),
        }
    }

    /// The rule for interfaces that begin with `beginning`, and the chain that it leads to.
    fn below(
        &mut self,
        beginning: InterfaceName,
        entries: &[(InterfaceName, Vec<Rule>)],
        level: usize,
    ) -> Rule {
        let chain: ChainName = name::interface_node(self.direction, self.is_port, beginning);
        let mut rules = self.level(beginning.as_str().len(), entries, level + 1);
        rules.extend_from_slice(self.end);
        self.chains.insert(chain, rules.into());
        Rule::new([self.matching(IsInterface::Begins(beginning))], Verdict::Goto(chain))
    }

    /// The rules for interfaces whose names have the first `length` letters in common.
    fn level(
        &mut self,
        length: usize,
        entries: &[(InterfaceName, Vec<Rule>)],
        level: usize,
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        if entries.len() <= ENTRIES_MAX || level == LEVELS_MAX {
            entries.iter().for_each(|entry| rules.extend(self.leaf(entry)));
            return rules;
        }
        let letter =
            |(name, _): &(InterfaceName, Vec<Rule>)| name.as_str().as_bytes().get(length).copied();
        for group in entries.chunk_by(|a, b| letter(a) == letter(b)) {
            let beginning = InterfaceName::common_beginning(group.iter().map(|(name, _)| *name));
            match (group, beginning) {
                ([_, _, ..], Some(beginning)) => rules.push(self.below(beginning, group, level)),
                _ => group.iter().for_each(|entry| rules.extend(self.leaf(entry))),
            }
        }
        rules
    }

    /// The rule for one interface, and the chain that it leads to.
    fn own_chain(&mut self, (name, rules): &(InterfaceName, Vec<Rule>)) -> Rule {
        let chain = name::interface_node(self.direction, self.is_port, *name);
        self.chains.insert(chain, rules.as_slice().into());
        Rule::new([self.matching(IsInterface::Named(*name))], Verdict::Goto(chain))
    }

    fn leaf(&self, (name, rules): &(InterfaceName, Vec<Rule>)) -> Vec<Rule> {
        let own = self.matching(IsInterface::Named(*name));
        let at = |rule: &Rule| {
            Rule::new(rule.matches.iter().cloned().chain([own.clone()]), rule.verdict.clone())
        };
        rules.iter().map(at).collect()
    }

    fn matching(&self, is: IsInterface) -> Match {
        if self.is_port {
            Match::BridgePort(self.side, is)
        } else {
            Match::Interface(self.side, is)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::backend::iptables::text;

    fn interface(name: &str) -> InterfaceName {
        InterfaceName::new(name).unwrap()
    }

    fn port(name: &str) -> Attachment {
        Attachment { interface: interface(name), bridge: Some(interface("cni0")) }
    }

    fn routed(name: &str) -> Attachment {
        Attachment { interface: interface(name), bridge: None }
    }

    struct World {
        family: Family,
        unknown_pods: UnknownPods,
        pod_interfaces: Vec<&'static str>,
        /// Whether policies isolate the pod behind it.
        pods: Vec<(Attachment, bool)>,
    }

    fn chains(direction: Direction, world: &World) -> Chains {
        let pod_interfaces = world.pod_interfaces.iter().map(|name| interface(name)).collect();
        let judge = Judges { enforced: Some(ChainName::short("R")), audited: None };
        let judges = |is_isolated| if is_isolated { judge } else { Judges::default() };
        let judges = world.pods.iter().map(|(attachment, is_isolated)| {
            let judges = judges(*is_isolated);
            (*attachment, PerDirection { ingress: judges, egress: judges })
        });
        Interfaces {
            family: world.family,
            attachments: &Attachments { pod_interfaces, ..Attachments::default() },
            judges: &judges.collect(),
            unknown_pods: world.unknown_pods,
            unattached: None,
            in_map: false,
        }
        .chains(direction)
    }

    fn rules(chains: &Chains, chain: ChainName) -> Vec<String> {
        let short = |rule| text::rule(rule).replace(name::PREFIX, "");
        chains.get(&chain).into_iter().flat_map(|rules| rules.iter()).map(short).collect()
    }

    fn bridge(family: Family, unknown_pods: UnknownPods) -> World {
        let pods = vec![(port("veth1"), true), (port("veth2"), false)];
        World { family, unknown_pods, pod_interfaces: vec!["cni0"], pods }
    }

    #[test]
    fn what_pods_of_a_bridge_send_from_addresses_that_are_not_theirs_is_denied() {
        let chains = chains(Direction::Egress, &bridge(Family::V4, UnknownPods::Deny));
        let source = rules(&chains, name::unknown_address(Direction::Egress));
        assert_eq!(source, ["-i cni0 -g DENY-OUT-ADDRESS"]);
        assert_eq!(chains.len(), 1);
    }

    #[test]
    fn link_local_packets_are_judged_as_their_pod() {
        let chains = chains(Direction::Egress, &bridge(Family::V6, UnknownPods::Deny));
        let source = rules(&chains, name::unknown_address(Direction::Egress));
        assert_eq!(source, ["-i cni0 -g PORT-IN"]);
        assert_eq!(
            rules(&chains, name::bridge_ports(Direction::Egress)),
            [
                "-s fe80::/10 -m physdev --physdev-in veth1 -g R",
                "-s fe80::/10 -m physdev --physdev-in veth2 -j RETURN",
                "-i cni0 -g DENY-OUT-ADDRESS",
            ]
        );
    }

    #[test]
    fn broadcast_and_multicast_are_judged_by_the_port_that_they_leave_by() {
        for family in Family::BOTH {
            let chains = chains(Direction::Ingress, &bridge(family, UnknownPods::Deny));
            let destination = rules(&chains, name::unknown_address(Direction::Ingress));
            assert_eq!(destination, ["-o cni0 -g PORT-OUT"]);
            assert_eq!(
                rules(&chains, name::bridge_ports(Direction::Ingress)),
                [
                    "-m physdev --physdev-out veth1 --physdev-is-bridged -g R",
                    "-m physdev --physdev-out veth2 --physdev-is-bridged -j RETURN",
                    "-o cni0 -g DENY-IN-ADDRESS",
                ]
            );
        }
    }

    #[test]
    fn where_unknown_pods_may_send_known_ones_may_not_forge_addresses() {
        let chains = chains(Direction::Egress, &bridge(Family::V4, UnknownPods::Allow));
        assert_eq!(
            rules(&chains, name::bridge_ports(Direction::Egress)),
            [
                "-m physdev --physdev-in veth1 -g DENY-OUT-ADDRESS",
                "-m physdev --physdev-in veth2 -g DENY-OUT-ADDRESS",
            ]
        );
    }

    #[test]
    fn a_bridge_that_leads_elsewhere_too_denies_no_packet_of_others() {
        let mut world = bridge(Family::V4, UnknownPods::Deny);
        world.pod_interfaces.clear();
        let source = chains(Direction::Egress, &world);
        let ports = rules(&source, name::bridge_ports(Direction::Egress));
        assert!(ports.iter().all(|rule| rule.contains("--physdev-in")), "{ports:?}");
        let destination = chains(Direction::Ingress, &world);
        assert_eq!(
            rules(&destination, name::bridge_ports(Direction::Ingress)),
            ["-m physdev --physdev-out veth1 --physdev-is-bridged -g R"]
        );
    }

    #[test]
    fn a_routed_pod_is_found_by_its_interface() {
        let pods = vec![(routed("cali1"), true), (routed("cali2"), false)];
        let pod_interfaces = vec!["cali1", "cali2", "cali3"];
        let (family, unknown_pods) = (Family::V6, UnknownPods::Deny);
        let world = World { family, unknown_pods, pod_interfaces, pods };
        let show = |direction| rules(&chains(direction, &world), name::unknown_address(direction));
        assert_eq!(
            show(Direction::Egress),
            [
                "-s fe80::/10 -i cali1 -g R",
                "-i cali1 -g DENY-OUT-ADDRESS",
                "-s fe80::/10 -i cali2 -j RETURN",
                "-i cali2 -g DENY-OUT-ADDRESS",
                "-i cali3 -g DENY-OUT-ADDRESS",
            ]
        );
        assert_eq!(show(Direction::Ingress), ["-o cali1 -g R", "-o cali3 -g DENY-IN-ADDRESS"]);
    }

    #[test]
    fn many_interfaces_are_found_in_a_few_steps() {
        let name = |number: u32| format!("veth{:08x}", number.wrapping_mul(0x9e37_79b9));
        let pods = (0..250).map(|number| (port(&name(number)), true)).collect();
        let (family, unknown_pods) = (Family::V6, UnknownPods::Deny);
        let pod_interfaces = vec!["cni0"];
        let chains =
            chains(Direction::Egress, &World { family, unknown_pods, pod_interfaces, pods });
        let mut steps = (0, 0);
        walk(&chains, name::bridge_ports(Direction::Egress), (0, 0), &mut steps);
        let (rules_max, chains_max) = steps;
        assert!(rules_max <= 2 + 17 + 17 + ENTRIES_MAX, "{rules_max} rules");
        assert!(chains_max <= LEVELS_MAX + 1, "{chains_max} chains");
        let judged = chains.values().flat_map(|rules| rules.iter());
        let judged = judged.filter(|rule| rule.matches.len() == 2).count();
        assert_eq!(judged, 250);
        let deny = Verdict::Goto(Denial::by_address(Direction::Egress).chain());
        let source = name::unknown_address(Direction::Egress);
        let ports = chains.iter().filter(|(chain, _)| **chain != source);
        for (chain, rules) in ports {
            assert_eq!(rules.last().unwrap().verdict, deny, "nothing leaves {chain} unjudged");
        }
    }

    /// The longest way through the chains from one on, in rules and in chains.
    fn walk(
        chains: &Chains,
        chain: ChainName,
        so_far: (usize, usize),
        longest: &mut (usize, usize),
    ) {
        let (rules, depth) = so_far;
        for (index, rule) in chains[&chain].iter().enumerate() {
            let here = (rules + index + 1, depth + 1);
            *longest = (longest.0.max(here.0), longest.1.max(here.1));
            if let Verdict::Goto(next) = rule.verdict
                && chains.contains_key(&next)
            {
                walk(chains, next, here, longest);
            }
        }
    }

    #[test]
    fn names_that_differ_late_need_no_chain_more_than_the_kernel_allows() {
        let names = (1..=14).flat_map(|length| ["a", "b"].map(|end| "x".repeat(length) + end));
        let pods = names.map(|name| (routed(&name), true)).collect::<Vec<_>>();
        let count = pods.len();
        let (family, unknown_pods) = (Family::V4, UnknownPods::Allow);
        let world = World { family, unknown_pods, pod_interfaces: Vec::new(), pods };
        let chains = chains(Direction::Egress, &world);
        let mut steps = (0, 0);
        walk(&chains, name::unknown_address(Direction::Egress), (0, 0), &mut steps);
        assert!(steps.1 <= LEVELS_MAX + 2, "{steps:?}");
        let deny = Verdict::Goto(Denial::by_address(Direction::Egress).chain());
        let denied = chains.values().flat_map(|rules| rules.iter());
        let denied = denied.filter(|rule| rule.verdict == deny).count();
        assert_eq!(denied, count);
    }
}
