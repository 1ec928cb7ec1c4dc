//! Kinds that a cluster may lack: they come, go, come back, are there in another version, and a
//! server that does not answer for them is none that lacks them.

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

use super::proxy::{Mode, Proxy};
use super::seen::Seen;
use super::{apply, namespace, policy, unbent, wait_for};

const CRD: &str = "clusternetworkpolicies.policy.networking.k8s.io";

/// Installs the CRD of another project with these versions, each served or not; the last one is
/// stored. What it says of its objects does not matter here.
fn install(server: &ApiServer, versions: &[(&str, bool)]) -> Result<()> {
    let last = versions.last().map(|(name, _)| *name);
    let schema = json!({"openAPIV3Schema":
        {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let versions: Vec<Value> = versions
        .iter()
        .map(|(name, served)| {
            json!({"name": name, "served": served, "storage": Some(*name) == last, "schema": schema})
        })
        .collect();
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD, "annotations":
            {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api"}},
        "spec": {
            "group": "policy.networking.k8s.io", "scope": "Cluster", "versions": versions,
            "names": {"kind": "ClusterNetworkPolicy", "plural": "clusternetworkpolicies"},
        },
    });
    apply(server, &[&crd.to_string()])?;
    let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", CRD];
    server.kubectl(&established, None).map(drop)
}

fn cluster_policy(name: &str, version: &str) -> String {
    format!(
        "{{apiVersion: policy.networking.k8s.io/{version}, kind: ClusterNetworkPolicy, \
         metadata: {{name: {name}}}, spec: {{tier: Admin, priority: 1, \
         subject: {{namespaces: {{}}}}, ingress: []}}}}\n---\n"
    )
}

fn default_policy(name: &str) -> String {
    format!(
        "{{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, \
         metadata: {{name: {name}}}, spec: {{policyTypes: [Ingress]}}}}\n---\n"
    )
}

fn has(name: &str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.objects.contains_key(name)
}

#[test]
fn kinds_come_and_go_and_come_back_and_nothing_waits_for_them() -> Result<()> {
    let mut server = ApiServer::start(Options::default())?;
    apply(&server, &[&namespace("shop"), &policy("p")])?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    ensure!(has("NetworkPolicy shop/p")(&seen), "{:?}", seen.objects.keys());

    // They are looked for, by one request each time, also after a restart of the server.
    let asked = |kind: &str| proxy.count(&["customresourcedefinitions", kind]);
    let watched = || proxy.count(&["/clusternetworkpolicies?"]);
    assert_eq!(watched(), 1);
    server.restart()?;
    let before = asked("clusternetworkpolicies");
    wait_for(|| asked("clusternetworkpolicies") > before + 1)?;
    assert_eq!(watched(), 1, "a kind that is absent is not watched");

    server.install_crds()?;
    install(&server, &[("v1alpha2", true)])?;
    apply(&server, &[&cluster_policy("first", "v1alpha2"), &default_policy("closed")])?;
    seen.until("a ClusterNetworkPolicy", has("ClusterNetworkPolicy first"))?;
    seen.until("a default", has("ClusterDefaultNetworkPolicy closed"))?;
    let asked_when_there = asked("");
    apply(&server, &[&cluster_policy("second", "v1alpha2")])?;
    seen.until("the other ClusterNetworkPolicy", has("ClusterNetworkPolicy second"))?;

    let known = seen.batches.len();
    server.kubectl(&["delete", "crd", CRD], None)?;
    seen.until("the end of its objects", |seen| {
        !seen.objects.keys().any(|name| name.starts_with("ClusterNetworkPolicy"))
    })?;
    let mut gone = seen.batches[known..].concat();
    gone.sort();
    assert_eq!(gone, ["-ClusterNetworkPolicy first", "-ClusterNetworkPolicy second"]);
    for left in ["ClusterDefaultNetworkPolicy closed", "NetworkPolicy shop/p", "Namespace shop"] {
        ensure!(has(left)(&seen), "{left} went along");
    }
    wait_for(|| asked("") > asked_when_there + 1)?;

    install(&server, &[("v1beta1", true)])?;
    apply(&server, &[&cluster_policy("third", "v1beta1")])?;
    seen.until("a policy of the kind that is back", has("ClusterNetworkPolicy third"))?;
    ensure!(!has("ClusterNetworkPolicy first")(&seen), "it was deleted with its CRD");
    Ok(())
}

#[test]
fn a_server_that_does_not_answer_for_a_kind_is_waited_for_at_the_start() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    let proxy = Proxy::start(&server, unbent)?;
    let asked = || proxy.count(&["clusternetworkpolicies"]);
    // A 404 that is not the API server's own, as that of a proxy, says nothing.
    proxy.set(Mode::RefuseSome("clusternetworkpolicies", 404));
    let mut seen = Seen::start(proxy.kubeconfig())?;
    let kind = "clusternetworkpolicies";
    // Nor does it when the account may not ask for the CRD of a kind that the server does not find.
    let crds = "customresourcedefinitions";
    for (path, refusal) in [(kind, 404), (kind, 403), (kind, 503), (crds, 403)] {
        proxy.set(Mode::RefuseSome(path, refusal));
        let before = asked();
        wait_for(|| asked() > before + 1)?;
    }
    // Other kinds go on: what came before this one is all taken in.
    apply(&server, &[&namespace("late")])?;
    seen.until("another kind", has("Namespace late"))?;
    assert_eq!(seen.synced_after, None);
    proxy.set(Mode::Pass);
    seen.until_synced()
}

#[test]
fn a_kind_that_is_forbidden_is_named_and_nothing_waits_for_it() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    install(&server, &[("v1alpha2", true)])?;
    apply(&server, &[&namespace("shop"), &policy("p"), &cluster_policy("a", "v1alpha2")])?;
    let proxy = Proxy::start(&server, unbent)?;
    let told = |seen: &Seen, what: &str| {
        let told = seen.diagnostics.get("permission to read ClusterNetworkPolicy");
        told.into_iter().flatten().any(|told| told.contains(what))
    };
    proxy.set(Mode::RefuseSome("clusternetworkpolicies", 403));
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until("all kinds that can be read", |seen| seen.is_synced_in_part)?;
    assert_eq!(seen.synced_after, None);
    ensure!(has("NetworkPolicy shop/p")(&seen), "{:?}", seen.objects.keys());
    ensure!(told(&seen, "no object of this kind is known"), "{:?}", seen.diagnostics);
    proxy.set(Mode::Pass);
    seen.until_synced()?;
    seen.until("the end of the refusal", |seen| !told(seen, ""))?;
    ensure!(has("ClusterNetworkPolicy a")(&seen), "{:?}", seen.objects.keys());

    // What was known stays, and that changes are not known is reported.
    proxy.set(Mode::RefuseSome("clusternetworkpolicies", 403));
    server.kubectl(&["delete", "clusternetworkpolicies", "a"], None)?;
    seen.until("a refusal", |seen| told(seen, "known before stay enforced"))?;
    ensure!(has("ClusterNetworkPolicy a")(&seen), "it is not known that it was deleted");
    proxy.set(Mode::Pass);
    seen.until_change("-ClusterNetworkPolicy a")?;
    seen.until("the end of the refusal", |seen| !told(seen, ""))
}

