//! The kinds of findings: code, name, severity, and one sentence for lists of rules.

use std::fmt;
use std::str::FromStr;

use crate::Severity;

/// Writes [`Code`] from its table: a new kind of finding is one line here, a check, and a section of
/// `docs/lint.md`.
macro_rules! codes {
    ($count:literal: $($variant:ident $code:literal $name:literal $severity:ident $summary:literal)*) => {
        /// The kind of a finding. Codes are stable: a code never gets a new meaning.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Code {
            $(#[doc = $summary] $variant,)*
        }

        impl Code {
            /// All codes, in their order.
            pub const ALL: [Self; $count] = [$(Self::$variant),*];

            fn about(self) -> (&'static str, &'static str, Severity, &'static str) {
                match self {
                    $(Self::$variant => ($code, $name, Severity::$severity, $summary),)*
                }
            }
        }
    };
}

codes! { 28:
    Unreadable "PCL001" "unreadable" Error "What was written is not what is enforced."
    Odd "PCL002" "odd" Warning "Enforced as written, and still not right."
    GivenTwice "PCL003" "given-twice" Warning "One object is given by several documents."
    SelectsNothing "PCL101" "selects-nothing" Warning "The policy selects no pod."
    SelectsHostNetwork "PCL102" "selects-host-network" Warning
        "The policy selects hostNetwork pods, which no policy is about."
    NoPolicy "PCL103" "no-policy" Note "No policy selects the workload."
    InAudit "PCL104" "in-audit" Note "The policy is in audit, not enforced."
    NoSuchNamespace "PCL105" "no-such-namespace" Warning
        "The policy is in a namespace that nothing else in the source is in."
    PeerMatchesNothing "PCL201" "peer-matches-nothing" Warning "The peer matches no pod."
    PeersNotJoined "PCL202" "peers-not-joined" Warning
        "Two peers stand where one with both selectors was probably meant."
    BlockOverPods "PCL203" "ip-block-over-pods" Warning
        "The ipBlock holds addresses of pods, which change."
    BlockOverServices "PCL204" "ip-block-over-services" Warning
        "The ipBlock holds addresses of Services, which policies never see."
    ContestedAddress "PCL205" "contested-address" Warning
        "Pods of two nodes claim the address, so no selector matches it."
    NullPeers "PCL206" "null-peers" Warning "The peers are null, so the rule allows everyone."
    PortNameUnknown "PCL301" "port-name-unknown" Warning "No pod has a port of that name."
    ServicePort "PCL302" "service-port" Warning "The port is the Service's, not the pod's."
    AdminPortOpen "PCL303" "admin-port-open" Warning
        "A port for administration is allowed from every address."
    DirectionNotEnforced "PCL401" "direction-not-in-force" Warning
        "The policy speaks of a direction that it does not isolate for."
    EgressWithoutDns "PCL402" "egress-without-dns" Warning
        "Pods may open connections, and not look up names."
    HalfOpen "PCL403" "half-open" Warning "One side is opened and the other is closed."
    EgressWithoutApiServer "PCL404" "egress-without-api-server" Warning
        "Pods have permissions in the API, and policies deny them the API server."
    RedundantRule "PCL501" "redundant-rule" Note "Other rules allow all that the rule allows."
    RedundantPolicy "PCL502" "redundant-policy" Note "Other policies do all that the policy does."
    SamePolicy "PCL503" "same-policy" Warning "Two policies say the same."
    EqualPriority "PCL504" "equal-priority" Warning
        "Two policies of one tier and priority decide about the same pods."
    NeverMatches "PCL505" "never-matches" Warning
        "Earlier rules of the policy match all that the rule matches."
    BackendClosed "PCL601" "backend-closed" Warning
        "Policies close the backend of an Ingress, a route of a Gateway, a LoadBalancer or a webhook."
    ClientAddressHidden "PCL602" "client-address-hidden" Warning
        "The ipBlock is for clients whose addresses the pods do not see."
}

impl Code {
    /// The code: `PCL101`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.about().0
    }

    /// The name: `selects-nothing`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.about().1
    }

    /// The severity of such findings, unless a finding has its own.
    #[must_use]
    pub fn severity(self) -> Severity {
        self.about().2
    }

    /// One sentence about all such findings.
    #[must_use]
    pub fn summary(self) -> &'static str {
        self.about().3
    }

    /// The section of the documentation about such findings.
    #[must_use]
    pub fn docs(self) -> String {
        format!("docs/lint.md#{}-{}", self.as_str().to_lowercase(), self.name())
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
