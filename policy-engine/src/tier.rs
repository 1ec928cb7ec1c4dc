//! Tiers: policies of the whole cluster above and below NetworkPolicy, and who is who among them.
//!
//! ```text
//! per direction   Admin ─► NetworkPolicy ─► Baseline ─► Default ─► allowed
//!                 rules    isolates, then   rules       isolates, then
//!                 in order final            in order    final
//! ```
//!
//! Like [`crate::policy`], these are never invalid: what an API object means is decided where it
//! becomes one of these values.

use std::fmt;

use crate::labels::Str;
use crate::model::Direction;
use crate::policy::{Namespaces, Peer, Peers, PodPeer, PolicyKey, PortMatch, Ports, Rule};
use crate::port::{PortRange, Protocol};
use crate::selector::Selector;

/// Where in the order a policy is asked. The order of the variants is that order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// ClusterNetworkPolicy of tier Admin.
    Admin,
    /// NetworkPolicy.
    NetworkPolicy,
    /// ClusterNetworkPolicy of tier Baseline.
    Baseline,
    /// ClusterDefaultNetworkPolicy.
    Default,
}

impl Tier {
    /// All, in the order in which they are asked.
    pub const ALL: [Self; 4] = [Self::Admin, Self::NetworkPolicy, Self::Baseline, Self::Default];

    /// The name that users see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
            Self::Default => "Default",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Whether a policy is in force or only watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Mode {
    /// It decides.
    #[default]
    Enforce,
    /// It decides nothing; what it would deny is reported.
    Audit,
}

/// Which policies a question is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum View {
    /// Those that are in force.
    Enforced,
    /// Those in force and those in audit, as if all were in force.
    Audited,
}

impl View {
    /// Whether a policy of this mode counts.
    #[must_use]
    pub fn counts(self, mode: Mode) -> bool {
        self == Self::Audited || mode == Mode::Enforce
    }
}

/// What a rule of a ClusterNetworkPolicy does with what it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// This direction allows it; no tier below is asked.
    Accept,
    /// This direction denies it.
    Deny,
    /// The tier says nothing more; the next one is asked.
    Pass,
}

impl Action {
    /// The name that the API uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}

/// The name of a policy of any kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyRef {
    /// A NetworkPolicy.
    NetworkPolicy(PolicyKey),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(Str),
    /// A ClusterDefaultNetworkPolicy.
    ClusterDefaultNetworkPolicy(Str),
}

impl PolicyRef {
    /// The kind of the object.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::ClusterNetworkPolicy(_) => "ClusterNetworkPolicy",
            Self::ClusterDefaultNetworkPolicy(_) => "ClusterDefaultNetworkPolicy",
        }
    }

    /// The key of a NetworkPolicy.
    #[must_use]
    pub fn network_policy(&self) -> Option<&PolicyKey> {
        match self {
            Self::NetworkPolicy(key) => Some(key),
            Self::ClusterNetworkPolicy(_) | Self::ClusterDefaultNetworkPolicy(_) => None,
        }
    }
}

impl From<&PolicyKey> for PolicyRef {
    fn from(key: &PolicyKey) -> Self {
        Self::NetworkPolicy(key.clone())
    }
}

/// `namespace/name`, or `Kind/name`: no namespace has capital letters.
impl fmt::Display for PolicyRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkPolicy(key) => key.fmt(formatter),
            Self::ClusterNetworkPolicy(name) | Self::ClusterDefaultNetworkPolicy(name) => {
                write!(formatter, "{}/{name}", self.kind())
            }
        }
    }
}

/// A `policy.networking.k8s.io` ClusterNetworkPolicy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: Str,
    /// Above or below NetworkPolicy.
    pub tier: ClusterTier,
    /// Lower is asked first; equal ones by name.
    pub priority: i32,
    /// Which pods it is about.
    pub subject: Subject,
    /// The ingress rules, in order.
    pub ingress: Vec<TierRule>,
    /// The egress rules, in order.
    pub egress: Vec<TierRule>,
    /// Whether it decides.
    pub mode: Mode,
    /// `metadata.generation`, which reports repeat: not part of what the policy means.
    pub generation: Option<i64>,
}

impl ClusterNetworkPolicy {
    /// The rules for `direction`, in order.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[TierRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What orders the policies of one tier.
    #[must_use]
    pub fn order(&self) -> (i32, &Str) {
        (self.priority, &self.name)
    }
}

/// The tiers that a ClusterNetworkPolicy can be of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ClusterTier {
    /// Before NetworkPolicy.
    Admin,
    /// For what no NetworkPolicy isolates.
    Baseline,
}

impl From<ClusterTier> for Tier {
    fn from(tier: ClusterTier) -> Self {
        match tier {
            ClusterTier::Admin => Self::Admin,
            ClusterTier::Baseline => Self::Baseline,
        }
    }
}

