//! What the engine hands to a dataplane: shared rulesets, address sets, and which pod has which.
//!
//! ```text
//! endpoints: address ──► ruleset (one for ingress, one for egress; none when all may pass)
//!                   └──► ruleset in audit, where it would deny what the other lets pass
//! rulesets:  rules in order, then: allow, deny, or another ruleset ──► address sets by id
//! sets:      id ──► members, kept current by deltas
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cidr::CidrSet;
use crate::direction::{Direction, PerDirection};
use crate::flow::Traffic;
use crate::id::{RulesetId, SetId};
use crate::model::PodKey;
use crate::port::{PortRange, Protocol};
use crate::tier::Tier;

/// All that is to be enforced now. Ordered maps: the same world gives the same bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Compiled {
    /// The subject addresses that have a ruleset in some direction, be it in audit.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Every ruleset that an endpoint or another ruleset refers to.
    pub rulesets: BTreeMap<RulesetId, Arc<Ruleset>>,
    /// Every set that a ruleset refers to.
    pub sets: BTreeMap<SetId, AddressSet>,
}

impl Compiled {
    /// Whether a packet that opens a connection passes both directions, by look-ups alone.
    ///
    /// Nodes are plain addresses here: what a node sends to its own pods never meets a ruleset.
    #[must_use]
    pub fn allows(&self, source: IpAddr, destination: IpAddr, traffic: Traffic) -> bool {
        // A pod always reaches itself.
        source == destination
            || (self.admits(Direction::Egress, source, destination, traffic)
                && self.admits(Direction::Ingress, destination, source, traffic))
    }

    /// Whether the ruleset of `subject` for one direction admits `peer`.
    #[must_use]
    pub fn admits(
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

    /// The tier whose policies in audit would deny what [`Compiled::admits`]; `None`: they would
    /// not.
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
        denied.filter(|_| self.admits(direction, subject, peer, traffic))
    }

    /// The tier that denies a packet; `None` when it is admitted or no ruleset is there.
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

    /// A ruleset that is missing admits nothing: fail closed.
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

/// What holds for one address of a subject pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Whose address it is.
    pub pod: PodKey,
    /// The rulesets for packets to and from this address; `None`: all pass.
    pub enforced: PerDirection<Option<RulesetId>>,
    /// What would hold if policies in audit were in force; `None`: nothing more would be denied.
    pub audited: PerDirection<Option<RulesetId>>,
}

/// What one tier says, and where that leads. Shared by all endpoints with equal rules.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ruleset {
    /// Tells which side of a packet is the peer: the source for ingress.
    pub direction: Direction,
    /// Whose rules these are; what they deny, this tier denies.
    pub tier: Tier,
    /// The first match decides. Among neighbours of the same target the order is canonical.
    pub rules: Vec<Rule>,
    /// What becomes of packets that no rule matches.
    pub otherwise: Target,
}

/// One rule of a ruleset.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// What matches.
    pub matches: Match,
    /// What becomes of a match.
    pub target: Target,
}

/// What becomes of a packet in one direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// Allowed.
    Allow,
    /// Denied, by the tier of the ruleset.
    Deny,
    /// The tiers below decide, by this ruleset of the same direction.
    Next(RulesetId),
}

/// What came of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judged {
    Allowed,
    /// By which tier; `None` when the ruleset is missing.
    Denied(Option<Tier>),
}

impl Judged {
    /// The tier that denies, where one does.
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
        /// Which traffic.
        traffic: TrafficMatch,
        /// A set of kind [`SetKind::Addresses`] that may hold the peer: pods and nodes by labels.
        labelled: Option<SetId>,
        /// Networks that may hold the peer. A family that is whole needs no look-up.
        cidrs: CidrSet,
    },
    /// Peer address together with destination port, in a set of kind [`SetKind::AddressPorts`].
    PeerPorts {
        /// The set.
        set: SetId,
    },
}

/// Which traffic a rule is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TrafficMatch {
    /// Every protocol, those without ports included.
    Any,
    /// Destination ports of one protocol: sorted, disjoint, never adjacent, not empty.
    Ports(Protocol, Vec<PortRange>),
}

impl TrafficMatch {
    /// Whether a flow's protocol and port are among these.
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

/// A set of members that many rulesets can refer to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressSet {
    /// What the members are.
    pub kind: SetKind,
    /// The members of both families.
    pub members: BTreeSet<Member>,
}

/// What a set's members are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SetKind {
    /// [`Member::Address`].
    Addresses,
    /// [`Member::AddressPort`].
    AddressPorts,
}

/// One member of a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Member {
    /// An address.
    Address(IpAddr),
    /// A destination port at an address (egress), or from an address (ingress).
    AddressPort(IpAddr, Protocol, u16),
}

impl Member {
    /// The address part.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Address(address) | Self::AddressPort(address, _, _) => *address,
        }
    }
}

/// What one flush changed in [`Compiled`]. A set that is in none of the three is as it was.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Update {
    /// Sets that are new; their members are in [`Compiled::sets`].
    pub sets_created: BTreeSet<SetId>,
    /// Sets that stay, with what came and went.
    pub sets_changed: BTreeMap<SetId, SetDelta>,
    /// Sets that are gone.
    pub sets_removed: BTreeSet<SetId>,
    /// Whether `endpoints` or `rulesets` changed.
    pub rules_changed: bool,
}

impl Update {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// How a set's members changed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SetDelta {
    /// Members that were not there before.
    pub added: BTreeSet<Member>,
    /// Members that are no longer there.
    pub removed: BTreeSet<Member>,
}
