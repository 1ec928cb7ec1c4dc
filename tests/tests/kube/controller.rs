//! The cluster controller against a real API server: who leads, what it says about policies, and
//! what it does about reports.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_tests::cluster::portcullis;
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Exactly what the controller needs.
const ACCOUNT: &str = r#"
{apiVersion: v1, kind: ServiceAccount, metadata: {name: controller, namespace: default}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: controller}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: controller}
subjects: [{kind: ServiceAccount, name: controller, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: controller}
rules:
- {apiGroups: [""], resources: [pods, namespaces, nodes], verbs: [list, watch]}
- {apiGroups: [""], resources: [nodes], verbs: [get]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
- {apiGroups: [policy.networking.k8s.io], resources: [clusternetworkpolicies], verbs: [list, watch]}
- {apiGroups: [portcullis.dev], resources: [clusterdefaultnetworkpolicies], verbs: [list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get]}
- {apiGroups: [portcullis.dev], resources: [nodepolicyreports], verbs: [list, watch, delete]}
- {apiGroups: [portcullis.dev], resources: [nodepolicyreports/status], verbs: [patch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [portcullis-controller]
  verbs: [get, update]
"#;

const SHOP: &str = r"
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: web, image: web}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: port, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: typo, namespace: shop}
spec: {podSelector: {matchLabels: {app: wbe}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: peer, namespace: shop}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {name: gone}}}]}]}
";

/// A controller process, killed when dropped.
struct Controller(Child);

