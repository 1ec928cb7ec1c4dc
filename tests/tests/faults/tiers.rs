//! Policies of the whole cluster in files: they take effect and go with their file.

use anyhow::{Context as _, Result};
use portcullis_lab::IptablesVariant;
use portcullis_tests::cluster::{AgentSetup, Cluster};

use crate::VARIANTS;
use crate::shop::{PATIENCE, WEB, allow, check, enforced, lab, shop, start};

const CLOSED: &str = "apiVersion: portcullis.dev/v1alpha1\nkind: ClusterDefaultNetworkPolicy\n\
    metadata: {name: closed}\nspec: {policyTypes: [Ingress]}\n";

const STRANGER_IS_LET_IN: &str = "apiVersion: policy.networking.k8s.io/v1beta1\n\
    kind: ClusterNetworkPolicy\nmetadata: {name: open}\n\
    spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, \
    from: [{pods: {podSelector: {matchLabels: {app: stranger}}}}]}]}\n";

fn files_come_and_go(variant: IptablesVariant) -> Result<()> {
    let cluster = shop(lab(variant), &[])?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let agent = start(&cluster, "n2")?;
    let then = |change: Result<()>| enforced(&cluster, [&agent], || change);
    let by_policy = [("stranger", "api", WEB), ("near", "api", WEB)];
    let (web, near, stranger) =
        (("web", "api", WEB), ("near", "other", WEB), ("stranger", "other", WEB));
    check(&cluster.lab, "before", &[web, near, stranger], &by_policy)?;

    then(cluster.write("closed.yaml", CLOSED))?;
    let closed = [&by_policy[..], &[near, stranger]].concat();
    check(&cluster.lab, "with a default", &[web], &closed)?;
    then(cluster.write("open.yaml", STRANGER_IS_LET_IN))?;
    check(&cluster.lab, "with an admin's", &[web, stranger, by_policy[0]], &[by_policy[1], near])?;
    then(cluster.remove("open.yaml"))?;
    check(&cluster.lab, "without the admin's", &[web], &closed)?;
    then(cluster.remove("closed.yaml"))?;
    check(&cluster.lab, "after all", &[web, near, stranger], &by_policy)
}

#[test]
fn a_file_with_a_policy_of_the_cluster_takes_effect_and_takes_it_away_again() -> Result<()> {
    VARIANTS.into_iter().try_for_each(|variant| {
        files_come_and_go(variant).with_context(|| variant.name().to_owned())
    })
}

#[test]
fn defaults_leave_out_the_namespace_that_the_agent_is_told_to_be_its_own() -> Result<()> {
    let cluster: Cluster = shop(lab(IptablesVariant::Nft), &[])?;
    cluster.write("closed.yaml", CLOSED)?;
    let route = [("near", "other", WEB)];
    let agent = start(&cluster, "n2")?;
    check(&cluster.lab, "in portcullis-system", &[], &route)?;
    agent.terminate()?;
    let flags = vec!["--own-namespace=shop".to_owned()];
    let agent = cluster.spawn_agent_as("n2", &AgentSetup { flags, ..AgentSetup::default() })?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    check(&cluster.lab, "in the shop", &route, &[])
}
