//! What the kernel should hold for a [`Compiled`]: chains, hooks and sets as values. Pure.
//!
//! ```text
//! FORWARD 1 ─► PORTCULLIS-FORWARD ─► JUDGE: unknown source ─► SOURCE
//!                                           EGRESS tree ──────► R…
//!                                           unknown destination ─► DESTINATION
//!                                           INGRESS tree ─────► R…
//! INPUT 1   ─► PORTCULLIS-INPUT ───► NODE:  unknown source ─► SOURCE, EGRESS tree ─► R…
//! R… of one tier ─► R… of the next that decides ─► DENY-… of the kind of denial
//! A… for policies in audit, likewise            ─► AUDIT-…
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use policy_engine::cidr::Family;
use policy_engine::compiled::{Compiled, Endpoint};
use policy_engine::direction::{Direction, PerDirection};
use policy_engine::id::RulesetId;
use policy_engine::tier::View;

use super::attachment::{Attachment, Attachments};
use super::denial::{Denial, deny_rules};
use super::feature::Feature;
use super::interface_chains::Interfaces;
use super::name::{self, ChainName, SetName};
use super::options::{AcceptAction, Options};
use super::refusals::Refusals;
use super::rule::{Chains, Hook, Is, IsInterface, Match, Rule, Side, Verdict};
use super::ruleset::Renderer;
use super::set::{DesiredSet, Element, Kind, Source};
use super::tree::{self, Judges, Place};

/// What the kernel should hold. Sets borrow their members from the engine.
#[derive(Clone, Debug)]
pub struct Desired<'a> {
    /// Our chains of each family that is enforced.
    pub tables: BTreeMap<Family, Chains>,
    /// The hooks of each of these families.
    pub hooks: BTreeSet<Hook>,
    /// Our sets.
    pub sets: BTreeMap<SetName, DesiredSet<'a>>,
    /// Enforced rulesets whose rules deny more than the policies do, because something was refused:
    /// why.
    pub denied: BTreeMap<(Family, RulesetId), Arc<str>>,
}

/// What is enforced: the policies, and how the pods that they are about are attached.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The compiled policies.
    pub compiled: &'a Compiled,
    /// How the pods that are known are attached.
    pub attachments: &'a Attachments,
    /// What the user has chosen.
    pub options: &'a Options,
    /// What the tools or the kernel refused.
    pub refusals: &'a Refusals,
}

impl<'a> Desired<'a> {
    /// What enforces `wanted` for `families`.
    #[must_use]
    pub fn new(wanted: Wanted<'a>, families: &[Family]) -> Self {
        let mut desired = Self {
            tables: BTreeMap::new(),
            hooks: BTreeSet::from([Hook::Forward]),
            sets: BTreeMap::new(),
            denied: BTreeMap::new(),
        };
        if !wanted.options.allow_egress_to_own_node {
            desired.hooks.insert(Hook::Input);
        }
        for family in families {
            desired.add_family(*family, wanted);
        }
        desired
    }

    fn add_family(&mut self, family: Family, wanted: Wanted<'a>) {
        let Wanted { compiled, attachments, options, .. } = wanted;
        let checks_addresses =
            options.checks_interfaces() && *attachments != Attachments::default();
        let mut chains = skeleton(family, wanted, checks_addresses);
        let mut used = BTreeSet::new();
        let mut judges_of =
            |endpoint: &Endpoint, direction| judges(compiled, endpoint, direction, &mut used);
        for direction in Direction::BOTH {
            let mut places: BTreeMap<IpAddr, Place> = BTreeMap::new();
            for (address, endpoint) in of_family(&compiled.endpoints, family) {
                places.entry(*address).or_default().judges = judges_of(endpoint, direction);
            }
            if checks_addresses {
                for (address, attachment) in of_family(&attachments.addresses, family) {
                    places.entry(*address).or_default().attachment = Some(*attachment);
                }
            }
            chains.extend(tree::chains(direction, &places));
        }
        let mut denials = BTreeSet::new();
        if checks_addresses {
            let mut by_interface: BTreeMap<Attachment, PerDirection<Judges>> = BTreeMap::new();
            // Of both families: a pod of IPv4 alone has a link-local IPv6 address, too.
            for (address, attachment) in &attachments.addresses {
                let judges = by_interface.entry(*attachment).or_default();
                if let Some(endpoint) = compiled.endpoints.get(address) {
                    for direction in Direction::BOTH {
                        *judges.get_mut(direction) = judges_of(endpoint, direction);
                    }
                }
            }
            let unattached = self.add_attached_sets(family, wanted);
            let interfaces = Interfaces {
                family,
                attachments,
                judges: &by_interface,
                unknown_pods: options.unknown_pods,
                unattached,
            };
            for direction in Direction::BOTH {
                chains.extend(interfaces.chains(direction));
                denials.insert(Denial::by_address(direction));
            }
        }
        self.add_rulesets(family, wanted, used, denials, &mut chains);
        if options.accept == AcceptAction::Accept {
            // Policies in audit change nothing: not even what is accepted.
            let isolated = |endpoint: &Endpoint| {
                Direction::BOTH.iter().any(|d| endpoint.enforced.get(*d).is_some())
            };
            let isolated = of_family(&compiled.endpoints, family).filter(|(_, e)| isolated(e));
            let elements = isolated.map(|(address, _)| Element::Address(*address)).collect();
            self.sets.insert(name::local_set(family), local(Kind::Address, family, elements));
        }
        self.tables.insert(family, chains);
    }