/// For one, the webhook that converts a kind does not run.
#[test]
fn a_kind_for_which_the_server_fails_is_named_and_nothing_waits_for_it_for_ever() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    install(&server, &[("v1alpha2", true)])?;
    apply(&server, &[&namespace("shop"), &policy("p"), &cluster_policy("a", "v1alpha2")])?;
    for failure in [500, 503] {
        let proxy = Proxy::start(&server, unbent)?;
        proxy.set(Mode::RefuseSome("clusternetworkpolicies", failure));
        let mut seen = Seen::start(proxy.kubeconfig())?;
        seen.until("all kinds that can be read", |seen| seen.is_synced_in_part)?;
        ensure!(has("NetworkPolicy shop/p")(&seen), "{:?}", seen.objects.keys());
        let told = seen.diagnostics.get("permission to read ClusterNetworkPolicy");
        let told = told.and_then(|told| told.first()).context("nothing is reported")?;
        ensure!(told.contains(&failure.to_string()) && told.contains("none is enforced"), "{told}");
        proxy.set(Mode::Pass);
        seen.until_synced()?;
        ensure!(has("ClusterNetworkPolicy a")(&seen), "{:?}", seen.objects.keys());
    }
    Ok(())
}

#[test]
fn a_server_that_does_not_answer_for_a_kind_takes_nothing_out_of_force() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    install(&server, &[("v1alpha2", true)])?;
    apply(&server, &[&namespace("shop"), &cluster_policy("kept", "v1alpha2")])?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    ensure!(has("ClusterNetworkPolicy kept")(&seen), "{:?}", seen.objects.keys());

    let known = seen.batches.len();
    let asked = || proxy.count(&["clusternetworkpolicies"]);
    for refusal in [404, 403, 503] {
        proxy.set(Mode::RefuseSome("clusternetworkpolicies", refusal));
        let before = asked();
        wait_for(|| asked() > before + 1)?;
    }
    apply(&server, &[&policy(&format!("after-{}", asked()))])?;
    seen.until("a policy that came after", |seen| {
        seen.objects.keys().any(|name| name.starts_with("NetworkPolicy shop/after"))
    })?;
    assert_eq!(seen.batches_of("Cluster", known), Vec::<Vec<String>>::new());

    // Now the CRD does go, unseen; that is found out.
    server.kubectl(&["delete", "crd", CRD], None)?;
    assert_eq!(seen.batches_of("Cluster", known), Vec::<Vec<String>>::new());
    proxy.set(Mode::Pass);
    seen.until_change("-ClusterNetworkPolicy kept")
}

