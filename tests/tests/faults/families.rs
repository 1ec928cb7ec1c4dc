//! An IP family that cannot be programmed does not keep the other one from being enforced.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::{DEFAULT_TIMEOUT, Endpoint, Expected, Family, IptablesVariant, Lab, Probe};
use portcullis_tests::cluster::AgentSetup;
use portcullis_tests::tool::wrap;

use crate::established::{ANSWER, Flow, dns, ends, with_dns};
use crate::probes::{METRICS, ask, flags, value, wait_for};
use crate::shop::{PATIENCE, WEB, allow, check};

/// Fails unless `shop/{open}` becomes able to connect to the server by this family, and
/// `shop/{closed}` becomes unable to.
fn check_family(lab: &Lab, family: Family, open: &str, closed: &str) -> Result<()> {
    let address = lab.pod("shop/api")?.address(family)?;
    let probe = |from| Probe::tcp(Endpoint::pod(format!("shop/{from}")), address, WEB);
    let probes = [(probe(open), Expected::Open), (probe(closed), Expected::Closed)];
    let states = lab.probe_until(&probes, DEFAULT_TIMEOUT, Duration::from_secs(20))?;
    for ((probe, expected), state) in probes.iter().zip(states) {
        ensure!(state.agrees, "{probe} must be {expected:?}, and is {}", state.outcome);
    }
    Ok(())
}

fn other_family_is_enforced(variant: IptablesVariant, tool: &str, fault: &str) -> Result<()> {
    let cluster = with_dns(variant, &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let tools = tempfile::tempdir()?;
    wrap(tools.path(), tool, fault)?;
    let broken = tools.path().join(format!("{tool}.broken"));
    fs::write(&broken, "")?;
    let (tools, flags) = (Some(tools.path().into()), flags(&[]));
    let setup = AgentSetup { tools, flags, ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;

    // From the start, on a node on which nothing was applied before.
    agent.wait_for("they are applied to the other IP family", PATIENCE)?;
    check_family(&cluster.lab, Family::V4, "web", "stranger")?;
    let why = wait_for(&cluster, "/readyz", 503)?;
    ensure!(why.starts_with("Degraded: changes are not applied to IPv6: "), "{why}");
    let (_, metrics) = ask(&cluster, METRICS, "/metrics")?;
    for (family, expected) in [("IPv4", "0"), ("IPv6", "1")] {
        let series = format!("portcullis_node_degraded{{what=\"{family}NotEnforced\"}}");
        assert_eq!(value(&metrics, &series)?.to_string(), expected, "{family}");
    }
    // A connection that loses its permission ends meanwhile.
    let flow =
        Flow::open(&cluster.lab, "web", cluster.lab.pod("shop/dns")?.address(Family::V4)?, 5000)?;
    ensure!(flow.ask(ANSWER)?, "no policy isolates its server");
    cluster.write("dns.yaml", &dns(&[]))?;
    ends(&flow)?;
    // A change, and after that both again.
    cluster.write("api.yaml", &allow("api", &["stranger"], &[WEB]))?;
    check_family(&cluster.lab, Family::V4, "stranger", "web")?;
    fs::remove_file(&broken)?;
    wait_for(&cluster, "/readyz", 200)?;
    check(&cluster.lab, tool, &[("stranger", "api", WEB)], &[("web", "api", WEB)])?;
    agent.terminate()
}

#[test]
fn ipv4_is_enforced_while_the_table_of_ipv6_cannot_be_read_or_changed() -> Result<()> {
    for (variant, tool, fault) in [
        (IptablesVariant::Nft, "ip6tables-nft-save", "echo '# incompatible, use nft'; exit 0"),
        (IptablesVariant::Legacy, "ip6tables-legacy-save", "echo no >&2; exit 1"),
        (IptablesVariant::Nft, "ip6tables-nft-restore", "echo no >&2; exit 1"),
        (IptablesVariant::Legacy, "ip6tables-legacy-restore", "kill -9 $$"),
    ] {
        other_family_is_enforced(variant, tool, fault).with_context(|| tool.to_owned())?;
    }
    Ok(())
}
