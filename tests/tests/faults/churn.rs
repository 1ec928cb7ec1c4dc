//! Changes that never stop: nothing piles up in the kernel meanwhile.

use anyhow::{Result, ensure};
use portcullis_lab::IptablesVariant;

use crate::shop::{ECHO, PATIENCE, WEB, allow, lab, shop, start};

/// More changes than an agent puts in front of each other.
const CHANGES: u16 = 300;
/// So many rulesets are there at most: with one rule and one end each, they fill a chain.
const RULESETS_MAX: u16 = 130;

#[test]
fn old_rules_are_few_however_fast_changes_come() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let agent = start(&cluster, "n2")?;
    for change in 1..=CHANGES {
        // Another port, so another ruleset each time.
        let before = agent.logged();
        cluster.write("api.yaml", &allow("api", &["web"], &[ECHO, 1000 + change]))?;
        agent.wait_for_after(before, "policies are enforced", PATIENCE)?;
    }
    let rulesets =
        cluster.lab.node("n2")?.shell("iptables-nft -t mangle -S | grep -c '^-N PORTCULLIS-R'")?;
    let rulesets: u16 = rulesets.trim().parse()?;
    ensure!(rulesets <= RULESETS_MAX, "{rulesets} rulesets are there after {CHANGES} changes");
    Ok(())
}
