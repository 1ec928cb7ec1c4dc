//! The choice between the two implementations of iptables. Pure.

use policy_engine::cidr::Family;

use crate::dataplane::name;
use crate::dataplane::options::TableName;

/// One of the two implementations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Variant {
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    Nft,
}

impl Variant {
    /// Both implementations.
    pub const BOTH: [Self; 2] = [Self::Legacy, Self::Nft];

    /// The name of the command for `family`, such as `ip6tables-nft`.
    #[must_use]
    pub fn command(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Legacy, Family::V4) => "iptables-legacy",
            (Self::Legacy, Family::V6) => "ip6tables-legacy",
            (Self::Nft, Family::V4) => "iptables-nft",
            (Self::Nft, Family::V6) => "ip6tables-nft",
        }
    }

    /// The implementation of a command that printed `version` for `--version`.
    #[must_use]
    pub fn of_version(version: &str) -> Self {
        // Before 1.8 there was legacy only, and `--version` did not name it.
        if version.contains("nf_tables") { Self::Nft } else { Self::Legacy }
    }
}

/// A place of rules: a table of one implementation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The implementation.
    pub variant: Variant,
    /// The table.
    pub table: TableName,
}

impl Place {
    /// All places where our rules can be.
    pub fn all() -> impl Iterator<Item = Self> {
        let tables = |variant| TableName::BOTH.map(|table| Self { variant, table });
        Variant::BOTH.into_iter().flat_map(tables)
    }
}

/// The chains and rules of a variant on the node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Evidence {
    /// Chains of Kubernetes' own, such as `KUBE-IPTABLES-HINT`.
    pub kube_chains: usize,
    /// Rules that are not ours.
    pub rules: usize,
}

impl Evidence {
    /// Counts chains and rules in the output of `iptables-save` for all tables.
    #[must_use]
    pub fn count(dump: &str) -> Self {
        let mut evidence = Self::default();
        for line in dump.lines() {
            if line.starts_with(":KUBE-") {
                evidence.kube_chains += 1;
            } else if line.starts_with("-A ") && !line.contains(name::PREFIX) {
                evidence.rules += 1;
            }
        }
        evidence
    }
}

/// The variant to use: the one with Kubernetes' chains, else the one with more rules, else
/// `default`.
///
/// The evidence of a variant that is not installed is `None`, and so is the result if neither is.
#[must_use]
pub fn choose(
    legacy: Option<Evidence>,
    nft: Option<Evidence>,
    default: Option<Variant>,
) -> Option<Variant> {
    let (legacy, nft) = match (legacy, nft) {
        (Some(legacy), Some(nft)) => (legacy, nft),
        (Some(_), None) => return Some(Variant::Legacy),
        (None, Some(_)) => return Some(Variant::Nft),
        (None, None) => return None,
    };
    let by_kube = legacy.kube_chains.cmp(&nft.kube_chains);
    Some(match by_kube.then(legacy.rules.cmp(&nft.rules)) {
        std::cmp::Ordering::Less => Variant::Nft,
        std::cmp::Ordering::Greater => Variant::Legacy,
        std::cmp::Ordering::Equal => default.unwrap_or(Variant::Nft),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(legacy: (usize, usize), nft: (usize, usize), default: Variant) -> Option<Variant> {
        let evidence = |(kube_chains, rules)| Some(Evidence { kube_chains, rules });
        choose(evidence(legacy), evidence(nft), Some(default))
    }

    #[test]
    fn the_variant_follows_kubernetes_then_rules_then_the_node() {
        let (legacy, nft) = (Variant::Legacy, Variant::Nft);
        assert_eq!(check((1, 0), (0, 9), nft), Some(legacy));
        assert_eq!(check((0, 3), (2, 0), legacy), Some(nft));
        assert_eq!(check((0, 3), (0, 2), nft), Some(legacy));
        assert_eq!(check((0, 0), (0, 0), legacy), Some(legacy));
        assert_eq!(choose(Some(Evidence::default()), None, Some(nft)), Some(legacy));
        assert_eq!(choose(None, None, Some(nft)), None);
    }

    #[test]
    fn our_own_rules_are_no_evidence() {
        let dump = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n\
            -A FORWARD -j PORTCULLIS-FORWARD\n-A FORWARD -j DOCKER\nCOMMIT\n";
        assert_eq!(Evidence::count(dump), Evidence { kube_chains: 1, rules: 1 });
    }

    #[test]
    fn an_old_version_is_legacy() {
        assert_eq!(Variant::of_version("iptables v1.8.9 (nf_tables)"), Variant::Nft);
        assert_eq!(Variant::of_version("iptables v1.6.1"), Variant::Legacy);
    }
}
