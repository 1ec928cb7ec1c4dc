//! The result of the engine for a dataplane: shared rulesets, address sets, and the rulesets of
//! each pod.
//!
//! ```text
//! endpoints: address ──► ruleset (one for ingress, one for egress; none when all is allowed)
//!                   └──► audited ruleset, where policies in audit would deny more
//! rulesets:  rules in order, then: allow, deny, or another ruleset ──► address sets by id
//! sets:      id ──► members, updated by deltas
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cidr::CidrSet;
use crate::direction::{Direction, PerDirection};
use crate::flow::Traffic;
use crate::id::{RulesetId, SetId};
use crate::model::PodKey;
use crate::port::{PortRange, Protocol};
use crate::tier::{Tier, View};

/// Everything that a dataplane has to apply. The maps are ordered, so that the same world gives the
/// same bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Compiled {
    /// The addresses of subjects that have a ruleset, enforced or audited, in some direction.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// The rulesets that pods get once the dataplane has all members of their sets. The dataplane
    /// makes them although no endpoint refers to them.
    pub waiting: BTreeSet<(View, RulesetId)>,
    /// Every ruleset that an endpoint, `waiting` or another ruleset refers to.
    pub rulesets: BTreeMap<RulesetId, Arc<Ruleset>>,
    /// Every set that a ruleset refers to.
    pub sets: BTreeMap<SetId, AddressSet>,
}

impl Compiled {
    /// Whether the first packet of a connection is allowed in both directions, by lookups alone.
    ///
    /// Nodes are plain addresses here: the dataplane does not apply rulesets to packets from a node
    /// to its own pods.
    #[must_use]
    pub fn allows(&self, source: IpAddr, destination: IpAddr, traffic: Traffic) -> bool {
        // A pod can always connect to itself.
        source == destination
            || (self.allows_in(Direction::Egress, source, destination, traffic)
                && self.allows_in(Direction::Ingress, destination, source, traffic))
    }

    /// Whether the ruleset of `subject` for one direction allows traffic with `peer`.
    #[must_use]
    pub fn allows_in(
        &self,
        direction: Direction,
        subject: IpAddr,
        peer: IpAddr,
        traffic: Traffic,
    ) -> bool {
        let endpoint = self.endpoints.get(&subject);
        let ruleset = endpoint.and_then(|endpoint| endpoint.enforced.get(direction).as_ref());
        ruleset.is_none_or(|id| self.judge(id, peer, traffic) == Judged::Allowed)
    }

    /// The tier whose policies in audit would deny traffic that [`Compiled::allows`] allows; `None`
    /// when there is no such tier.
    #[must_use]
    pub fn would_deny(
        &self,
        direction: Direction,
        subject: IpAddr,
        peer: IpAddr,
        traffic: Traffic,
    ) -> Option<Tier> {
        let audit = self.endpoints.get(&subject)?.audited.get(direction).as_ref()?;
        let denied = self.judge(audit, peer, traffic).denied();
        denied.filter(|_| self.allows_in(direction, subject, peer, traffic))
    }

    /// The tier that denies a packet; `None` when it is allowed or the ruleset is missing.
    #[must_use]
    pub fn denied_by(
        &self,
        direction: Direction,
        subject: IpAddr,
        peer: IpAddr,
        traffic: Traffic,
    ) -> Option<Tier> {
        let ruleset = self.endpoints.get(&subject)?.enforced.get(direction).as_ref()?;
        self.judge(ruleset, peer, traffic).denied()
    }

    /// The decision of a ruleset. A ruleset that is missing denies everything: fail closed.
    fn judge(&self, id: &RulesetId, peer: IpAddr, traffic: Traffic) -> Judged {
        let Some(ruleset) = self.rulesets.get(id) else { return Judged::Denied(None) };
        let first = ruleset.rules.iter().find(|rule| self.matches(&rule.matches, peer, traffic));
        match first.map_or(ruleset.otherwise, |rule| rule.target) {
            Target::Allow => Judged::Allowed,
            Target::Deny => Judged::Denied(Some(ruleset.tier)),
            Target::Next(next) => self.judge(&next, peer, traffic),
        }
    }

    fn matches(&self, rule: &Match, peer: IpAddr, traffic: Traffic) -> bool {
        let has = |set: &SetId, member: Member| {
            self.sets.get(set).is_some_and(|set| set.members.contains(&member))
        };
        match (rule, traffic) {
            (Match::Peers { traffic: wanted, labelled, cidrs }, _) => {
                wanted.matches(traffic)
                    && (cidrs.contains(peer)
                        || labelled.as_ref().is_some_and(|set| has(set, Member::Address(peer))))
            }
            (Match::PeerPorts { set }, Traffic::Port(protocol, port)) => {
                has(set, Member::AddressPort(peer, protocol, port))
            }
            (Match::PeerPorts { .. }, Traffic::Other) => false,
        }
    }
}