impl Controller {
    fn start(server: &ApiServer, name: &str) -> Result<Self> {
        let kubeconfig = server.kubeconfig_for_service_account("default", "controller")?;
        let mut command = Command::new(portcullis()?);
        command.args(["controller", "--lease-namespace=default", "--identity", name]);
        command.args(["--lease-duration=4", "--renew-deadline=3", "--retry-period=1"]);
        command.args(["--event-delay=2", "--silent-after=4"]);
        command.args(["--health-address=off", "--metrics-address=off"]);
        command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null());
        Ok(Self(command.spawn().context("failed to start a controller")?))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server() -> Result<ApiServer> {
    let server = ApiServer::start(Options::default())?;
    server.install_crds()?;
    server.kubectl(&["apply", "-f", "-"], Some(ACCOUNT))?;
    Ok(server)
}

/// Asks until the answer to a GET of `path` is as wanted.
fn until(server: &ApiServer, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Duration> {
    let started = Instant::now();
    loop {
        let answer = server.get(path);
        if wanted(answer.as_ref().unwrap_or(&Value::Null)) {
            return Ok(started.elapsed());
        }
        ensure!(started.elapsed() < PATIENCE, "{path} stayed as it is: {answer:?}");
        std::thread::sleep(ASK_EVERY);
    }
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/portcullis-controller";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";
const EVENTS_ON_NODES: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const REPORT: &str = "/apis/portcullis.dev/v1alpha1/nodepolicyreports/n1";

fn led_by(server: &ApiServer, name: &str) -> Result<Duration> {
    until(server, LEASE, |lease| {
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
        holder.starts_with(&format!("{name}_"))
    })
}

fn told(events: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut told: Vec<_> = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| (text(&event["regarding"]["name"]), text(&event["reason"])))
        .collect();
    told.sort();
    told
}

fn expected(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = vec![
        ("peer", "PeerMatchesNothing"),
        ("port", "NamedPortUnresolved"),
        ("typo", "SelectsNothing"),
    ];
    all.extend(more);
    let mut all: Vec<_> = all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    all.sort();
    all
}

#[test]
fn whoever_leads_each_finding_is_told_once() -> Result<()> {
    let mut server = server()?;
    let a = Controller::start(&server, "a")?;
    led_by(&server, "a")?;
    let b = Controller::start(&server, "b")?;
    server.kubectl(&["apply", "-f", "-"], Some(SHOP))?;
    until(&server, EVENTS, |events| told(events) == expected(&[]))?;

    // Killed: the other one takes over within the lease and a try, and repeats nothing.
    drop(a);
    let killed = led_by(&server, "b")?;
    ensure!(killed < Duration::from_secs(8), "taken over after {killed:?}");
    let other = SHOP.rsplit("---").nth(1).context("it has documents")?;
    server.kubectl(&["apply", "-f", "-"], Some(&other.replace("typo", "late")))?;
    let late = expected(&[("late", "SelectsNothing")]);
    until(&server, EVENTS, |events| told(events) == late)?;

    // Asked to end: handed over at once.
    let c = Controller::start(&server, "c")?;
    b.signal(Signal::SIGTERM)?;
    let released = led_by(&server, "c")?;
    ensure!(released < Duration::from_secs(4), "handed over after {released:?}");

    // Stopped beyond its lease: it wakes up as a leader no more, and the API server may go away.
    let d = Controller::start(&server, "d")?;
    c.signal(Signal::SIGSTOP)?;
    led_by(&server, "d")?;
    c.signal(Signal::SIGCONT)?;
    server.kill();
    server.restart()?;
    server.kubectl(&["apply", "-f", "-"], Some(&other.replace("typo", "last")))?;
    let last = expected(&[("late", "SelectsNothing"), ("last", "SelectsNothing")]);
    until(&server, EVENTS, |events| told(events) == last)?;
    until(&server, EVENTS, |events| {
        let of_last = |event: &&Value| event["regarding"]["name"] == "last";
        let event = events["items"].as_array().into_iter().flatten().find(of_last);
        let writer = event.map_or(&Value::Null, |event| &event["reportingInstance"]);
        writer.as_str().is_some_and(|writer| writer.starts_with("d_"))
    })?;
    drop((c, d));
    Ok(())
}

#[test]
fn a_silent_agent_is_told_and_a_report_goes_with_its_node() -> Result<()> {
    let server = server()?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    server.kubectl(&["apply", "-f", "-"], Some(&node.to_string()))?;
    let uid = server.kubectl(&["get", "node", "n1", "-ojsonpath={.metadata.uid}"], None)?;
    let report = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": "n1", "ownerReferences":
            [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid.trim()}]},
        "spec": {"nodeName": "n1"},
    });
    server.kubectl(&["create", "-f", "-"], Some(&report.to_string()))?;
    let _controller = Controller::start(&server, "a")?;
    let is = |status: &'static str, reason: &'static str| {
        move |report: &Value| {
            let conditions = report["status"]["conditions"].as_array();
            let current = conditions.into_iter().flatten().find(|c| c["type"] == "Current");
            current.is_some_and(|c| c["status"] == status && c["reason"] == reason)
        }
    };
    until(&server, REPORT, is("False", "AgentSilent"))?;
    let event_says = |beginning: &'static str| {
        move |events: &Value| {
            let mut of_node = events["items"].as_array().into_iter().flatten().filter(|event| {
                event["regarding"]["uid"] == uid.trim() && event["reason"] == "NotEnforcing"
            });
            of_node.any(|event| event["note"].as_str().is_some_and(|it| it.starts_with(beginning)))
        }
    };
    until(&server, EVENTS_ON_NODES, event_says.clone()("AgentSilent: "))?;
    let written = r#"{"status":{"observedAt":"2020-01-01T00:00:00Z","state":"Degraded","conditions":[
        {"type":"Enforcing","status":"False","reason":"NodeUnknown","message":"",
         "lastTransitionTime":"2020-01-01T00:00:00Z"}]}}"#;
    let patch = ["patch", "npr", "n1", "--subresource=status", "--type=merge", "-p", written];
    server.kubectl(&patch, None)?;
    until(&server, REPORT, is("True", "Reporting"))?;
    until(&server, EVENTS_ON_NODES, event_says("Degraded (NodeUnknown): "))?;
    server.kubectl(&["delete", "node", "n1"], None)?;
    until(&server, REPORT, Value::is_null)?;
    Ok(())
}
