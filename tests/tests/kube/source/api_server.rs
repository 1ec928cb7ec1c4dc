//! An agent watches the addresses of the API server only while a policy allows connections to it.

use anyhow::{Context as _, Result, bail, ensure};
use policy_engine::direction::Direction;
use policy_engine::model::Change;
use portcullis_tests::kube::{ApiServer, Options};

use super::proxy::{Mode, Proxy};
use super::seen::Seen;
use super::{apply, namespace, policy, unbent};

const SLICES: [&str; 2] =
    ["/namespaces/default/endpointslices?", "kubernetes.io%2Fservice-name%3Dkubernetes"];

fn default_policy(name: &str, allows: bool) -> String {
    format!(
        "{{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, \
         metadata: {{name: {name}}}, spec: {{policyTypes: [Egress], allowAPIServer: {allows}}}}}\n---\n"
    )
}

/// The API servers of these tests do not write their addresses themselves.
fn slice(name: &str, service: &str, address: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: \
         default, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, endpoints: \
         [{{addresses: [{address}]}}], ports: [{{name: https, port: 6443, protocol: TCP}}]}}\n---\n"
    )
}

fn server() -> Result<ApiServer> {
    let server = ApiServer::start(Options::default())?;
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");
    server.kubectl(&["apply", "-k", crds], None)?;
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all"], None)?;
    let slices = [slice("kubernetes", "kubernetes", "192.0.2.1"), slice("web", "web", "192.0.2.2")];
    apply(&server, &[&namespace("shop"), &default_policy("other", false), &slices.concat()])?;
    Ok(server)
}

fn has(name: &str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.objects.contains_key(name)
}

/// Whether a policy is there, and allows the API server.
fn allows(seen: &Seen, name: &str) -> Option<bool> {
    match seen.objects.get(&format!("ClusterDefaultNetworkPolicy {name}"))? {
        Change::Policy(_, Some(policy)) => Some(policy.api_server(Direction::Egress).is_some()),
        _ => None,
    }
}

fn addresses(seen: &Seen) -> Result<Vec<String>> {
    let change = seen.objects.get(SLICE).context("no slice")?;
    let Change::ApiServer(_, Some(addresses)) = change else { bail!("{change:?}") };
    Ok(addresses.iter().map(|(address, ..)| address.to_string()).collect())
}

const SLICE: &str = "EndpointSlice default/kubernetes";

#[test]
fn the_addresses_of_the_api_server_are_watched_while_a_policy_allows_it() -> Result<()> {
    let server = server()?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    assert_eq!(proxy.count(&["endpointslices"]), 0, "no policy asks for it");

    apply(&server, &[&default_policy("open", true)])?;
    seen.until("the policy with the addresses", |seen| allows(seen, "open") == Some(true))?;
    assert_eq!(addresses(&seen)?, ["192.0.2.1"]);
    ensure!(!has("EndpointSlice default/web")(&seen), "{:?}", seen.objects.keys());
    let asked = proxy.count(&SLICES);
    assert_eq!((asked, proxy.count(&["endpointslices"])), (1, 1), "one list, of this Service only");
    assert_eq!(seen.batches_of("ClusterDefaultNetworkPolicy open", 0).len(), 1, "never closed");

    apply(&server, &[&slice("kubernetes", "kubernetes", "192.0.2.3")])?;
    seen.until_change("+EndpointSlice default/kubernetes")?;
    assert_eq!(addresses(&seen)?, ["192.0.2.3"]);
    apply(&server, &[&default_policy("open", false)])?;
    seen.until("the end of the addresses", |seen| !has(SLICE)(seen))
}

#[test]
fn until_the_addresses_are_known_the_policy_is_closed_and_nothing_waits() -> Result<()> {
    let server = server()?;
    let proxy = Proxy::start(&server, unbent)?;
    proxy.set(Mode::RefuseSome("/endpointslices", 403));
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    apply(&server, &[&default_policy("open", true), &policy("before")])?;
    seen.until("another one", has("NetworkPolicy shop/before"))?;
    seen.until("a policy that is closed", |seen| allows(seen, "open") == Some(false))?;
    let late = |seen: &Seen| seen.diagnostics.get("policies that allow the API server").cloned();
    seen.until("a report", |seen| late(seen).is_some_and(|found| found.len() == 1))?;
    proxy.set(Mode::Pass);
    seen.until("the addresses", |seen| allows(seen, "open") == Some(true) && has(SLICE)(seen))?;
    seen.until("the end of the report", |seen| late(seen).is_some_and(|found| found.is_empty()))
}
