//! The user's options of enforcement. Values only.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use super::backend::nftables;
use super::feature::Feature;
use super::rule::Hook;

/// The options of enforcement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The backend that enforces; not `Auto` any more once a dataplane is open.
    pub backend: Backend,
    /// The variant of iptables that has our chains, with the iptables backend.
    pub variant: IptablesVariant,
    /// What happens to packets that no rule allows.
    pub deny: DenyAction,
    /// What happens to packets that are allowed.
    pub accept: AcceptAction,
    /// The group to which denials are logged; `None`: they are counted, not logged.
    pub denial_log: Option<LogGroup>,
    /// Whether addresses are accepted only at the interfaces of their pods.
    pub anti_spoofing: bool,
    /// What happens to packets of pods that are not known.
    pub unknown_pods: UnknownPods,
    /// Whether pods reach their own node even if their egress policies deny it: no hook in INPUT.
    pub allow_egress_to_own_node: bool,
    /// The features that the kernel lacks.
    pub lacking: BTreeSet<Feature>,
    /// How long a tool waits for the xtables lock, in seconds.
    pub lock_wait_seconds: u32,
    /// The capacity that sets start with; they are replaced by bigger ones as they fill.
    pub initial_maxelem: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            variant: IptablesVariant::Auto,
            deny: DenyAction::Drop,
            accept: AcceptAction::Return,
            denial_log: Some(LogGroup::default()),
            anti_spoofing: true,
            unknown_pods: UnknownPods::Deny,
            allow_egress_to_own_node: false,
            lacking: BTreeSet::new(),
            lock_wait_seconds: 10,
            // As many as the budget of members allows, so that no set is replaced. Unused capacity
            // needs no memory.
            initial_maxelem: 524_288,
        }
    }
}

impl Options {
    /// Whether the kernel has a feature.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        !self.lacking.contains(&feature)
    }

    /// Whether any rule needs a feature.
    #[must_use]
    pub fn needs(&self, feature: Feature) -> bool {
        match feature {
            Feature::PodInterfaces | Feature::TwoTags => self.anti_spoofing,
            Feature::HopLimit | Feature::SctpChunks => true,
        }
    }

    /// Whether addresses are checked at the interfaces of pods.
    #[must_use]
    pub fn checks_interfaces(&self) -> bool {
        self.anti_spoofing && self.has(Feature::PodInterfaces)
    }

    /// The hooks that send packets to our chains.
    #[must_use]
    pub fn hooks(&self) -> Vec<Hook> {
        let input = (!self.allow_egress_to_own_node).then_some(Hook::Input);
        [Hook::Forward].into_iter().chain(input).collect()
    }

    /// Whether a pod is found by one look-up in a map, not in a tree of chains.
    #[must_use]
    pub fn finds_pods_in_maps(&self) -> bool {
        self.backend == Backend::Nftables
    }

    /// The table of iptables that our chains are in.
    ///
    /// In `mangle`, our rules come before an ACCEPT of other software in `filter`, so no packet
    /// passes them. But the kernel takes REJECT only in `filter`, and a packet enters `filter`
    /// after an ACCEPT in `mangle`.
    #[must_use]
    pub fn table(&self) -> TableName {
        match (self.deny, self.accept) {
            (DenyAction::Drop, AcceptAction::Return) => TableName::Mangle,
            (DenyAction::Reject, _) | (_, AcceptAction::Accept) => TableName::Filter,
        }
    }
}

/// A table that our chains are in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TableName {
    /// `mangle`: packets pass it before `filter`.
    Mangle,
    /// `filter`.
    Filter,
    /// The table of nftables that is ours alone.
    Own,
}

impl TableName {
    /// The tables of iptables.
    pub const BOTH: [Self; 2] = [Self::Mangle, Self::Filter];
    /// All tables.
    pub const ALL: [Self; 3] = [Self::Mangle, Self::Filter, Self::Own];

    /// The name, as iptables or nftables has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Own => nftables::TABLE,
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The backend that enforces policies.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// iptables where it works together with ipset, otherwise nftables; nftables also where kube-proxy runs in
    /// nftables mode and no other program has rules of iptables.
    Auto,
    /// iptables, with sets of ipset.
    Iptables,
    /// Tables of nftables that are ours alone, without iptables and ipset.
    Nftables,
}

/// The variant of iptables to use.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum IptablesVariant {
    /// The one that has Kubernetes' chains, else the one with more rules, else that of `iptables`.
    Auto,
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    Nft,
}

/// What happens to packets that no rule allows.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DenyAction {
    /// They are dropped without an answer.
    Drop,
    /// The sender gets an ICMP port unreachable.
    Reject,
}

/// What happens to packets of an interface that leads to pods, if their address on the pod's side
/// is not of a known pod.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnknownPods {
    /// They are dropped.
    Deny,
    /// They pass, unless the interface is that of a known pod.
    Allow,
}

/// What happens to packets that are allowed.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcceptAction {
    /// The rules behind ours decide about them.
    Return,
    /// Forwarded packets from or to a pod with rules are accepted once both directions passed.
    Accept,
}

/// A group of NFLOG: the kernel hands packets to the process that subscribes to it. Never 0, the
/// default of NFLOG rules without a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogGroup(NonZeroU16);

impl LogGroup {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

/// 9466, as the port of our metrics: other programs count from 0 or 1 (ulogd, Calico) or take 100
/// (kube-router).
impl Default for LogGroup {
    fn default() -> Self {
        Self(NonZeroU16::MIN.saturating_add(9465))
    }
}

impl FromStr for LogGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "a number from 1 to 65535".to_owned())
    }
}

impl fmt::Display for LogGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
