//! Each kind of denial: who, to whom, and by which policies, within a second of the packet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use policy_engine::direction::Direction;
use policy_engine::tier::Tier;
use portcullis_controller::dataplane::denial::{Cause, Denial, Outcome};
use portcullis_lab::{self as lab, Endpoint, Family, IptablesVariant, Probe};
use portcullis_tests::cluster::Cluster;
use serde_json::{Value, json};

use crate::shop::{PATIENCE, PORT, address, isolate, shop, text, told};

/// What a line may take, from the packet on.
const SOON: Duration = Duration::from_secs(1);

/// One policy that denies what `web` sends to `api`, in this way and no other.
fn policy(denial: Denial, tier: Tier) -> Value {
    let (app, types) = match denial.direction {
        Direction::Ingress => ("api", "Ingress"),
        Direction::Egress => ("web", "Egress"),
    };
    let pods = json!({"matchLabels": {"app": app}});
    let (mode, annotations) = match denial.outcome {
        Outcome::Denied => ("Enforce", json!({})),
        Outcome::WouldDeny => ("Audit", json!({"portcullis.dev/mode": "audit"})),
    };
    match tier {
        Tier::NetworkPolicy => json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "shop", "name": "guard", "annotations": annotations},
            "spec": {"podSelector": pods, "policyTypes": [types]}}),
        Tier::Default => json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "ClusterDefaultNetworkPolicy",
            "metadata": {"name": "guard"},
            "spec": {"podSelector": pods, "policyTypes": [types], "mode": mode}}),
        Tier::Admin | Tier::Baseline => {
            let everyone = json!([{"namespaces": {}}]);
            let subject = json!({"pods": {"namespaceSelector": {}, "podSelector": pods}});
            let (rules, rule) = match denial.direction {
                Direction::Ingress => ("ingress", json!({"action": "Deny", "from": everyone})),
                Direction::Egress => ("egress", json!({"action": "Deny", "to": everyone})),
            };
            json!({"apiVersion": "policy.networking.k8s.io/v1beta1",
                "kind": "ClusterNetworkPolicy",
                "metadata": {"name": "guard", "annotations": annotations},
                "spec": {"tier": tier.as_str(), "priority": 5, "subject": subject,
                    (rules): [rule]}})
        }
    }
}

/// What the line says of it.
fn why(denial: Denial, tier: Tier) -> String {
    let would_be = match denial.outcome {
        Outcome::Denied => "",
        Outcome::WouldDeny => "would be ",
    };
    let (peer, closest) = match denial.direction {
        Direction::Ingress => ("from shop/web", ""),
        Direction::Egress => {
            ("to shop/api", "; closest is ClusterDefaultNetworkPolicy/guard allowDNS")
        }
    };
    match tier {
        Tier::NetworkPolicy => {
            format!("{would_be}isolated by shop/guard; no rule allows TCP {PORT} {peer}")
        }
        Tier::Admin | Tier::Baseline => {
            format!("{would_be}denied by ClusterNetworkPolicy/guard rule 1")
        }
        Tier::Default => format!(
            "{would_be}isolated by ClusterDefaultNetworkPolicy/guard; no rule allows TCP {PORT} \
             {peer}{closest}"
        ),
    }
}

/// Sends the packet of a kind of denial and reads the line; how long it took.
fn tell(cluster: &Cluster, denial: Denial, tier: Tier) -> Result<Duration> {
    cluster.write("guard.json", &policy(denial, tier).to_string())?;
    cluster.settle(PATIENCE)?;
    let (node, message) = match (denial.direction, denial.outcome) {
        (Direction::Ingress, Outcome::Denied) => ("n2", "denied"),
        (Direction::Egress, Outcome::Denied) => ("n1", "denied"),
        (Direction::Ingress, Outcome::WouldDeny) => ("n2", "would be denied"),
        (Direction::Egress, Outcome::WouldDeny) => ("n1", "would be denied"),
    };
    let agent = cluster.agent(node)?;
    let before = agent.logged();
    let api = address(cluster, "api", Family::V4)?;
    let probe = Probe::tcp(Endpoint::pod("shop/web"), api, PORT);
    let sent = Instant::now();
    let (line, took, open) = std::thread::scope(|scope| -> Result<_> {
        let probing = scope.spawn(|| cluster.lab.probe_all(&[probe], Duration::from_millis(900)));
        let fields = [("message", message), ("destination", "shop/api")];
        let (line, _) = told(agent, before, &fields, PATIENCE)?;
        let took = sent.elapsed();
        let outcomes = probing.join().map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        Ok((line, took, outcomes.first().context("one outcome")?.is_open()))
    })?;
    let says = |field, expected: &str| {
        ensure!(text(&line, field) == expected, "{field} is not {expected}: {line}");
        Ok(())
    };
    says("node", node)?;
    says("verdict", denial.outcome.as_str())?;
    says("direction", denial.direction.as_str())?;
    says("tier", tier.as_str())?;
    says("source", "shop/web")?;
    says("source_address", &address(cluster, "web", Family::V4)?.to_string())?;
    says("destination_address", &api.to_string())?;
    says("protocol", "TCP")?;
    says("why", &why(denial, tier))?;
    ensure!(line["port"] == PORT && line["count"] == 1 && line["seconds"].is_null(), "{line}");
    // Audit lets the packet pass; all others are dropped.
    ensure!(open == (denial.outcome == Outcome::WouldDeny), "open: {open}, {line}");
    Ok(took)
}

