//! The API server as a source of objects: what it has arrives, whatever happens in between.

mod api_server;
mod connection;
mod kinds;
mod nodes;
mod pods;
mod proxy;
mod seen;

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use policy_engine::labels::Labels;
use policy_engine::model::{Change, Life, Pod};
use portcullis_tests::kube::{ApiServer, Options};

use proxy::{Mode, Proxy};
use seen::Seen;

fn apply(server: &ApiServer, objects: &[&str]) -> Result<()> {
    server.kubectl(&["apply", "--server-side", "-f", "-"], Some(&objects.concat())).map(drop)
}

fn namespace(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n---\n")
}

fn pod(name: &str, app: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, \
         labels: {{app: {app}}}}}, spec: {{nodeName: n1, containers: [{{name: a, image: a, \
         ports: [{{name: http, containerPort: 80}}]}}]}}}}\n---\n"
    )
}

fn policy(name: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
         namespace: shop}}, spec: {{podSelector: {{}}, ingress: [{{}}]}}}}\n---\n"
    )
}

fn set_status(server: &ApiServer, object: &str, status: &str) -> Result<()> {
    let patch = format!("{{\"status\": {status}}}");
    let patch =
        ["patch", "-n", "shop", object, "--subresource=status", "--type=merge", "-p", &patch];
    server.kubectl(&patch, None).map(drop)
}

/// A pod as the source told it.
fn seen_pod<'a>(seen: &'a Seen, name: &str) -> Result<&'a Pod> {
    match seen.objects.get(&format!("Pod shop/{name}")) {
        Some(Change::Pod(_, Some(pod))) => Ok(pod),
        other => anyhow::bail!("no pod {name}: {other:?}"),
    }
}

fn unbent(line: String) -> String {
    line
}

#[test]
fn every_kind_arrives_first_as_a_whole_and_then_as_it_changes() -> Result<()> {
    let mut server = ApiServer::start(Options::default())?;
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}}\n---\n";
    apply(&server, &[&namespace("shop"), node, &pod("a", "web"), &policy("p")])?;
    set_status(
        &server,
        "pod/a",
        r#"{"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}"#,
    )?;
    let mut seen = Seen::start(&server.admin_kubeconfig())?;
    seen.until_synced()?;
    for object in ["Namespace shop", "Namespace kube-system", "Node n1", "NetworkPolicy shop/p"] {
        ensure!(seen.objects.contains_key(object), "{object}: {:?}", seen.objects.keys());
    }
    let web = seen_pod(&seen, "a")?;
    assert_eq!(web.labels, Labels::from_iter([("app", "web")]));
    assert_eq!((web.node.as_deref(), web.life), (Some("n1"), Life::Active));
    assert_eq!((web.addresses.len(), web.ports.len()), (1, 1));
    let generation = |seen: &Seen| match seen.objects.get("NetworkPolicy shop/p") {
        Some(Change::Policy(_, Some(policy))) => policy.revision.generation,
        _ => None,
    };
    assert_eq!(generation(&seen), Some(1));

    // Created and changed.
    apply(&server, &[&pod("b", "db"), &namespace("other")])?;
    seen.until("a new pod and namespace", |seen| {
        ["Pod shop/b", "Namespace other"].iter().all(|name| seen.objects.contains_key(*name))
    })?;
    set_status(
        &server,
        "node/n1",
        r#"{"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}"#,
    )?;
    seen.until_change("+Node n1")?;
    server.kubectl(&["label", "ns", "shop", "team=a"], None)?;
    seen.until_change("+Namespace shop")?;
    let spec = r#"{"spec": {"policyTypes": ["Ingress", "Egress"]}}"#;
    server.kubectl(&["patch", "netpol", "-n", "shop", "p", "-p", spec], None)?;
    seen.until_change("+NetworkPolicy shop/p")?;
    assert_eq!(generation(&seen), Some(2));

    // A pod that ends is out of the view, and stays so when it is deleted.
    set_status(&server, "pod/b", r#"{"phase": "Succeeded"}"#)?;
    seen.until_change("-Pod shop/b")?;
    let ended = seen.batches.len();
    let at_once = ["--grace-period=0", "--force"];
    server.kubectl(&[&["delete", "pod", "-n", "shop", "a", "b"], &at_once[..]].concat(), None)?;
    server.kubectl(&["delete", "netpol", "-n", "shop", "p"], None)?;
    server.kubectl(&["delete", "node", "n1"], None)?;
    server.kubectl(&["delete", "namespace", "other", "--wait=false"], None)?;
    let done = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"},
        "spec": {"finalizers": []}}"#;
    let finalize = "/api/v1/namespaces/other/finalize";
    server.kubectl(&["replace", "--raw", finalize, "-f", "-"], Some(done))?;
    seen.until("deletions", |seen| {
        let names = || seen.objects.keys();
        names().all(|name| name.starts_with("Namespace") && name != "Namespace other")
    })?;
    ensure!(!seen.batches[ended..].concat().contains(&"-Pod shop/b".to_owned()), "told twice");

    // The server dies and comes back; nothing changed but what is new.
    let known = seen.batches.len();
    server.restart()?;
    apply(&server, &[&pod("c", "web"), &policy("q")])?;
    seen.until("what is new", |seen| {
        ["Pod shop/c", "NetworkPolicy shop/q"].iter().all(|name| seen.objects.contains_key(*name))
    })?;
    let mut told = seen.batches[known..].concat();
    told.sort();
    told.dedup(); // The API server may write an object again after it was created.
    assert_eq!(told, ["+NetworkPolicy shop/q", "+Pod shop/c"]);
    let told = seen.diagnostics.values().flatten();
    assert_eq!(told.count(), 0, "{:?}", seen.diagnostics);
    Ok(())
}