/// Which pods a policy of the cluster is about.
///
/// A pod whose namespace is not known yet may be one of them, and is where all namespaces are meant:
/// see [`Selected::Unsure`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// In which namespaces; `None` when that could not be understood: it may be any.
    pub namespaces: Option<Selector>,
    /// Which pods there; `None` when that could not be understood: it may be any.
    pub pods: Option<Selector>,
}

/// Whether a policy of the cluster is about a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selected {
    /// It is not.
    No,
    /// It may be: a part of the subject could not be understood, or the pod's namespace is not
    /// known yet. The policy fails closed there: Accept rules match nothing, Pass rules deny, and
    /// a default admits nothing.
    Unsure,
    /// It is.
    Yes,
}

/// One rule of a [`ClusterNetworkPolicy`].
///
/// A port by name matches pods that are matched by labels, never nodes or networks. A Deny or Pass
/// rule has no part that could not be understood: such a rule denies everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TierRule {
    /// What becomes of a match.
    pub action: Action,
    /// What matches.
    pub rule: Rule,
}

/// A `portcullis.dev/v1alpha1` ClusterDefaultNetworkPolicy: a NetworkPolicy in every namespace that
/// it selects, for pods and directions that nothing above decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterDefaultNetworkPolicy {
    /// Its name.
    pub name: Str,
    /// Which pods it isolates.
    pub subject: Subject,
    /// Whether namespaces of the system are among the selected: see
    /// [`World::is_system`](crate::world::World::is_system).
    pub include_system_namespaces: bool,
    /// The ingress rules, or `None` when it does not isolate for ingress. Peers may be in
    /// [`Namespaces::Own`].
    pub ingress: Option<Vec<Rule>>,
    /// The egress rules, or `None` when it does not isolate for egress. Peers may be in
    /// [`Namespaces::Own`].
    pub egress: Option<Vec<Rule>>,
    /// Whether egress to the cluster's DNS is admitted besides: see [`dns_rule`].
    pub allow_dns: bool,
    /// Whether it decides.
    pub mode: Mode,
    /// `metadata.generation`, which reports repeat: not part of what the policy means.
    pub generation: Option<i64>,
}

impl ClusterDefaultNetworkPolicy {
    /// The rules for pods of `namespace` with their numbers, [`ALLOW_DNS`] last; `None` when the
    /// policy does not isolate for `direction`.
    #[must_use]
    pub fn rules(&self, direction: Direction, namespace: &Str) -> Option<Vec<(usize, Rule)>> {
        let numbered = self.written(direction)?.iter().enumerate();
        let mut rules: Vec<_> =
            numbered.map(|(at, rule)| (at + 1, rule.in_namespace(namespace))).collect();
        if self.admits_dns(direction) {
            rules.push((ALLOW_DNS, dns_rule()));
        }
        Some(rules)
    }

    /// The rules as they are written; `None` when the policy does not isolate for `direction`.
    #[must_use]
    pub fn written(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether [`dns_rule`] is among the rules.
    #[must_use]
    pub fn admits_dns(&self, direction: Direction) -> bool {
        direction == Direction::Egress && self.allow_dns && self.egress.is_some()
    }

    /// Whether its rules are others in each namespace.
    #[must_use]
    pub fn depends_on_namespace(&self) -> bool {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        rules.into_iter().any(|rule| match &rule.peers {
            Peers::Any => false,
            Peers::Listed(peers) => peers.iter().any(|peer| {
                matches!(peer, Peer::Pods(PodPeer { namespaces: Namespaces::Own, .. }))
            }),
        })
    }
}

/// The number of the rule that `allowDNS` adds: the written ones count from 1.
pub const ALLOW_DNS: usize = 0;

/// Where NodeLocal DNSCache listens on each node, as its manifest has it.
const NODE_LOCAL_DNS: [u8; 4] = [169, 254, 20, 10];

/// UDP and TCP 53 to the pods of `kube-system` that are labelled as cluster DNS (`k8s-app:
/// kube-dns`, which CoreDNS has too), and to NodeLocal DNSCache.
#[must_use]
pub fn dns_rule() -> Rule {
    let pods = PodPeer {
        namespaces: Namespaces::Named("kube-system".into()),
        pods: Selector::label("k8s-app", "kube-dns"),
    };
    let local = ipnet::IpNet::from(std::net::IpAddr::from(NODE_LOCAL_DNS));
    let local = crate::policy::IpBlock { cidr: local, except: Vec::new() };
    let ports = [Protocol::Udp, Protocol::Tcp];
    let ports = ports.map(|protocol| PortMatch::Numbers(protocol, PortRange::single(53)));
    Rule {
        peers: Peers::Listed(vec![Peer::Pods(pods), Peer::Block(local)]),
        ports: Ports::Listed(ports.into()),
    }
}
