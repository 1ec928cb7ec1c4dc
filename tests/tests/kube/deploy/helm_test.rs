//! `helm test` on a real API server: it succeeds when every node enforces policies, names those that do
//! not, and has no permission that it does not use. The kubelet's part is done here; real kubelets run
//! the same pod in the tests on a real cluster.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use portcullis_tests::cluster::portcullis;
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

use super::helm::{Helm, NAMESPACE, chart, objects};
use super::rights::{account, granted, until_used};
use super::{ASK_EVERY, LIMIT, containers};

const NAME: &str = "portcullis-test";

#[test]
fn helm_test_succeeds_when_every_node_enforces_and_names_those_that_do_not() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart());
    let server = ApiServer::start(Options::default().audit())?;
    let admin = server.admin_kubeconfig();
    helm.run(&admin, &["install", "portcullis", &chart, "--create-namespace"])?;
    let hooks = helm.template(&["--show-only=templates/tests/status.yaml"])?;
    let hooks: Vec<Value> = objects(&hooks)?.into_values().collect();
    check_pod(&server, &hooks)?;

    daemon_set(&server, 2)?;
    for node in ["n1", "n2"] {
        agent(&server, node)?;
    }
    report(&server, "n1", "Enforcing", "True", "PoliciesEnforced")?;
    report(&server, "n2", "Auditing", "False", "AuditOnly")?;
    let (tested, log) = run_test(&helm, &server)?;
    ensure!(tested.status.success(), "{tested:?}: {log}");
    assert_eq!(log, "all 2 nodes enforce or audit policies\n");
    let left = server.kubectl(&["get", "pods,sa,roles", "-n", NAMESPACE, "-oname"], None)?;
    ensure!(!left.contains(NAME), "a test that succeeds leaves {left}");

    report(&server, "n2", "Failing", "False", "ApplyFailed")?;
    let (tested, log) = run_test(&helm, &server)?;
    ensure!(!tested.status.success(), "{log}");
    assert_eq!(log, "n2: Failing: ApplyFailed: as written\n");
    // Its log can still be read.
    server.kubectl(&["get", "pod", NAME, "-n", NAMESPACE], None)?;

    let account = account(NAMESPACE, NAME);
    let mut unused = granted(&hooks)?;
    ensure!(unused.iter().all(|right| right.account == account), "{unused:#?}");
    until_used(&server, &BTreeSet::from([&*account]), &(0..0), &mut unused, |_| true)
}

/// The pod of the test passes the strictest level of Pod Security but for the network of its node, and uses
/// the image of the chart.
fn check_pod(server: &ApiServer, hooks: &[Value]) -> Result<()> {
    let pod = hooks.iter().find(|object| object["kind"] == "Pod").context("no pod")?;
    let restricted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    server.kubectl(&["apply", "-f", "-"], Some(&restricted.to_string()))?;
    let mut spec = pod["spec"].clone();
    assert_eq!(spec["hostNetwork"], true);
    spec["hostNetwork"] = Value::Null;
    let one = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": "one", "namespace": "restricted"}});
    let create = ["create", "--dry-run=server", "--warnings-as-errors", "-f", "-"];
    server.kubectl(&create, Some(&one.to_string()))?;
    let as_template = json!({"spec": {"template": {"spec": pod["spec"]}}});
    containers(&as_template).try_for_each(super::check_container)
}

/// Runs `helm test`, and does what a kubelet does with its pod. Gives the log of the pod too.
fn run_test(helm: &Helm, server: &ApiServer) -> Result<(Output, String)> {
    let admin = server.admin_kubeconfig();
    let arguments = ["test", "portcullis", "--timeout=60s"];
    std::thread::scope(|scope| {
        let tested = scope.spawn(|| helm.output(&admin, &arguments));
        let log = run_pod(server);
        let tested = tested.join().ok().context("helm panicked")??;
        Ok((tested, log?))
    })
}

fn run_pod(server: &ApiServer) -> Result<String> {
    let deadline = Instant::now() + LIMIT;
    let pod: Value = loop {
        let get = ["get", "pod", NAME, "-n", NAMESPACE, "-ojson", "--ignore-not-found"];
        let found = server.kubectl(&get, None)?;
        // The pod of the test before is deleted first.
        let found = serde_json::from_str(&found).unwrap_or(Value::Null);
        if !found.is_null() && found["status"]["phase"] == "Pending" {
            break found;
        }
        ensure!(Instant::now() < deadline, "helm creates no pod");
        std::thread::sleep(ASK_EVERY);
    };
    let words = pod["spec"]["containers"][0]["args"].as_array().context("no arguments")?;
    let words = words.iter().filter_map(Value::as_str);
    let output = Command::new(portcullis()?)
        .args(words.map(|word| if word.starts_with("--timeout") { "--timeout=3" } else { word }))
        .env("KUBECONFIG", server.kubeconfig_for_service_account(NAMESPACE, NAME)?)
        .env("POD_NAMESPACE", NAMESPACE)
        .output()?;
    let phase = if output.status.success() { "Succeeded" } else { "Failed" };
    status(server, "pod", NAME, &json!({"phase": phase}))?;
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The status that the DaemonSet controller writes.
fn daemon_set(server: &ApiServer, nodes: u64) -> Result<()> {
    let name = "portcullis-node";
    let found = server.get(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{name}"))?;
    let written = json!({"observedGeneration": found["metadata"]["generation"],
        "desiredNumberScheduled": nodes, "currentNumberScheduled": nodes, "numberMisscheduled": 0,
        "numberReady": nodes});
    status(server, "daemonset", name, &written)
}

/// A ready agent on a node.
fn agent(server: &ApiServer, node: &str) -> Result<()> {
    let name = format!("portcullis-node-{node}");
    let labels =
        json!({"app.kubernetes.io/name": "portcullis", "app.kubernetes.io/component": "node"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "node", "image": "portcullis"}]}});
    server.kubectl(&["create", "-f", "-"], Some(&pod.to_string()))?;
    let ready = json!({"type": "Ready", "status": "True"});
    status(server, "pod", &name, &json!({"phase": "Running", "conditions": [ready]}))
}

/// The report of the agent of a node.
fn report(
    server: &ApiServer,
    node: &str,
    state: &str,
    enforcing: &str,
    reason: &str,
) -> Result<()> {
    let report = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": node}, "spec": {"nodeName": node}});
    server.kubectl(&["apply", "-f", "-"], Some(&report.to_string()))?;
    let now = k8s_openapi::jiff::Timestamp::now();
    let condition = json!({"type": "Enforcing", "status": enforcing, "reason": reason,
        "message": "as written", "lastTransitionTime": now});
    let written = json!({"observedAt": now, "state": state, "conditions": [condition],
        "agent": {"version": "0.1.0", "podName": format!("portcullis-node-{node}")}});
    status(server, "nodepolicyreport", node, &written)
}

fn status(server: &ApiServer, kind: &str, name: &str, status: &Value) -> Result<()> {
    let patch = json!({"status": status}).to_string();
    let arguments = ["patch", kind, name, "-n", NAMESPACE, "--subresource=status"];
    server.kubectl(&[&arguments[..], &["--type=merge", "-p", &patch]].concat(), None).map(drop)
}