    /// Adds the set of attached addresses; gives the set of those that are not, if there are any.
    fn add_attached_sets(&mut self, family: Family, wanted: Wanted<'_>) -> Option<SetName> {
        let Wanted { compiled, attachments, .. } = wanted;
        let elements = of_family(&attachments.addresses, family)
            .map(|(address, _)| Element::Address(*address));
        self.sets
            .insert(name::attached_set(family), local(Kind::Address, family, elements.collect()));
        let endpoints = of_family(&compiled.endpoints, family).map(|(address, _)| address);
        let unattached = endpoints.filter(|address| !attachments.addresses.contains_key(address));
        let others =
            attachments.unattached.iter().filter(|address| Family::of(**address) == family);
        let elements: BTreeSet<Element> =
            unattached.chain(others).copied().map(Element::Address).collect();
        if elements.is_empty() {
            return None;
        }
        let name = name::unattached_set(family);
        self.sets.insert(name, local(Kind::Address, family, elements));
        Some(name)
    }

    /// Adds the chains of the rulesets in `used`, and of all that they lead to.
    fn add_rulesets(
        &mut self,
        family: Family,
        wanted: Wanted<'a>,
        mut used: BTreeSet<(View, RulesetId)>,
        denials: BTreeSet<Denial>,
        chains: &mut Chains,
    ) {
        let Wanted { compiled, options, refusals, .. } = wanted;
        let mut renderer = Renderer::new(family, compiled, refusals);
        renderer.denials = denials;
        while let Some((view, id)) = used.pop_first() {
            let name = name::ruleset(view, &id);
            if chains.contains_key(&name) {
                continue;
            }
            let refused = refusals.chains.get(&(family, name));
            let rules = match (compiled.rulesets.get(&id), refused) {
                (Some(ruleset), None) => renderer.rules(view, ruleset),
                (Some(ruleset), Some(_)) => renderer.deny(view, ruleset),
                // Whose it was is not known either: it denies all, in nobody's name.
                (None, _) => deny_rules(family, options.deny),
            };
            let refused = renderer.refused.take().or_else(|| refused.cloned());
            if let (View::Enforced, Some(why)) = (view, refused) {
                self.denied.insert((family, id), why);
            }
            chains.insert(name, rules);
            used.extend(mem::take(&mut renderer.next).into_iter().map(|next| (view, next)));
        }
        for denial in renderer.denials {
            let rules = denial.rules(family, options.deny, options.denial_log);
            chains.insert(denial.chain(), rules);
        }
        self.sets.append(&mut renderer.needed);
    }
}

/// The judges of an endpoint's packets. The rulesets that they need are added to `used`.
fn judges(
    compiled: &Compiled,
    endpoint: &Endpoint,
    direction: Direction,
    used: &mut BTreeSet<(View, RulesetId)>,
) -> Judges {
    let enforced = endpoint.enforced.get(direction).as_ref();
    // Without its ruleset nothing is known that audit could tell.
    let audited = endpoint.audited.get(direction).as_ref();
    let audited = audited.filter(|id| compiled.rulesets.contains_key(*id));
    used.extend(enforced.map(|id| (View::Enforced, *id)));
    used.extend(audited.map(|id| (View::Audited, *id)));
    Judges {
        enforced: enforced.map(|id| name::ruleset(View::Enforced, id)),
        audited: audited.map(|id| name::ruleset(View::Audited, id)),
    }
}

fn of_family<T>(
    addresses: &BTreeMap<IpAddr, T>,
    family: Family,
) -> impl Iterator<Item = (&IpAddr, &T)> {
    let is_usable =
        move |address: &IpAddr| Family::of(*address) == family && !address.is_unspecified();
    addresses.iter().filter(move |(address, _)| is_usable(address))
}

fn local<'a>(kind: Kind, family: Family, elements: BTreeSet<Element>) -> DesiredSet<'a> {
    DesiredSet { kind, family, source: Source::Local(elements) }
}

