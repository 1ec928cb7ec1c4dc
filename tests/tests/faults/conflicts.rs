//! Other software on a node that makes enforcement void: the agent says so, and is not ready as long
//! as it is there.

use std::fs;

use anyhow::{Context, Result, ensure};
use portcullis_lab::{Family, IptablesVariant, Node};
use portcullis_tests::cluster::{Agent, AgentSetup, Cluster};
use serde_json::json;

use crate::VARIANTS;
use crate::bpf::object;
use crate::probes::{HEALTH, METRICS, ask, flags, value, wait_for};
use crate::shop::{PATIENCE, WEB, allow, check, lab, shop};

/// What the agent logs when a conflict comes and when it goes.
const DETECTED: &str = "policies are not enforced on this node";
const OVER: &str = "the conflict is over";

/// What somebody does on a node, and how it is undone.
struct Case {
    /// The reason that is reported.
    conflict: &'static str,
    /// What the message names.
    names: String,
    make: String,
    undo: String,
}

fn case(conflict: &'static str, names: &str, make: String, undo: String) -> Case {
    Case { conflict, names: names.to_owned(), make, undo }
}

/// A lab whose agent of n2 looks for conflicts each second.
fn start(variant: IptablesVariant, setup: AgentSetup) -> Result<(Cluster, Agent)> {
    let cluster = shop(lab(variant), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let mut flags = flags(&["--conflict-period=1"]);
    flags.extend(setup.flags);
    let agent = cluster.spawn_agent_as("n2", &AgentSetup { flags, ..setup })?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    wait_for(&cluster, "/readyz", 200)?;
    Ok((cluster, agent))
}

/// Whether the metric of a conflict is set.
fn is_counted(cluster: &Cluster, conflict: &str, ignored: bool) -> Result<bool> {
    let (_, metrics) = ask(cluster, METRICS, "/metrics")?;
    let series = format!("portcullis_conflicts{{conflict=\"{conflict}\",ignored=\"{ignored}\"}}");
    Ok(value(&metrics, &series)? > 0.0)
}

/// What /readyz answers while the agent is not ready.
fn why_unready(cluster: &Cluster) -> Result<String> {
    let (status, why) = ask(cluster, HEALTH, "/readyz")?;
    ensure!(status == 503, "{status}: {why}");
    Ok(why)
}

fn is_ready(cluster: &Cluster) -> Result<()> {
    let (status, why) = ask(cluster, HEALTH, "/readyz")?;
    ensure!(status == 200, "{status}: {why}");
    Ok(())
}

/// Does `change` and waits until the agent has logged `text`.
fn until(agent: &Agent, text: &str, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let logged = agent.logged();
    change()?;
    agent.wait_for_after(logged, text, PATIENCE)?;
    Ok(())
}

fn script(node: &Node, script: &str) -> Result<()> {
    node.shell(script).map(drop)
}

/// The node is not ready while `case` lasts, and is ready before and after.
fn is_detected(cluster: &Cluster, agent: &Agent, case: &Case) -> Result<()> {
    is_ready(cluster)?;
    let node = cluster.lab.node("n2")?;
    until(agent, DETECTED, || script(node, &case.make))?;
    let why = why_unready(cluster)?;
    ensure!(why.starts_with(&format!("Bypassed: {}: ", case.conflict)), "{why}");
    ensure!(why.contains(&case.names), "{why}");
    ensure!(is_counted(cluster, case.conflict, false)?);
    until(agent, OVER, || script(node, &case.undo))?;
    is_ready(cluster)?;
    ensure!(!is_counted(cluster, case.conflict, false)?);
    Ok(())
}

fn are_detected(cluster: &Cluster, agent: &Agent, cases: &[Case]) -> Result<()> {
    cases
        .iter()
        .try_for_each(|case| is_detected(cluster, agent, case).with_context(|| case.make.clone()))
}

/// A chain that FORWARD leads to.
fn hooked(command: &str, chain: &str) -> Case {
    let make = format!("{command} -w 20 -N {chain}; {command} -w 20 -A FORWARD -j {chain}");
    let undo = format!("{command} -w 20 -D FORWARD -j {chain}; {command} -w 20 -X {chain}");
    case("SecondEnforcer", &format!("FORWARD of {command} leads to {chain}"), make, undo)
}

fn second_enforcers(variant: IptablesVariant) -> Result<()> {
    let (cluster, agent) = start(variant, AgentSetup::default())?;
    let node = cluster.lab.node("n2")?;
    let other = VARIANTS.into_iter().find(|other| *other != variant).context("there are two")?;
    let (v4, v6) = (variant.program(Family::V4), variant.program(Family::V6));
    // What another enforcer left behind is no conflict.
    let left = format!("{v4} -w 20 -N cali-FORWARD; {v6} -w 20 -N cali-FORWARD");
    let noted = format!("Calico left chains in {v4}, chains in {v6} behind");
    until(&agent, &noted, || script(node, &left))?;
    is_ready(&cluster)?;
    node.shell(&format!("{v4} -w 20 -X cali-FORWARD; {v6} -w 20 -X cali-FORWARD"))?;
    let base = "'{ type filter hook forward priority -5; }'";
    let cases = [
        hooked(v4, "cali-FORWARD"),
        hooked(v6, "KUBE-ROUTER-FORWARD"),
        hooked(other.program(Family::V4), "AZURE-NPM"),
        case(
            "SecondEnforcer",
            "nftables table kube-network-policies",
            format!(
                "nft add table inet kube-network-policies
                 nft add chain inet kube-network-policies forward {base}"
            ),
            "nft delete table inet kube-network-policies".to_owned(),
        ),
    ];
    are_detected(&cluster, &agent, &cases)?;

    // Both enforce: a conflict takes none of our rules away.
    until(&agent, DETECTED, || script(node, &hooked(v4, "cali-FORWARD").make))?;
    why_unready(&cluster)?;
    check(&cluster.lab, "beside Calico", &[("web", "api", WEB)], &[("stranger", "api", WEB)])?;
    agent.terminate()
}

#[test]
fn a_second_enforcer_in_forward_is_a_conflict_and_its_left_over_chains_are_not_nft() -> Result<()> {
    second_enforcers(IptablesVariant::Nft)
}

#[test]
fn a_second_enforcer_in_forward_is_a_conflict_and_its_left_over_chains_are_not_legacy() -> Result<()>
{
    second_enforcers(IptablesVariant::Legacy)
}

#[test]
fn a_datapath_that_gets_past_iptables_is_a_conflict() -> Result<()> {
    let (cluster, agent) = start(IptablesVariant::Nft, AgentSetup::default())?;
    let link = cluster.lab.pod("shop/api")?.host_link().context("it has one")?.to_owned();
    let objects = tempfile::tempdir()?;
    let path = |name: &str, bytes: Vec<u8>| -> Result<String> {
        let path = objects.path().join(name);
        fs::write(&path, bytes)?;
        Ok(path.display().to_string())
    };
    // Each passes every packet: TC_ACT_UNSPEC and XDP_PASS.
    let tc = path("mine.o", object("tc", "pass", -1))?;
    let cilium = path("cil_from_container.o", object("tc", "cil_from_contai", -1))?;
    let xdp = path("xdp.o", object("xdp", "pass", 2))?;
    let filter = |object: &str, place: &str| {
        format!(
            "tc qdisc add dev {link} clsact; tc filter add dev {link} {place} bpf da obj {object} sec tc"
        )
    };
    let undo = || format!("tc qdisc del dev {link} clsact");
    let cases = [
        case("EbpfDatapath", &link, filter(&tc, "ingress"), undo()),
        case("EbpfDatapath", &link, filter(&tc, "egress"), undo()),
        case("EbpfDatapath", "Cilium", filter(&cilium, "ingress"), undo()),
        case(
            "EbpfDatapath",
            &link,
            format!("ip link set dev {link} xdpgeneric obj {xdp} sec xdp"),
            format!("ip link set dev {link} xdpgeneric off"),
        ),
        case(
            "EbpfDatapath",
            "Cilium",
            "ip link add cilium_host type veth peer name cilium_net".to_owned(),
            "ip link del cilium_host".to_owned(),
        ),
        // There are no dummy interfaces in every kernel: a bridge has the name and the addresses.
        case(
            "KubeProxyIpvs",
            "kube-ipvs0",
            "ip link add kube-ipvs0 type bridge; ip address add 10.96.0.1/32 dev kube-ipvs0"
                .to_owned(),
            "ip link del kube-ipvs0".to_owned(),
        ),
    ];
    are_detected(&cluster, &agent, &cases)?;
    let node = cluster.lab.node("n2")?;
    let unused = "kube-ipvs0 has no addresses";
    until(&agent, unused, || script(node, "ip link add kube-ipvs0 type bridge"))?;
    is_ready(&cluster)?;
    agent.terminate()
}

/// Takes bridged packets past iptables, or no longer.
fn bridged_past(node: &Node, family: &str, past: bool) -> Result<()> {
    let value = u8::from(!past);
    node.shell(&format!("echo {value} > /proc/sys/net/bridge/bridge-nf-call-{family}"))?;
    Ok(())
}

#[test]
fn a_bridge_past_iptables_that_the_agent_may_not_change_is_a_conflict() -> Result<()> {
    let setup = AgentSetup { read_only_sysctls: true, ..AgentSetup::default() };
    let (cluster, agent) = start(IptablesVariant::Nft, setup)?;
    let node = cluster.lab.node("n2")?;
    let near: &[_] = &[("near", "api", WEB)];
    check(&cluster.lab, "before", &[], near)?;
    for family in ["iptables", "ip6tables"] {
        until(&agent, DETECTED, || bridged_past(node, family, true))?;
        let why = why_unready(&cluster)?;
        ensure!(why.starts_with("Bypassed: BridgeTrafficBypassesIptables: "), "{why}");
        ensure!(why.contains(&format!("sysctl -w net.bridge.bridge-nf-call-{family}=1")), "{why}");
        until(&agent, OVER, || bridged_past(node, family, false))?;
        is_ready(&cluster)?;
    }
    // What is reported is true.
    until(&agent, DETECTED, || bridged_past(node, "iptables", true))?;
    bridged_past(node, "ip6tables", true)?;
    why_unready(&cluster)?;
    check(&cluster.lab, "past iptables", near, &[])?;
    agent.terminate()
}

#[test]
fn an_isolated_pod_on_macvlan_is_a_conflict() -> Result<()> {
    let (cluster, agent) = start(IptablesVariant::Nft, AgentSetup::default())?;
    let node = cluster.lab.node("n2")?;
    // Its parent is the node's uplink, and nothing of it is left in the node's namespace.
    let pod = cluster.lab.pod("shop/lurker")?.netns().name();
    node.shell(&format!("ip link add net1 link eth0 netns {pod} type macvlan mode bridge"))?;
    cluster
        .lab
        .pod("shop/lurker")?
        .netns()
        .shell("ip address add 198.18.5.5/24 dev net1; ip link set net1 up")?;
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "mac", "labels": {"app": "mac"}},
        "spec": {"nodeName": "n2"},
        "status": {"phase": "Running", "podIPs": [{"ip": "198.18.5.5"}]}});
    until(&agent, DETECTED, || {
        cluster.write("pod-mac.json", &manifest.to_string())?;
        cluster.write("mac.yaml", &allow("mac", &[], &[]))
    })?;
    let why = why_unready(&cluster)?;
    ensure!(why.starts_with("Bypassed: PodsBypassNode: ") && why.contains("198.18.5.5"), "{why}");
    until(&agent, OVER, || cluster.remove("pod-mac.json"))?;
    is_ready(&cluster)?;
    agent.terminate()
}