#[test]
fn a_kind_that_is_there_in_another_version_is_told_and_keeps_what_was_known() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    install(&server, &[("v1beta9", true)])?;
    apply(&server, &[&cluster_policy("a", "v1beta9")])?;
    let mut seen = Seen::start(&server.admin_kubeconfig())?;
    let told = |seen: &Seen| {
        let told = seen.diagnostics.get(&format!("CustomResourceDefinition {CRD}"));
        told.into_iter()
            .flatten()
            .any(|told| told.contains("serves v1beta9 and not v1beta1 or v1alpha2"))
    };
    seen.until("what is wrong with the version", told)?;
    seen.until_synced()?;
    ensure!(!has("ClusterNetworkPolicy a")(&seen), "another version may mean something else");

    install(&server, &[("v1alpha2", true), ("v1beta9", true)])?;
    seen.until("the policy in our version", has("ClusterNetworkPolicy a"))?;
    ensure!(!told(&seen), "{:?}", seen.diagnostics);

    // Its objects are there, in a version that is not read: nothing says that they are gone.
    install(&server, &[("v1alpha2", false), ("v1beta9", true)])?;
    seen.until("what is wrong again", told)?;
    ensure!(has("ClusterNetworkPolicy a")(&seen), "it was not deleted");
    install(&server, &[("v1alpha2", true), ("v1beta9", true)])?;
    server.kubectl(&["delete", "clusternetworkpolicies", "a"], None)?;
    seen.until_change("-ClusterNetworkPolicy a")?;
    ensure!(!told(&seen), "{:?}", seen.diagnostics);
    Ok(())
}

/// An upgrade of the CRD and its way back: v1alpha2, both, v1beta1, both, v1alpha2.
#[test]
fn a_kind_is_followed_from_version_to_version_without_a_change_of_its_objects() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    install(&server, &[("v1alpha2", true)])?;
    apply(&server, &[&cluster_policy("kept", "v1alpha2")])?;
    let mut seen = Seen::start(&server.admin_kubeconfig())?;
    seen.until_synced()?;
    ensure!(has("ClusterNetworkPolicy kept")(&seen), "{:?}", seen.objects.keys());
    let known = seen.batches.len();
    for (number, (old, new)) in
        [(true, true), (false, true), (true, true), (true, false)].into_iter().enumerate()
    {
        install(&server, &[("v1beta1", new), ("v1alpha2", old)])?;
        let (name, version) = (format!("p{number}"), if new { "v1beta1" } else { "v1alpha2" });
        apply(&server, &[&cluster_policy(&name, version)])?;
        seen.until(&name, has(&format!("ClusterNetworkPolicy {name}")))?;
    }
    let mut changes = seen.batches_of("ClusterNetworkPolicy", known).concat();
    changes.sort();
    let names: Vec<String> = (0..4).map(|n| format!("+ClusterNetworkPolicy p{n}")).collect();
    assert_eq!(changes, names, "what is there stays as it is");
    assert_eq!(seen.diagnostics.values().flatten().count(), 0, "{:?}", seen.diagnostics);
    Ok(())
}
