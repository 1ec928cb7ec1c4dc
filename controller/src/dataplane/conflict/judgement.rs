//! The conflicts that were detected on a node, and their consequences.

use std::fmt;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use policy_engine::words::few;

use crate::dataplane::preflight::{Finding, Severity};

/// Why a node does not enforce policies although our rules are in its kernel. The most important
/// conflict is first: of several, the first one is the reason in the node's report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Conflict {
    /// Packets do not reach our rules: another program removed or moved the jump to them.
    HookDisplaced,
    /// eBPF programs forward the packets of pods.
    EbpfDatapath,
    /// Open vSwitch forwards the packets of pods.
    OpenVSwitchDatapath,
    /// Packets between pods on a bridge do not pass iptables.
    BridgeTrafficBypassesIptables,
    /// Pods are attached past the node's network stack: macvlan, ipvlan, SR-IOV.
    PodsBypassNode,
    /// kube-proxy runs in IPVS mode.
    KubeProxyIpvs,
    /// Another program enforces NetworkPolicy too.
    SecondEnforcer,
}

impl Conflict {
    /// All conflicts, the most important first.
    pub const ALL: [Self; 7] = [
        Self::HookDisplaced,
        Self::EbpfDatapath,
        Self::OpenVSwitchDatapath,
        Self::BridgeTrafficBypassesIptables,
        Self::PodsBypassNode,
        Self::KubeProxyIpvs,
        Self::SecondEnforcer,
    ];

    /// The name in reports, metrics, logs and flags.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HookDisplaced => "HookDisplaced",
            Self::EbpfDatapath => "EbpfDatapath",
            Self::OpenVSwitchDatapath => "OpenVSwitchDatapath",
            Self::BridgeTrafficBypassesIptables => "BridgeTrafficBypassesIptables",
            Self::PodsBypassNode => "PodsBypassNode",
            Self::KubeProxyIpvs => "KubeProxyIpvs",
            Self::SecondEnforcer => "SecondEnforcer",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl ValueEnum for Conflict {
    fn value_variants<'a>() -> &'a [Self] {
        // A displaced hook is repaired at once, and cannot be ignored.
        let [Self::HookDisplaced, ignorable @ ..] = &Self::ALL else { return &[] };
        ignorable
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// A conflict that was detected on a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Detected {
    /// The kind of conflict.
    pub conflict: Conflict,
    /// What was found, and what to do about it.
    pub finding: Finding,
}

impl fmt::Display for Detected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.conflict, self.finding)
    }
}

/// The result of judging the facts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Judgement {
    /// The conflicts, the most important first.
    pub conflicts: Vec<Detected>,
    /// Notes that do not affect enforcement: inactive objects of other programs, and facts that
    /// could not be read.
    pub notes: Vec<Finding>,
}

impl Judgement {
    pub(super) fn conflict(
        &mut self,
        conflict: Conflict,
        what: String,
        what_to_do: impl Into<String>,
    ) {
        let finding = Finding { severity: Severity::Error, what, what_to_do: what_to_do.into() };
        self.conflicts.push(Detected { conflict, finding });
    }

    pub(super) fn note(&mut self, severity: Severity, what: String, what_to_do: impl Into<String>) {
        self.notes.push(Finding { severity, what, what_to_do: what_to_do.into() });
    }
}

/// "a, b, c and 2 more".
pub(super) fn list(names: &[impl AsRef<str>]) -> String {
    const NAMES_MAX: usize = 3;
    few(names.iter().map(AsRef::as_ref), NAMES_MAX)
}

pub(super) fn starts_with(name: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| name.starts_with(start))
}