/// The rulesets for one address of a subject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The pod that has the address.
    pub pod: PodKey,
    /// The rulesets for packets to and from this address; `None` where all packets are allowed.
    pub enforced: PerDirection<Option<RulesetId>>,
    /// The rulesets that would be enforced if policies in audit were; `None` where they are the
    /// same.
    pub audited: PerDirection<Option<RulesetId>>,
}

/// The rules of one tier. All endpoints with equal rules share one ruleset.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ruleset {
    /// The direction: for ingress the peer is the source of a packet, for egress the destination.
    pub direction: Direction,
    /// The tier that the rules belong to.
    pub tier: Tier,
    /// The rules; the first one that matches decides. Consecutive rules with the same target are in
    /// canonical order.
    pub rules: Vec<Rule>,
    /// The target of packets that no rule matches.
    pub otherwise: Target,
}

/// One rule of a ruleset.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// The packets that it matches.
    pub matches: Match,
    /// The target of these packets.
    pub target: Target,
}

/// The decision about a packet in one direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// The packet is allowed.
    Allow,
    /// The tier of the ruleset denies the packet.
    Deny,
    /// The tiers below decide, with this ruleset of the same direction.
    Next(RulesetId),
}

/// The final decision of a chain of rulesets about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judged {
    Allowed,
    /// The packet is denied by this tier; `None` when a ruleset is missing.
    Denied(Option<Tier>),
}

impl Judged {
    /// The tier that denies the packet, if there is one.
    fn denied(self) -> Option<Tier> {
        match self {
            Self::Denied(tier) => tier,
            Self::Allowed => None,
        }
    }
}

/// Matches packets whose traffic and peer both match.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Match {
    /// Peers by address, for some or all ports.
    Peers {
        /// The traffic.
        traffic: TrafficMatch,
        /// A set of kind [`SetKind::Addresses`] with the peers that are pods and nodes by labels.
        labelled: Option<SetId>,
        /// The peers by address. A family of which every address matches needs no lookup.
        cidrs: CidrSet,
    },
    /// The address of the peer with the destination port, in a set of kind
    /// [`SetKind::AddressPorts`].
    PeerPorts {
        /// The set.
        set: SetId,
    },
}

/// The traffic that a rule matches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TrafficMatch {
    /// Every protocol, protocols without ports included.
    Any,
    /// Destination ports of one protocol: sorted, disjoint, never adjacent, not empty.
    Ports(Protocol, Vec<PortRange>),
}

impl TrafficMatch {
    /// Whether it matches the protocol and port of a flow.
    #[must_use]
    pub fn matches(&self, traffic: Traffic) -> bool {
        match (self, traffic) {
            (Self::Any, _) => true,
            (Self::Ports(wanted, ranges), Traffic::Port(protocol, port)) => {
                *wanted == protocol && ranges.iter().any(|range| range.contains(port))
            }
            (Self::Ports(..), Traffic::Other) => false,
        }
    }
}

/// A set of addresses that many rulesets can refer to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressSet {
    /// The kind of the members.
    pub kind: SetKind,
    /// The members of both families.
    pub members: BTreeSet<Member>,
}

/// The kind of a set's members.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SetKind {
    /// Members are [`Member::Address`].
    Addresses,
    /// Members are [`Member::AddressPort`].
    AddressPorts,
}

/// One member of a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Member {
    /// An address.
    Address(IpAddr),
    /// The address of the peer with a destination port.
    AddressPort(IpAddr, Protocol, u16),
}

impl Member {
    /// The address of the member.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Address(address) | Self::AddressPort(address, _, _) => *address,
        }
    }
}

/// As ipset writes it, with the protocol as a number: `10.0.0.1`, or `10.0.0.1,6:80`.
impl fmt::Display for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::AddressPort(address, protocol, port) => {
                write!(formatter, "{address},{}:{port}", protocol.number())
            }
        }
    }
}

/// The changes to [`Compiled`] in one flush. A set in none of the three fields did not change.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Update {
    /// Sets that are new; their members are in [`Compiled::sets`].
    pub sets_created: BTreeSet<SetId>,
    /// Sets that existed before and still do, with their added and removed members.
    pub sets_changed: BTreeMap<SetId, SetDelta>,
    /// Sets that were removed.
    pub sets_removed: BTreeSet<SetId>,
    /// Whether `endpoints`, `waiting` or `rulesets` changed.
    pub rules_changed: bool,
}

impl Update {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// The changes to the members of a set.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SetDelta {
    /// The members that were added.
    pub added: BTreeSet<Member>,
    /// The members that were removed.
    pub removed: BTreeSet<Member>,
}
