//! Tools that fail for a while: the agent says so, keeps what was enforced, and recovers.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::AgentSetup;
use portcullis_tests::tool::wrap;

use crate::shop::{ECHO, PATIENCE, WEB, allow, check, lab, shop, start};
use crate::traffic::{Route, Traffic};

/// How a tool misbehaves, as a line of shell that stands before the real one.
const NO: &str = "echo \"$0 is out of order\" >&2; exit 1";
/// It dies in the middle of its work.
const KILLED: &str = "kill -9 $$";
/// It prints half of what it should, and says that all is well.
const HALF: &str = "\"$real\" \"$@\" | head -c 300; exit 0";

/// The restore tools of both families fail: of one, the other would be enforced.
fn recovers(variant: IptablesVariant, faults: &[&str]) -> Result<()> {
    let cluster = shop(lab(variant), &[])?;
    let _other = start(&cluster, "n1")?;
    for fault in faults {
        let what = format!("{}: {fault}", variant.name());
        let tools = tempfile::tempdir()?;
        let both = ["iptables", "ip6tables"];
        let both = both.map(|command| format!("{command}-{}-restore", variant.name()));
        both.iter().try_for_each(|tool| wrap(tools.path(), tool, fault))?;
        let broken = || both.iter().map(|tool| tools.path().join(format!("{tool}.broken")));
        cluster.write("api.yaml", &allow("api", &["web"], &[WEB, ECHO]))?;
        let setup = AgentSetup { tools: Some(tools.path().into()), ..AgentSetup::default() };
        let agent = cluster.spawn_agent_as("n2", &setup)?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        let web: Route = ("web", "api", WEB);
        let stranger: Route = ("stranger", "api", WEB);
        check(&cluster.lab, &what, &[web], &[stranger])?;

        broken().try_for_each(|broken| fs::write(broken, ""))?;
        // A restore tool stays between changes: the one that works ends, so that the next is broken.
        agent.kill_tools()?;
        let mut logged = agent.logged();
        let good = Traffic {
            held: &[("web", "api")],
            allowed: &[("web", "api", WEB)],
            forbidden: &[("stranger", "api", WEB)],
        };
        good.during(&cluster.lab, || {
            let since = logged;
            // Another chain: no way around the tool.
            cluster.write("api.yaml", &allow("api", &["stranger"], &[WEB]))?;
            for _ in 0..3 {
                let line = agent.wait_for_after(logged, "failed to apply policies", PATIENCE)?;
                ensure!(line.contains("-restore"), "which tool? {line}");
                logged = agent.logged();
            }
            let claimed = agent.said_after(since, "policies are enforced");
            ensure!(claimed.is_none(), "{what}: claimed while it was broken: {claimed:?}");
            Ok(())
        })
        .with_context(|| what.clone())?;
        let logged = agent.logged();
        broken().try_for_each(fs::remove_file)?;
        agent.wait_for_after(logged, "policies are enforced", PATIENCE)?;
        check(&cluster.lab, &what, &[stranger], &[web])?;
        agent.terminate()?;
    }
    Ok(())
}

#[test]
fn a_tool_that_fails_keeps_the_last_good_state_enforced_nft() -> Result<()> {
    recovers(IptablesVariant::Nft, &[NO, KILLED])
}

#[test]
fn a_tool_that_fails_keeps_the_last_good_state_enforced_legacy() -> Result<()> {
    recovers(IptablesVariant::Legacy, &[NO])
}

#[test]
fn a_read_back_that_is_cut_off_is_never_taken_for_the_whole() -> Result<()> {
    for (variant, tool) in [
        (IptablesVariant::Nft, "ipset"),
        (IptablesVariant::Nft, "iptables-nft-save"),
        (IptablesVariant::Legacy, "iptables-legacy-save"),
    ] {
        let cluster = shop(lab(variant), &[])?;
        cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
        start(&cluster, "n2")?.kill()?;
        let tools = tempfile::tempdir()?;
        // Of both families: one that can be read is enforced.
        let of_ipv6 = tool.replacen("iptables", "ip6tables", 1);
        let wrapped = BTreeSet::from([tool.to_owned(), of_ipv6]);
        wrapped.iter().try_for_each(|tool| wrap(tools.path(), tool, HALF))?;
        let broken = || wrapped.iter().map(|tool| tools.path().join(format!("{tool}.broken")));
        broken().try_for_each(|broken| fs::write(broken, ""))?;
        cluster.write("api.yaml", &allow("api", &["near"], &[WEB]))?;
        let setup = AgentSetup { tools: Some(tools.path().into()), ..AgentSetup::default() };
        let agent = cluster.spawn_agent_as("n2", &setup)?;
        agent.wait_for("failed to apply policies", PATIENCE)?;
        let closed: &[Route] = &[("stranger", "api", WEB), ("near", "api", WEB)];
        check(&cluster.lab, tool, &[("web", "api", WEB)], closed)?;
        ensure!(agent.said_after(0, "policies are enforced").is_none(), "{tool}");
        broken().try_for_each(fs::remove_file)?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        check(&cluster.lab, tool, &[("near", "api", WEB)], &[("web", "api", WEB)])?;
    }
    Ok(())
}

#[test]
fn what_judging_interfaces_needs_is_missed_only_where_it_is_on() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    let tools = tempfile::tempdir()?;
    let refuse = "case \"$*\" in *physdev*) echo \"no such match\" >&2; exit 1;; esac";
    for tool in ["iptables-nft", "ip6tables-nft"] {
        wrap(tools.path(), tool, refuse)?;
        fs::write(tools.path().join(format!("{tool}.broken")), "")?;
    }
    for (switch, is_missed) in [("on", true), ("off", false)] {
        let flags = vec![format!("--anti-spoofing={switch}")];
        let setup = AgentSetup { tools: Some(tools.path().into()), flags, ..AgentSetup::default() };
        let agent = cluster.spawn_agent_as("n2", &setup)?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        let missed = agent.said_after(0, "pods are judged by their addresses alone");
        ensure!(missed.is_some() == is_missed, "{switch}: {missed:?}");
        agent.terminate()?;
    }
    Ok(())
}

/// The sets of kube-proxy in IPVS mode or of a block list can have millions of members.
#[test]
fn no_member_of_a_foreign_set_is_read() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.lab.node("n2")?.shell(
        "ipset create block-list hash:ip
         seq 1 1000 | awk '{print \"add block-list 192.0.\" int($1 / 250) \".\" $1 % 250}' | ipset restore",
    )?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    start(&cluster, "n2")?.kill()?;

    // The next agent reads what the first one has left.
    let tools = tempfile::tempdir()?;
    wrap(tools.path(), "ipset", "\"$real\" \"$@\" | tee -a \"$0.printed\"; exit 0")?;
    fs::write(tools.path().join("ipset.broken"), "")?;
    let setup = AgentSetup { tools: Some(tools.path().into()), ..AgentSetup::default() };
    let agent = cluster.spawn_agent_as("n2", &setup)?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    let printed = fs::read_to_string(tools.path().join("ipset.printed"))?;
    let ours = |line: &&str| line.starts_with("add PORTCULLIS-");
    ensure!(printed.lines().filter(ours).count() > 0, "{printed}");
    let foreign = printed.lines().filter(|line| line.contains("192.0.")).count();
    ensure!(foreign == 0, "{foreign} members were read");
    agent.terminate()
}
