//! The chains of the bridge family, which compare frames of pods with ports of bridges: the chains
//! of IP families cannot match ports. Pure.
//!
//! ```text
//! BRIDGE-IN:  iifname "veth1" -g B…       frames that come in by a port
//! B…:         -s 10.0.0.2/32 -j RETURN    an address of the pod behind the port: judged by the
//!             -g BRIDGE-DENY-OUT          chains of its IP family; any other address: dropped
//! BRIDGE-OUT: oifname "veth1" -g B…       frames that a bridge sends from one port to another
//! B…:         -d 10.0.0.2/32 -j RETURN
//!             -j BRIDGE-PODS              a bridge that does not know where a pod is sends to all ports
//!             -g BRIDGE-DENY-IN           multicast and broadcast, if policies isolate the pod
//! BRIDGE-PODS: -d 10.0.0.3/32 -j DROP
//! ```
//!
//! These chains match neither connections nor policies. So they deny link-local, multicast and
//! broadcast addresses where a policy would have to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use policy_engine::cidr::Family;
use policy_engine::direction::{Direction, PerDirection};

use super::attachment::{Attachment, Attachments};
use super::denial::Denial;
use super::entry::{self, link_local};
use super::name;
use super::options::{DenyAction, Options};
use super::rule::{Chains, Is, IsInterface, Match, Rule, Side, Verdict};
use super::tree::Judges;

/// The input of the chains of one family.
pub(super) struct Ports<'a> {
    pub family: Family,
    pub options: &'a Options,
    pub attachments: &'a Attachments,
    /// The judges of the pod behind each interface.
    pub judges: &'a BTreeMap<Attachment, PerDirection<Judges>>,
    /// Addresses of pods whose interface is not known.
    pub unattached: &'a BTreeSet<IpAddr>,
}

impl Ports<'_> {
    /// The chains for one direction; none where no pod is on a bridge.
    pub(super) fn chains(&self, direction: Direction) -> Chains {
        let mut chains = Chains::new();
        let ports: Vec<_> = self.judges.iter().filter(|(at, _)| at.bridge.is_some()).collect();
        if ports.is_empty() {
            return chains;
        }
        let side = Side::of_subject(direction);
        let mut rules = match self.family {
            Family::V4 => Vec::new(),
            Family::V6 => entry::discovery_rules(self.options, &Verdict::Return),
        };
        let pass = |address: &IpAddr| at_address(side, (*address).into(), Verdict::Return);
        rules.extend(self.unattached.iter().map(pass));
        for (at, judges) in ports {
            let chain = name::bridge_port(direction, at.interface);
            let port = Match::BridgePort(side, IsInterface::Named(at.interface));
            rules.push(Rule::new([port], Verdict::Goto(chain)));
            chains.insert(chain, self.port(direction, *at, *judges.get(direction)).into());
        }
        // An unknown port does not lead to a known pod.
        let deny = Verdict::Goto(name::bridge_denial(direction));
        let all = |verdict: &Verdict| {
            self.bridged().map(|own| at_address(side, (*own).into(), verdict.clone())).collect()
        };
        match direction {
            Direction::Egress => rules.extend::<Vec<Rule>>(all(&deny)),
            // Not reported as denial: a bridge sends a frame to all ports if its port is unknown.
            Direction::Ingress => {
                rules.push(Rule::all(Verdict::Goto(name::BRIDGE_PODS)));
                let others: Vec<Rule> = all(&Verdict::Drop);
                chains.insert(name::BRIDGE_PODS, others.into());
            }
        }
        chains.insert(name::bridge(direction), rules.into());
        let (kind, log) = (Denial::by_address(direction), self.options.denial_log);
        let deny = kind.rules(self.family, DenyAction::Drop, log);
        chains.insert(name::bridge_denial(direction), deny.into());
        chains
    }

    /// The rules for the port that `at` names.
    fn port(&self, direction: Direction, at: Attachment, judges: Judges) -> Vec<Rule> {
        let side = Side::of_subject(direction);
        let own = self.bridged().filter(|address| self.attachments.addresses[*address] == at);
        let extra = self.attachments.extra_ranges.get(&at).into_iter().flatten().copied();
        let extra = extra.filter(|range| Family::of(range.addr()) == self.family);
        let allowed = own.copied().map(IpNet::from).chain(extra);
        let mut rules: Vec<Rule> =
            allowed.map(|network| at_address(side, network, Verdict::Return)).collect();
        let deny = Rule::all(Verdict::Goto(name::bridge_denial(direction)));
        match direction {
            Direction::Egress => {
                if self.family == Family::V6 && judges.enforced.is_none() {
                    rules.push(at_address(side, link_local(), Verdict::Return));
                }
                rules.push(deny);
            }
            Direction::Ingress => {
                rules.push(Rule::all(Verdict::Jump(name::BRIDGE_PODS)));
                rules.extend(judges.enforced.map(|_| deny));
            }
        }
        rules
    }

    /// The addresses of pods on bridges.
    fn bridged(&self) -> impl Iterator<Item = &IpAddr> {
        let addresses = self.attachments.addresses.iter();
        let is_usable =
            |address: &IpAddr| Family::of(*address) == self.family && !address.is_unspecified();
        addresses
            .filter(move |(address, at)| at.bridge.is_some() && is_usable(address))
            .map(|(address, _)| address)
    }
}

