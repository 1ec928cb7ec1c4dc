//! Pod objects of other nodes that claim the address of a pod: they neither open the pod nor take
//! its place as a peer.

use anyhow::{Context as _, Result};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::Cluster;
use serde_json::json;

use crate::VARIANTS;
use crate::shop::{PATIENCE, WEB, allow, check, enforced, lab, shop, start};

/// A Pod object of `node` that claims the addresses of the pod `victim`, younger than all pods.
fn claim(cluster: &Cluster, victim: &str, node: &str) -> Result<()> {
    let addresses = cluster.lab.pod(&format!("shop/{victim}"))?.addresses();
    let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "thief", "labels": {"app": "thief"},
            "creationTimestamp": "2040-01-01T00:00:00Z"},
        "spec": {"nodeName": node}, "status": {"phase": "Running", "podIPs": ips}});
    cluster.write("thief.json", &pod.to_string())
}

fn claims_of_other_nodes(variant: IptablesVariant) -> Result<()> {
    let cluster = shop(lab(variant), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let agent = start(&cluster, "n2")?;
    let then = |change: Result<()>| enforced(&cluster, [&agent], || change);
    let (web, stranger) = (("web", "api", WEB), ("stranger", "api", WEB));
    check(&cluster.lab, "before", &[web], &[stranger])?;

    then(claim(&cluster, "api", "n1"))?;
    agent.wait_for("is claimed by pods shop/api on node n2 and shop/thief on node n1", PATIENCE)?;
    check(&cluster.lab, "with a claim to the subject", &[web], &[stranger])?;

    then(claim(&cluster, "web", "n3"))?;
    agent.wait_for("is claimed by pods shop/thief on node n3 and shop/web on node n1", PATIENCE)?;
    check(&cluster.lab, "with a claim to the peer", &[], &[web, stranger])?;

    then(cluster.remove("thief.json"))?;
    check(&cluster.lab, "after both", &[web], &[stranger])
}

#[test]
fn a_pod_object_of_another_node_does_not_open_a_pod_and_is_not_taken_for_its_peer() -> Result<()> {
    VARIANTS.into_iter().try_for_each(|variant| {
        claims_of_other_nodes(variant).with_context(|| variant.name().to_owned())
    })
}