fn each_kind(variant: IptablesVariant) -> Result<()> {
    let mut cluster = shop(variant)?;
    cluster.start_agents()?;
    let mut took = Vec::new();
    for denial in Denial::all() {
        // No policy denies by the address alone.
        let Cause::Policies(tier) = denial.cause else { continue };
        took.push(tell(&cluster, denial, tier).with_context(|| format!("{denial:?}"))?);
    }
    took.sort_unstable();
    println!("{variant:?}: from packet to line: median {:?}, all {took:?}", took[8]);
    // One of them may meet a busy machine.
    ensure!(took[14] < SOON, "lines take too long: {took:?}");
    Ok(())
}

#[test]
fn each_kind_of_denial_names_pods_and_policies_within_a_second_nft() -> Result<()> {
    each_kind(IptablesVariant::Nft)
}

#[test]
fn each_kind_of_denial_names_pods_and_policies_within_a_second_legacy() -> Result<()> {
    each_kind(IptablesVariant::Legacy)
}

/// How often a packet is sent, at most.
const ROUNDS: u32 = 6;

/// A packet, the node that denies it, and the fields of its line.
struct Case {
    probe: Probe,
    node: &'static str,
    fields: Vec<(&'static str, String)>,
}

#[test]
fn nodes_strangers_and_every_protocol_are_told_by_their_names() -> Result<()> {
    let mut cluster = shop(IptablesVariant::Nft)?;
    cluster.write("api.json", &isolate("api", "Ingress"))?;
    cluster.write("web.json", &isolate("web", "Egress").replace("closed", "no-exit"))?;
    cluster.start_agents()?;
    cluster.settle(PATIENCE)?;
    let mut cases = Vec::new();
    for family in [Family::V4, Family::V6] {
        let (api, node) = (address(&cluster, "api", family)?, cluster.lab.node("n1")?);
        let node = node.address(family)?;
        let stranger = lab::internet(family).to_string();
        let (icmp, kind) = match family {
            Family::V4 => ("ICMP", 8),
            Family::V6 => ("ICMPv6", 128),
        };
        let to_api = |probe, source: &str, protocol: &str, what: &str| Case {
            probe,
            node: "n2",
            fields: vec![
                ("source", source.to_owned()),
                ("destination", "shop/api".to_owned()),
                ("destination_address", api.to_string()),
                ("protocol", protocol.to_owned()),
                ("why", format!("isolated by shop/closed; no rule allows {what} from {source}")),
            ],
        };
        let other = || Endpoint::pod("shop/other");
        cases.push(to_api(Probe::udp(other(), api, 53), "shop/other", "UDP", "UDP 53"));
        cases.push(to_api(Probe::sctp_init(other(), api, 9), "shop/other", "SCTP", "SCTP 9"));
        let type_of_icmp = format!("{icmp} type {kind}");
        cases.push(to_api(Probe::icmp(other(), api), "shop/other", icmp, &type_of_icmp));
        cases.push(to_api(Probe::tcp(Endpoint::Internet, api, 443), &stranger, "TCP", "TCP 443"));
        cases.push(to_api(Probe::tcp(Endpoint::node("n1"), api, 22), "node/n1", "TCP", "TCP 22"));
        cases.push(Case {
            probe: Probe::tcp(Endpoint::pod("shop/web"), node, 10_250),
            node: "n1",
            fields: vec![
                ("source", "shop/web".to_owned()),
                ("destination", "node/n1".to_owned()),
                ("direction", "Egress".to_owned()),
                ("port", "10250".to_owned()),
                ("why", "isolated by shop/no-exit; no rule allows TCP 10250 to node/n1".to_owned()),
            ],
        });
    }
    // A first packet may be lost while a node looks for its neighbour: then nothing was denied yet.
    let (mut rounds, mut silent) = (0, cases);
    while !silent.is_empty() {
        rounds += 1;
        let probes: Vec<Probe> = silent.iter().map(|case| case.probe.clone()).collect();
        let outcomes = cluster.lab.probe_all(&probes, Duration::from_millis(900))?;
        let mut left = Vec::new();
        for (case, outcome) in silent.into_iter().zip(outcomes) {
            ensure!(!outcome.is_open(), "{} got through", case.probe);
            let fields: Vec<_> = case.fields.iter().map(|(name, is)| (*name, &**is)).collect();
            let found = told(cluster.agent(case.node)?, 0, &fields, PATIENCE / ROUNDS);
            match found.with_context(|| case.probe.to_string()) {
                Ok(_) => {}
                Err(error) if rounds == ROUNDS => return Err(error),
                Err(_) => left.push(case),
            }
        }
        silent = left;
    }
    Ok(())
}