fn at_address(side: Side, network: IpNet, verdict: Verdict) -> Rule {
    Rule::new([Match::Address(side, Is::Within(network))], verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::attachment::InterfaceName;
    use crate::dataplane::backend::iptables::text;
    use crate::dataplane::name::ChainName;

    fn at(port: &str) -> Attachment {
        let [interface, bridge] = [port, "cni0"].map(|name| InterfaceName::new(name).unwrap());
        Attachment { interface, bridge: Some(bridge) }
    }

    /// The chains for two pods, of which policies isolate the first one.
    fn rules(direction: Direction, chain: ChainName) -> Vec<String> {
        let isolated = Judges { enforced: Some(ChainName::short("R1")), audited: None };
        let isolated = PerDirection { ingress: isolated, egress: isolated };
        let judges = BTreeMap::from([(at("veth1"), isolated), (at("veth2"), <_>::default())]);
        let address = |text: &str| text.parse().unwrap();
        let addresses = [("fd00::1", "veth1"), ("fd00::2", "veth2")];
        let addresses = addresses.map(|(text, port)| (address(text), at(port)));
        let attachments = Attachments { addresses: addresses.into(), ..Attachments::default() };
        let ports = Ports {
            family: Family::V6,
            options: &Options::default(),
            attachments: &attachments,
            judges: &judges,
            unattached: &BTreeSet::from([address("fd00::9")]),
        };
        let chains = ports.chains(direction);
        chains[&chain].iter().map(text::rule).collect()
    }

    fn port(direction: Direction, port: &str) -> Vec<String> {
        rules(direction, name::bridge_port(direction, at(port).interface))
    }

    #[test]
    fn a_pod_sends_from_its_own_addresses_only() {
        let egress = Direction::Egress;
        let own = "-s fd00::1/128 -j RETURN";
        assert_eq!(port(egress, "veth1"), [own, "-g PORTCULLIS-BRIDGE-DENY-OUT"]);
        assert_eq!(port(egress, "veth2")[1], "-s fe80::/10 -j RETURN", "no policy isolates it");
    }

    #[test]
    fn what_a_bridge_sends_to_all_ports_reaches_one_pod() {
        let ingress = Direction::Ingress;
        let own = "-d fd00::1/128 -j RETURN";
        let others = "-j PORTCULLIS-BRIDGE-PODS";
        assert_eq!(port(ingress, "veth1"), [own, others, "-g PORTCULLIS-BRIDGE-DENY-IN"]);
        assert_eq!(port(ingress, "veth2").len(), 2);
        let others = rules(ingress, name::BRIDGE_PODS);
        assert_eq!(others, ["-d fd00::1/128 -j DROP", "-d fd00::2/128 -j DROP"]);
    }

    #[test]
    fn an_unknown_port_leads_to_no_known_pod() {
        let rules = rules(Direction::Egress, name::bridge(Direction::Egress));
        assert!(rules.contains(&"-s fd00::9/128 -j RETURN".to_owned()), "{rules:?}");
        assert_eq!(rules.last().unwrap(), "-s fd00::2/128 -g PORTCULLIS-BRIDGE-DENY-OUT");
    }
}