/// The chains that are there whatever the policies are.
fn skeleton(family: Family, wanted: Wanted<'_>, checks_addresses: bool) -> Chains {
    let options = wanted.options;
    let mut chains = Chains::new();
    let accept = options.accept == AcceptAction::Accept;
    let established = if accept { Verdict::Goto(name::ACCEPT) } else { Verdict::Return };
    let routers = (checks_addresses && family == Family::V6).then_some(name::ROUTER);
    chains.insert(name::FORWARD, entry(family, options, name::JUDGE, established, routers));
    let [ingress, egress] = Direction::BOTH.map(name::root);
    let unknown = |direction| {
        let unknown = Match::NotInSet(name::attached_set(family), Side::of_subject(direction));
        let chain = name::unknown_address(direction);
        checks_addresses.then(|| Rule::new([unknown], Verdict::Jump(chain)))
    };
    if !options.allow_egress_to_own_node {
        // Never a terminal accept here: the node's own firewall decides on.
        chains.insert(name::INPUT, entry(family, options, name::NODE, Verdict::Return, routers));
        let mut node = Vec::from_iter(unknown(Direction::Egress));
        node.push(Rule::all(Verdict::Goto(egress)));
        chains.insert(name::NODE, node);
    }
    let mut judge = Vec::from_iter(unknown(Direction::Egress));
    judge.push(Rule::all(Verdict::Jump(egress)));
    judge.extend(unknown(Direction::Ingress));
    if accept {
        let local = name::local_set(family);
        let accept_local = |side| Rule::new([Match::Set(local, side)], Verdict::Accept);
        let rules = [Side::Source, Side::Destination].map(accept_local);
        chains.insert(name::ACCEPT, rules.into());
        judge.extend([Verdict::Jump(ingress), Verdict::Goto(name::ACCEPT)].map(Rule::all));
    } else {
        judge.push(Rule::all(Verdict::Goto(ingress)));
    }
    chains.insert(name::JUDGE, judge);
    chains.extend(routers.map(|chain| (chain, from_no_pod(wanted.attachments))));
    chains
}

/// Which packets are judged at all. `routers` is the chain for what only routers send.
fn entry(
    family: Family,
    options: &Options,
    judge: ChainName,
    established: Verdict,
    routers: Option<ChainName>,
) -> Vec<Rule> {
    // A SYN or INIT opens a connection whatever conntrack remembers of its ports: an entry in state
    // CLOSE or LAST_ACK would make it ESTABLISHED.
    let mut rules = vec![Rule::new([Match::TcpSyn, Match::NotRelated], Verdict::Goto(judge))];
    if options.has(Feature::SctpChunks) {
        // In front of it: packets of other established connections are to meet two rules only.
        let others = [Match::NotSctp, Match::RelatedOrEstablished];
        rules.push(Rule::new(others, established.clone()));
        rules.push(Rule::new([Match::SctpInit], Verdict::Goto(judge)));
    }
    rules.push(Rule::new([Match::RelatedOrEstablished], established));
    if family == Family::V6 {
        rules.push(Rule::new([Match::NotIcmpv6], Verdict::Goto(judge)));
        let from_routers = routers.map_or(Verdict::Return, Verdict::Goto);
        // Without these there is no IPv6. They never leave a link: only so they are what they say,
        // and carry nothing further.
        for kind in NEIGHBOUR_DISCOVERY {
            let verdict = match kind {
                ROUTER_ADVERTISEMENT | REDIRECT => from_routers.clone(),
                _ => Verdict::Return,
            };
            rules.push(Rule::new(discovery(options, kind, 255), verdict));
        }
        for kind in MULTICAST_LISTENER_DISCOVERY {
            let link = Match::Address(Side::Destination, Is::Within(link_scope()));
            let matches = discovery(options, kind, 1).chain([link]);
            rules.push(Rule::new(matches, Verdict::Return));
        }
    }
    rules.push(Rule::all(Verdict::Goto(judge)));
    rules
}

/// What a message of discovery has.
fn discovery(options: &Options, kind: u8, hop_limit: u8) -> impl Iterator<Item = Match> {
    let hop_limit = options.has(Feature::HopLimit).then_some(Match::HopLimit(hop_limit));
    [Match::Icmpv6(kind)].into_iter().chain(hop_limit)
}

/// RFC 4861, 4.2.
const ROUTER_ADVERTISEMENT: u8 = 134;
/// RFC 4861, 4.5.
const REDIRECT: u8 = 137;
/// RFC 4861: all have hop limit 255, which no router passes on.
const NEIGHBOUR_DISCOVERY: [u8; 5] = [133, ROUTER_ADVERTISEMENT, 135, 136, REDIRECT];
/// RFC 2710 and RFC 3810: all have hop limit 1, and an address of this link as destination.
const MULTICAST_LISTENER_DISCOVERY: [u8; 4] = [130, 131, 132, 143];

/// `ff02::/16`: multicast on one link, RFC 4291, 2.7.
fn link_scope() -> IpNet {
    let first = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0);
    Ipv6Net::new(first, 16).map(IpNet::from).expect("16 is a length of an IPv6 prefix")
}

/// Pods are no routers: what only routers send is dropped if it comes from a pod.
fn from_no_pod(attachments: &Attachments) -> Vec<Rule> {
    let deny = Denial::by_address(Direction::Egress).chain();
    let from = |interface| Match::Interface(Side::Source, IsInterface::Named(interface));
    let bridges: BTreeSet<_> =
        attachments.addresses.values().filter_map(|attachment| attachment.bridge).collect();
    // A routed pod is alone on its link: only its own node hears it.
    let of_pods = bridges.intersection(&attachments.pod_interfaces).copied();
    of_pods.map(|bridge| Rule::new([from(bridge)], Verdict::Goto(deny))).collect()
}
