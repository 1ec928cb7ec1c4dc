//! The agent's nftables chains, as the interpreter parses them. Pure.

use std::collections::BTreeMap;

use policy_engine::cidr::Family;
use portcullis_interpreter::{NftRule, Table, Tables};

use crate::dataplane::backend::nftables::bridge_table as bridge_table_of;
use crate::dataplane::kernel_text::CountedRule;
use crate::dataplane::name::{self, ChainName, PREFIX};

/// The agent's chains by name, without chains for frames of bridges that no base chain jumps to: no
/// frame enters them.
pub(super) fn chains(tables: &Tables) -> BTreeMap<String, Vec<CountedRule>> {
    let rules = tables.nft_rules();
    let is_own = |name: &str| name.starts_with(PREFIX);
    let others =
        || rules.iter().filter(|((table, name), _)| *table == Table::Bridge && !is_own(name));
    let is_entered = |chain: &str| {
        let jump = format!("jump {chain}");
        others().any(|(_, rules)| rules.iter().any(|rule| rule.text.ends_with(&jump)))
    };
    let is_first = |chain: &str| {
        let leads = |rule: &NftRule| rule.text.split(' ').next_back() == Some(chain);
        let own = rules.iter().filter(|((table, name), _)| *table == Table::Bridge && is_own(name));
        !own.flat_map(|(_, rules)| rules).any(leads)
    };
    let counted = |rule: &NftRule| CountedRule {
        rule: rule.text.clone(),
        number: rule.handle,
        packets: rule.packets,
    };
    let own = rules.iter().filter(|((table, name), _)| {
        is_own(name) && (*table != Table::Bridge || !is_first(name) || is_entered(name))
    });
    own.map(|((_, name), rules)| ((*name).to_owned(), rules.iter().map(counted).collect()))
        .collect()
}

/// The table of a chain for frames of bridges, as `nft` names it; `None` for any other chain.
pub(super) fn bridge_table(family: Family, chain: &str) -> Option<String> {
    ChainName::parse(chain).filter(|name| name::is_of_bridge(*name))?;
    Some(bridge_table_of(family).join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the agent's chains in a bridge table, with a base chain that jumps to `jump`.
    fn names(jump: &str) -> Vec<String> {
        let of = r#""family": "bridge", "table": "portcullis-ip""#;
        let chain = |name: &str| format!(r#"{{"chain": {{{of}, "name": "{name}", "handle": 1}}}}"#);
        let rule = |chain: &str, verdict: &str, target: &str| {
            format!(
                r#"{{"rule": {{{of}, "chain": "{chain}", "handle": 7,
                "expr": [{{"{verdict}": {{"target": "{target}"}}}}]}}}}"#
            )
        };
        let listing = format!(
            r#"{{"nftables": [{{"table": {{"family": "bridge", "name": "portcullis-ip", "handle": 1}}}},
            {{"chain": {{{of}, "name": "prerouting", "handle": 1, "type": "filter",
              "hook": "prerouting", "prio": -300, "policy": "accept"}}}}, {}, {}, {}, {}, {}]}}"#,
            chain("PORTCULLIS-BRIDGE-IN"),
            chain("PORTCULLIS-B1"),
            chain("OTHER"),
            rule("prerouting", "jump", jump),
            rule("PORTCULLIS-BRIDGE-IN", "goto", "PORTCULLIS-B1"),
        );
        chains(&Tables::parse_nftables(&[listing]).unwrap()).into_keys().collect()
    }

    #[test]
    fn a_chain_that_no_frame_enters_is_missing() {
        assert_eq!(names("PORTCULLIS-BRIDGE-IN"), ["PORTCULLIS-B1", "PORTCULLIS-BRIDGE-IN"]);
        assert_eq!(names("OTHER"), ["PORTCULLIS-B1"]);
    }
}