#[test]
fn a_conflict_that_the_operator_ignores_is_reported_and_does_not_count() -> Result<()> {
    let flags = vec!["--ignore-conflicts=SecondEnforcer,KubeProxyIpvs".to_owned()];
    let (cluster, agent) =
        start(IptablesVariant::Nft, AgentSetup { flags, ..AgentSetup::default() })?;
    let node = cluster.lab.node("n2")?;
    let logged = agent.logged();
    node.shell(&hooked("iptables-nft", "cali-FORWARD").make)?;
    agent.wait_for_after(
        logged,
        "ignored, as --ignore-conflicts says: SecondEnforcer",
        PATIENCE,
    )?;
    ensure!(ask(&cluster, 7001, "/readyz")?.0 == 200);
    ensure!(is_counted(&cluster, "SecondEnforcer", true)?);
    ensure!(!is_counted(&cluster, "SecondEnforcer", false)?);
    let (_, metrics) = ask(&cluster, METRICS, "/metrics")?;
    let warnings = value(&metrics, "portcullis_diagnostics{severity=\"warning\",about=\"other\"}")?;
    ensure!(warnings >= 1.0, "{metrics}");
    // Another one counts all the same.
    let cilium = "ip link add cilium_host type veth peer name cilium_net";
    until(&agent, DETECTED, || script(node, cilium))?;
    let why = why_unready(&cluster)?;
    ensure!(
        why.starts_with("Bypassed: EbpfDatapath: ") && !why.contains("SecondEnforcer"),
        "{why}"
    );
    agent.terminate()
}