#[test]
fn what_changed_unseen_and_expired_arrives_as_one_batch_with_exactly_the_difference() -> Result<()>
{
    let mut server = ApiServer::start(Options::default())?;
    let pods: String = ["a", "b", "c"].map(|name| pod(name, "web")).concat();
    apply(&server, &[&namespace("shop"), &pods, &policy("p"), &policy("kept")])?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;

    proxy.set(Mode::Cut);
    let known = seen.batches.len();
    server.kubectl(&["delete", "pod", "-n", "shop", "b", "--grace-period=0", "--force"], None)?;
    server.kubectl(&["label", "pod", "-n", "shop", "c", "--overwrite", "app=db"], None)?;
    server.kubectl(&["delete", "netpol", "-n", "shop", "p"], None)?;
    apply(&server, &[&pod("d", "web"), &policy("q")])?;
    // A server that starts knows no events of before: the watches have expired.
    server.restart()?;
    proxy.set(Mode::Pass);

    seen.until("the difference", |seen| {
        let has = |name: &str| seen.objects.contains_key(name);
        has("Pod shop/d") && has("NetworkPolicy shop/q")
    })?;
    let difference = ["+Pod shop/c", "+Pod shop/d", "-Pod shop/b"].map(str::to_owned).to_vec();
    assert_eq!(seen.batches_of("Pod", known), [difference]);
    let difference = ["+NetworkPolicy shop/q", "-NetworkPolicy shop/p"].map(str::to_owned).to_vec();
    assert_eq!(seen.batches_of("NetworkPolicy", known), [difference]);
    assert_eq!(seen_pod(&seen, "c")?.labels, Labels::from_iter([("app", "db")]));
    // Both watches went on from a version that was gone (410), and only then listed.
    for kind in ["spec.nodeName%3Dn1", "/networkpolicies"] {
        assert_eq!(proxy.count(&[kind, "sendInitialEvents=true"]), 2, "{kind}");
        ensure!(proxy.count(&[kind, "watch=true"]) >= 3, "{kind}: it never went on");
    }
    // Nothing else came, and events flow again.
    apply(&server, &[&pod("e", "web")])?;
    seen.until_change("+Pod shop/e")?;
    assert_eq!(seen.batches_of("Namespace", known), Vec::<Vec<String>>::new());
    Ok(())
}

