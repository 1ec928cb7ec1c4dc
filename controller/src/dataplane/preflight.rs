//! The requirements of a node before policies can be enforced. Pure: judges facts. Software that
//! makes enforcement void is in [`conflict`](super::conflict).

use std::fmt;

use policy_engine::cidr::Family;

use super::feature::Feature;

/// Something about the node that a user should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How much the finding matters.
    pub severity: Severity,
    /// The finding as a sentence.
    pub what: String,
    /// What to do about it; empty if nothing is to be done.
    pub what_to_do: String,
}

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// A note that does not affect enforcement.
    Info,
    /// Some policies may not be enforced, or soon not.
    Warning,
    /// Policies are not enforced.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        if self.what_to_do.is_empty() { Ok(()) } else { write!(formatter, "; {}", self.what_to_do) }
    }
}

/// The facts about a node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// Tools with their versions, or the error of the tool.
    pub tools: Vec<(String, Result<String, String>)>,
    /// Whether nftables enforces, and not iptables.
    pub is_nftables: bool,
    /// The backend that writes rules, once it is chosen.
    pub command: Option<&'static str>,
    /// Why this backend is used; empty if none was chosen.
    pub reason: String,
    /// The facts about each family.
    pub families: Vec<FamilyFacts>,
    /// Whether the kernel tracks connections.
    pub conntrack: bool,
    /// Why connections that are not allowed any more cannot be ended; `None` when they can.
    pub lasting: Option<String>,
}

/// The facts about one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FamilyFacts {
    /// The family.
    pub family: Family,
    /// Whether the kernel forwards its packets.
    pub forwarding: bool,
    /// Whether a rule of each required sort was accepted, or the error.
    pub rules_work: Result<(), String>,
    /// Whether denials can be logged, or the error.
    pub log_works: Result<(), String>,
    /// The features that the kernel lacks, each with the error.
    pub lacking: Vec<(Feature, String)>,
}

/// Whether a tool failed because its caller lacks a permission.
fn lacks_permission(why: &str) -> bool {
    ["not permitted", "ermission denied"].iter().any(|text| why.contains(text))
}

/// The findings that follow from the facts.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (tool, version) in &facts.tools {
        findings.push(match version {
            Ok(version) => finding(Severity::Info, version, ""),
            // One variant is enough; a finding below reports that both are missing.
            Err(why) if tool.contains("tables") => finding(Severity::Info, why, ""),
            Err(why) if lacks_permission(why) => {
                finding(Severity::Error, why, "run as root, or with CAP_NET_ADMIN")
            }
            Err(why) => finding(Severity::Error, why, &format!("install {tool}")),
        });
    }
    if let Some(command) = facts.command {
        let what = match facts.reason.as_str() {
            "" => format!("rules go to {command}"),
            reason => format!("rules go to {command}: {reason}"),
        };
        findings.push(finding(Severity::Info, &what, ""));
    } else {
        let what_to_do = "install iptables, and run as root or with CAP_NET_ADMIN";
        findings.push(finding(Severity::Error, "no iptables can be used", what_to_do));
    }
    if !facts.conntrack {
        let what = "the kernel does not track connections";
        findings.push(finding(Severity::Error, what, "load nf_conntrack"));
    }
    if let Some(why) = &facts.lasting {
        let what = format!("connections that lose their permission are not ended: {why}");
        findings.push(finding(Severity::Warning, &what, "load nf_conntrack_netlink"));
    }
    for family in &facts.families {
        judge_family(&mut findings, family, facts.is_nftables);
    }
    findings
}

fn judge_family(findings: &mut Vec<Finding>, facts: &FamilyFacts, is_nftables: bool) {
    let name = facts.family.as_str();
    if let Err(why) = &facts.rules_work {
        let what = format!("{name} rules of ours are refused: {why}");
        let what_to_do = if is_nftables {
            "run as root or with CAP_NET_ADMIN, and use Linux 5.14 or later with CONFIG_NF_TABLES, \
             CONFIG_NF_TABLES_INET, CONFIG_NFT_CT and CONFIG_NFT_REJECT"
        } else {
            "load xt_set, xt_conntrack, xt_multiport and ip_set_hash_ip"
        };
        findings.push(finding(Severity::Error, &what, what_to_do));
    }
    if let Err(why) = &facts.log_works {
        let what = format!("{name} denials are enforced and counted, but not logged: {why}");
        let what_to_do = if is_nftables {
            "load nfnetlink_log, nft_log and nft_limit"
        } else {
            "load nfnetlink_log, xt_NFLOG (nft_log), xt_hashlimit and xt_limit"
        };
        findings.push(finding(Severity::Warning, &what, what_to_do));
    }
    for (feature, why) in &facts.lacking {
        let what = format!("{name}: {}: {why}", feature.what_is_lost());
        findings.push(finding(Severity::Error, &what, feature.what_to_do()));
    }
    if !facts.forwarding {
        let what = format!("{name} forwarding is off: this node routes for no pod");
        findings.push(finding(Severity::Info, &what, ""));
    }
}

fn finding(severity: Severity, what: &str, what_to_do: &str) -> Finding {
    Finding { severity, what: what.to_owned(), what_to_do: what_to_do.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let (rules_work, log_works) = (Ok(()), Ok(()));
        let (family, forwarding, lacking) = (Family::V4, true, Vec::new());
        let family = FamilyFacts { family, forwarding, rules_work, log_works, lacking };
        let (command, families) = (Some("iptables-nft"), vec![family]);
        Facts { command, families, conntrack: true, ..Facts::default() }
    }

    fn worst(facts: &Facts) -> Option<Severity> {
        judge(facts).into_iter().map(|finding| finding.severity).max()
    }

    #[test]
    fn the_reason_for_a_backend_is_reported() {
        let chosen = Facts { reason: "chosen by --backend".to_owned(), ..facts() };
        let found = judge(&chosen).into_iter().map(|finding| finding.what);
        assert!(
            found.into_iter().any(|what| what == "rules go to iptables-nft: chosen by --backend")
        );
    }

    #[test]
    fn a_node_that_cannot_log_denials_enforces_and_reports_it() {
        let mut facts = facts();
        facts.families[0].log_works = Err("No chain/target/match by that name.".to_owned());
        assert_eq!(worst(&facts), Some(Severity::Warning));
        let names_it =
            judge(&facts).iter().any(|finding| finding.what_to_do.contains("nfnetlink_log"));
        assert!(names_it, "{facts:?}");
    }

    #[test]
    fn a_feature_that_is_missing_is_named_with_what_to_load() {
        for feature in Feature::ALL {
            let mut facts = facts();
            facts.families[0].lacking = vec![(feature, "No such match.".to_owned())];
            assert_eq!(worst(&facts), Some(Severity::Error));
            let found = judge(&facts);
            assert!(
                found.iter().any(|found| found.what_to_do == feature.what_to_do()),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_node_that_cannot_end_connections_enforces_and_reports_it() {
        let facts = Facts { lasting: Some("not supported".to_owned()), ..facts() };
        assert_eq!(worst(&facts), Some(Severity::Warning));
        let named = |finding: &Finding| finding.what_to_do.contains("nf_conntrack_netlink");
        assert!(judge(&facts).iter().any(named), "{facts:?}");
    }

    #[test]
    fn a_node_without_iptables_or_conntrack_enforces_nothing() {
        let good = facts();
        assert_eq!(worst(&Facts { command: None, ..good.clone() }), Some(Severity::Error));
        assert_eq!(worst(&Facts { conntrack: false, ..good }), Some(Severity::Error));
    }
}
