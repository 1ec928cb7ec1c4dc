//! The kinds of findings: code, name, how much it matters, and one sentence for rule lists.

use std::fmt;
use std::str::FromStr;

use crate::Severity;

/// What kind of mistake a finding is. Codes are stable: they are never given a new meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Code {
    /// Something could not be understood, and is closed or left out.
    Unreadable,
    /// It is in force as written, and an API server would still complain.
    Odd,
    /// One object is given by several documents.
    GivenTwice,
    /// A policy selects no pod.
    SelectsNothing,
    /// A policy selects hostNetwork pods, which no policy is about.
    SelectsHostNetwork,
    /// No policy selects a workload.
    NoPolicy,
    /// A policy is in audit: it decides nothing.
    InAudit,
    /// A peer matches no pod.
    PeerMatchesNothing,
    /// Two peers stand where one with both selectors was probably meant.
    PeersNotJoined,
    /// An ipBlock holds addresses of pods.
    BlockOverPods,
    /// An ipBlock holds virtual addresses of Services.
    BlockOverServices,
    /// No pod has a port of that name.
    PortNameUnknown,
    /// A port is the Service's, not the pod's.
    ServicePort,
    /// Rules for a direction that the policy does not isolate for.
    DirectionNotInForce,
    /// Pods may open connections, and not look up names.
    EgressWithoutDns,
    /// One side names the other, which does not let it pass.
    HalfOpen,
    /// Other rules admit everything that a rule admits.
    RedundantRule,
    /// Other policies do everything that a policy does.
    RedundantPolicy,
    /// Two policies say the same.
    SamePolicy,
    /// Two ClusterNetworkPolicies of one tier and priority decide about the same pods.
    EqualPriority,
    /// Earlier rules of a ClusterNetworkPolicy match everything that a rule matches.
    NeverMatches,
}

/// What there is to know about a code.
struct About {
    code: &'static str,
    name: &'static str,
    severity: Severity,
    summary: &'static str,
}

impl Code {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 21] = [
        Self::Unreadable,
        Self::Odd,
        Self::GivenTwice,
        Self::SelectsNothing,
        Self::SelectsHostNetwork,
        Self::NoPolicy,
        Self::InAudit,
        Self::PeerMatchesNothing,
        Self::PeersNotJoined,
        Self::BlockOverPods,
        Self::BlockOverServices,
        Self::PortNameUnknown,
        Self::ServicePort,
        Self::DirectionNotInForce,
        Self::EgressWithoutDns,
        Self::HalfOpen,
        Self::RedundantRule,
        Self::RedundantPolicy,
        Self::SamePolicy,
        Self::EqualPriority,
        Self::NeverMatches,
    ];

    /// The code: `PCL101`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.about().code
    }

    /// The name: `selects-nothing`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.about().name
    }

    /// How much such a finding matters, unless it says otherwise itself.
    #[must_use]
    pub fn severity(self) -> Severity {
        self.about().severity
    }

    /// One sentence about all such findings.
    #[must_use]
    pub fn summary(self) -> &'static str {
        self.about().summary
    }

    /// Where it is explained: a section of the documentation.
    #[must_use]
    pub fn docs(self) -> String {
        format!("docs/lint.md#{}-{}", self.as_str().to_lowercase(), self.name())
    }

    fn about(self) -> About {
        use Severity::{Error, Note, Warning};
        let (code, name, severity, summary) = match self {
            Self::Unreadable => {
                ("PCL001", "unreadable", Error, "What was written is not what is in force.")
            }
            Self::Odd => ("PCL002", "odd", Warning, "In force as written, and still not right."),
            Self::GivenTwice => {
                ("PCL003", "given-twice", Warning, "One object is given by several documents.")
            }
            Self::SelectsNothing => {
                ("PCL101", "selects-nothing", Warning, "The policy selects no pod.")
            }
            Self::SelectsHostNetwork => (
                "PCL102",
                "selects-host-network",
                Warning,
                "The policy selects hostNetwork pods, which no policy is about.",
            ),
            Self::NoPolicy => ("PCL103", "no-policy", Note, "No policy selects the workload."),
            Self::InAudit => ("PCL104", "in-audit", Note, "The policy is in audit, not in force."),
            Self::PeerMatchesNothing => {
                ("PCL201", "peer-matches-nothing", Warning, "The peer matches no pod.")
            }
            Self::PeersNotJoined => (
                "PCL202",
                "peers-not-joined",
                Warning,
                "Two peers stand where one with both selectors was probably meant.",
            ),
            Self::BlockOverPods => (
                "PCL203",
                "ip-block-over-pods",
                Warning,
                "The ipBlock holds addresses of pods, which change.",
            ),
            Self::BlockOverServices => (
                "PCL204",
                "ip-block-over-services",
                Warning,
                "The ipBlock holds addresses of Services, which policies never see.",
            ),
            Self::PortNameUnknown => {
                ("PCL301", "port-name-unknown", Warning, "No pod has a port of that name.")
            }
            Self::ServicePort => {
                ("PCL302", "service-port", Warning, "The port is the Service's, not the pod's.")
            }
            Self::DirectionNotInForce => (
                "PCL401",
                "direction-not-in-force",
                Warning,
                "The policy speaks of a direction that it does not isolate for.",
            ),
            Self::EgressWithoutDns => (
                "PCL402",
                "egress-without-dns",
                Warning,
                "Pods may open connections, and not look up names.",
            ),
            Self::HalfOpen => {
                ("PCL403", "half-open", Warning, "One side is opened and the other is closed.")
            }
            Self::RedundantRule => {
                ("PCL501", "redundant-rule", Note, "Other rules admit all that the rule admits.")
            }
            Self::RedundantPolicy => {
                ("PCL502", "redundant-policy", Note, "Other policies do all that the policy does.")
            }
            Self::SamePolicy => ("PCL503", "same-policy", Warning, "Two policies say the same."),
            Self::EqualPriority => (
                "PCL504",
                "equal-priority",
                Warning,
                "Two policies of one tier and priority decide about the same pods.",
            ),
            Self::NeverMatches => (
                "PCL505",
                "never-matches",
                Warning,
                "Earlier rules of the policy match all that the rule matches.",
            ),
        };
        About { code, name, severity, summary }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is = |code: &Self| text.eq_ignore_ascii_case(code.as_str()) || text == code.name();
        let found = Self::ALL.into_iter().find(is);
        found.ok_or_else(|| {
            let all = Self::ALL.map(|code| format!("{code} ({})", code.name()));
            format!("there is no such code; there are {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_ascending_and_parse() {
        let codes = Code::ALL.map(Code::as_str);
        assert!(codes.is_sorted_by(|left, right| left < right));
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
            assert_eq!(code.name().parse(), Ok(code));
        }
        assert!("PCL000".parse::<Code>().is_err());
    }
}