/// What no API type accepts, in objects that are called so.
fn bent(line: String) -> String {
    if !line.contains(r#""name":"weird""#) {
        return line;
    }
    line.replace(r#""phase":"Pending""#, r#""phase":{"a":[7]}"#)
        .replace(r#""nodeName":"n1""#, r#""nodeName":["n1"]"#)
        .replace(r#""podSelector":{}"#, r#""podSelector":"all""#)
}

#[test]
fn a_server_that_refuses_and_objects_that_make_no_sense_are_survived() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    apply(&server, &[&namespace("shop"), &pod("weird", "web"), &policy("weird")])?;
    let proxy = Proxy::start(&server, bent)?;
    proxy.set(Mode::Refuse(429));
    let mut seen = Seen::start(proxy.kubeconfig())?;
    for (refusal, tries) in [(503, 8), (500, 16)] {
        wait_for(|| proxy.count(&["sendInitialEvents=true"]) >= tries)?;
        proxy.set(Mode::Refuse(refusal));
    }
    // Each try waits longer than the one before: this is no storm.
    assert_eq!(seen.synced_after, None);
    proxy.set(Mode::Pass);
    seen.until_synced()?;

    let weird = seen_pod(&seen, "weird")?;
    assert_eq!((weird.life, weird.node.as_deref()), (Life::Active, None), "it counts as active");
    let told = |seen: &Seen, origin: &str| seen.diagnostics.get(origin).map_or(0, Vec::len);
    assert_eq!(told(&seen, "Pod shop/weird"), 2, "{:?}", seen.diagnostics);
    assert_eq!(told(&seen, "NetworkPolicy shop/weird"), 1, "{:?}", seen.diagnostics);
    let closed = match seen.objects.get("NetworkPolicy shop/weird") {
        Some(Change::Policy(_, Some(policy))) => policy.subject.any_pods().is_everything(),
        other => anyhow::bail!("{other:?}"),
    };
    ensure!(closed, "it must fail closed");
    // The watch goes on: with events of others, and of the same object.
    apply(&server, &[&pod("good", "web")])?;
    seen.until_change("+Pod shop/good")?;
    server.kubectl(&["delete", "netpol", "-n", "shop", "weird"], None)?;
    seen.until_change("-NetworkPolicy shop/weird")?;
    seen.until("the end of the complaint", |seen| told(seen, "NetworkPolicy shop/weird") == 0)?;
    Ok(())
}

#[test]
fn a_server_without_streaming_lists_is_read_in_pages() -> Result<()> {
    const POLICIES: usize = 600;
    let options = Options::default().api_server_arg("--feature-gates=WatchList=false");
    let server = ApiServer::start(options)?;
    let mut manifest = namespace("shop");
    for number in 0..POLICIES {
        write!(manifest, "{}", policy(&format!("p{number}")))?;
    }
    server.kubectl(&["create", "-f", "-"], Some(&manifest)).context("failed to create them")?;
    let proxy = Proxy::start(&server, unbent)?;
    let mut seen = Seen::start(proxy.kubeconfig())?;
    seen.until_synced()?;
    let policies = seen.objects.keys().filter(|name| name.starts_with("NetworkPolicy")).count();
    assert_eq!(policies, POLICIES);
    assert_eq!(proxy.count(&["/networkpolicies", "limit=500"]), 2, "it asks for two pages");
    server.kubectl(&["delete", "netpol", "-n", "shop", "p7"], None)?;
    seen.until_change("-NetworkPolicy shop/p7")
}

/// An etcd without progress requests, such as 3.4, makes the API server answer streaming lists with 500 for ever.
#[test]
fn a_streaming_list_that_fails_in_any_way_is_followed_by_one_in_pages() -> Result<()> {
    const STREAMED: &str = "sendInitialEvents=true";
    let server = ApiServer::start(Options::default())?;
    apply(&server, &[&namespace("shop"), &policy("p"), &policy("q")])?;
    let refused = [400, 405, 410, 422, 500, 501, 503, 504].map(|c| Mode::RefuseSome(STREAMED, c));
    let failed = [410, 500, 503].map(|code| Mode::FailSome(STREAMED, code));
    let modes = refused.into_iter().chain(failed).chain([Mode::EndSome(STREAMED)]);
    for (number, mode) in modes.enumerate() {
        let proxy = Proxy::start(&server, unbent)?;
        proxy.set(mode);
        let mut seen = Seen::start(proxy.kubeconfig())?;
        seen.until_synced().with_context(|| format!("{mode:?}"))?;
        ensure!(seen.objects.contains_key("NetworkPolicy shop/p"), "{mode:?}");
        ensure!(proxy.count(&["/networkpolicies", "limit=500"]) >= 1, "{mode:?}");
        server.kubectl(&["label", "ns", "shop", "--overwrite", &format!("a=n{number}")], None)?;
        seen.until_change("+Namespace shop").with_context(|| format!("{mode:?}"))?;
        let again = proxy.count(&["/networkpolicies", STREAMED]);
        ensure!(again <= 2, "{mode:?}: {again} streaming lists for one view");
    }
    Ok(())
}

fn wait_for(done: impl Fn() -> bool) -> Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while !done() {
        ensure!(std::time::Instant::now() < deadline, "it never happened");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}
