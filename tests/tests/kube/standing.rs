//! What the status of a ClusterDefaultNetworkPolicy says, with the real controller and real agents:
//! whether it is accepted, on how many nodes it is enforced, and for how many pods it decides.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_lab::Lab;
use portcullis_tests::cluster::{Agent, AgentSetup, Cluster, portcullis};
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The least time between two writes of one status: `PERIOD_MIN` of the controller.
const WRITE_PERIOD_MIN: Duration = Duration::from_secs(5);
const POLICIES: &str = "/apis/portcullis.dev/v1alpha1/clusterdefaultnetworkpolicies";

const WORLD: &str = r"
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
";

struct Scene {
    cluster: Cluster,
    server: ApiServer,
}

/// A controller process, killed when dropped.
struct Controller(Child, tempfile::NamedTempFile);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Scene {
    fn new() -> Result<Self> {
        let lab = Lab::builder().nodes(2).build()?;
        let server = ApiServer::start(Options::beside(&lab)?.audit())?;
        let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
        server.kubectl(&["apply", "-k", deploy], None)?;
        let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
        server.kubectl(&established, None)?;
        // These pods are objects without interfaces: to an agent they look as if they bypassed it.
        let cluster = Cluster::new(lab, &["--ignore-conflicts=PodsBypassNode"])?;
        let scene = Self { cluster, server };
        scene.apply(WORLD)?;
        Ok(scene)
    }

    fn apply(&self, objects: &str) -> Result<String> {
        self.server.kubectl(&["apply", "-f", "-"], Some(objects))
    }

    /// Makes the pod of a node, as it is when it runs.
    fn run_pod(&self, namespace: &str, name: &str, node: &str, address: &str) -> Result<()> {
        let metadata = json!({"name": name, "namespace": namespace, "labels": {"app": name}});
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "c"}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        self.apply(&pod.to_string())?;
        let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": address}]}});
        let patch = ["patch", "pod", name, "-n", namespace, "--subresource=status", "-p"];
        let status = status.to_string();
        self.server.kubectl(&[&patch[..], &[&status]].concat(), None).map(drop)
    }

    fn agent(&self, node: &str) -> Result<Agent> {
        let kubeconfig = Some(self.server.kubeconfig_for_agent(node)?);
        self.cluster.spawn_agent_as(node, &AgentSetup { kubeconfig, ..AgentSetup::default() })
    }

    fn controller(&self, name: &str, silent_after: &str) -> Result<Controller> {
        let account = self
            .server
            .kubeconfig_for_service_account("portcullis-system", "portcullis-controller");
        let log = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(portcullis()?);
        command.args(["controller", "--lease-namespace=portcullis-system", "--identity", name]);
        command.args(["--lease-duration=4", "--renew-deadline=3", "--retry-period=1"]);
        command.args(["--event-delay=1", "--missing-kind-period=1"]);
        command.args(["--silent-after", silent_after]);
        command.args(["--health-address=off", "--metrics-address=off"]);
        command.env("KUBECONFIG", account?).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log.reopen()?);
        let node = self.cluster.lab.nodes().next().context("the lab has nodes")?;
        Ok(Controller(node.netns().spawn(&mut command)?, log))
    }

    fn patch(&self, name: &str, spec: &Value) -> Result<String> {
        let spec = json!({ "spec": spec }).to_string();
        self.server.kubectl(&["patch", "cdnp", name, "--type=merge", "-p", &spec], None)
    }

    /// Asks until the status of `name` is `expected`; each is `Accepted`, `Enforced` (both with the
    /// generation), and counts.
    fn until(&self, name: &str, expected: &[&str]) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.server.get(&format!("{POLICIES}/{name}"))?;
            let lines = lines(&found["status"]);
            if expected.iter().all(|line| lines.iter().any(|found| found.starts_with(line))) {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "wanted {expected:#?}, found {lines:#?}");
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// How often a status was written.
    fn writes(&self, name: &str) -> Result<usize> {
        let log = fs::read_to_string(self.server.audit_log())?;
        let path = format!("{name}/status");
        let writes = log.lines().filter(|line| {
            [&*path, "\"verb\":\"patch\"", "portcullis-controller"].iter().all(|w| line.contains(w))
        });
        Ok(writes.count())
    }
}

fn lines(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut lines: Vec<String> = conditions
        .map(|condition| {
            let [kind, status, reason, message] =
                ["type", "status", "reason", "message"].map(|field| text(&condition[field]));
            let generation = &condition["observedGeneration"];
            format!("{kind}@{generation} {status} {reason}: {message}")
        })
        .collect();
    let nodes = &status["nodes"];
    lines.push(format!("namespaces {}, pods {}", status["namespaces"], status["pods"]));
    lines.push(format!("nodes {} of {}", nodes["realised"], nodes["concerned"]));
    lines
}

fn default(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, \
         metadata: {{name: {name}}}, spec: {spec}}}"
    )
}

#[test]
fn a_default_says_where_it_is_enforced_and_for_how_many_pods() -> Result<()> {
    let scene = Scene::new()?;
    scene.run_pod("shop", "a", "n1", "10.0.0.1")?;
    scene.run_pod("shop", "b", "n2", "10.0.0.2")?;
    let (n1, n2) = (scene.agent("n1")?, scene.agent("n2")?);
    let controller = scene.controller("first", "750")?;
    let started = Instant::now();
    scene.apply(&default("deny", "{policyTypes: [Ingress]}"))?;
    let accepted = "Accepted@1 True Understood";
    let enforced = "Enforced@1 True Applied: 2 of 2 nodes";
    // `default` and `shop`; those of the system are left out.
    scene.until("deny", &[accepted, enforced, "namespaces 2, pods 2", "nodes 2 of 2"])?;

    // A new namespace is covered from its first pod on; a NetworkPolicy decides before defaults.
    scene.apply("{apiVersion: v1, kind: Namespace, metadata: {name: new}}")?;
    scene.until("deny", &["namespaces 3, pods 2"])?;
    scene.run_pod("new", "c", "n1", "10.0.0.3")?;
    scene.until("deny", &[enforced, "namespaces 3, pods 3"])?;
    scene.apply(
        "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, \
         namespace: shop}, spec: {podSelector: {matchLabels: {app: a}}}}",
    )?;
    scene.until("deny", &[enforced, "namespaces 3, pods 2", "nodes 2 of 2"])?;
    // An Event says the same of the NetworkPolicy. Its only pod is on one node.
    let said = "generation 1 is applied on the node with pods that it selects";
    let deadline = Instant::now() + PATIENCE;
    let events = || scene.server.kubectl(&["events", "-n", "shop", "--for", "netpol/a"], None);
    while !events()?.lines().any(|line| line.contains("Normal") && line.contains(said)) {
        ensure!(Instant::now() < deadline, "{}", events()?);
        std::thread::sleep(ASK_EVERY);
    }

    // Another generation, which one node does not hear of until its agent is back.
    n2.terminate()?;
    scene.patch("deny", &json!({"allowDNS": true, "policyTypes": ["Ingress", "Egress"]}))?;
    let waiting = "Enforced@2 False Waiting: 1 of 2 nodes; waiting for n2";
    scene.until("deny", &["Accepted@2 True", waiting, "nodes 1 of 2", "namespaces 3, pods 3"])?;
    let n2 = scene.agent("n2")?;
    let last = scene.until("deny", &["Enforced@2 True Applied: 2 of 2 nodes", "nodes 2 of 2"])?;
    assert_eq!(last["metadata"]["generation"], 2);

    scene.patch("deny", &json!({"mode": "Audit"}))?;
    let audit = "Enforced@3 False Audit: Audit: nothing is dropped; what it would deny is reported \
                 by 2 of 2 nodes";
    scene.until("deny", &[audit, "namespaces 3, pods 3"])?;

    // What operators look at.
    let shown = scene.server.kubectl(&["get", "cdnp"], None)?;
    let rows: Vec<Vec<&str>> = shown.lines().map(|row| row.split_whitespace().collect()).collect();
    let head = rows.first().context("no head")?;
    assert_eq!(head.join(" "), "NAME MODE TYPES ACCEPTED ENFORCED PODS AGE");
    let row = rows.get(1).context("no row")?;
    let known = ["deny", "Audit", r#"["Ingress","Egress"]"#, "True", "False", "3"];
    assert_eq!(row.get(..6), Some(&known[..]), "{shown}");
    let wide = scene.server.kubectl(&["get", "cdnp", "-o", "wide"], None)?;
    let head: Vec<&str> = wide.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head.join(" "), "NAME MODE TYPES ACCEPTED ENFORCED PODS AGE REASON MESSAGE");
    ensure!(wide.contains("Understood") && wide.contains("reported by 2 of 2 nodes"), "{wide}");

    // Written seldom, and not at all without news; said once when enforced everywhere.
    let periods = started.elapsed().as_secs() / WRITE_PERIOD_MIN.as_secs();
    let writes = scene.writes("deny")?;
    ensure!(writes <= 1 + usize::try_from(periods)?, "{writes} writes in {periods} periods");
    let mut log = String::new();
    controller.1.reopen()?.read_to_string(&mut log)?;
    for generation in ["generation=1", "generation=2", "generation=3"] {
        let said = log.lines().filter(|line| {
            ["applied on all nodes", "ClusterDefaultNetworkPolicy/deny", generation]
                .iter()
                .all(|word| line.contains(word))
        });
        ensure!(said.count() >= 1, "{generation}:\n{log}");
    }

    // Another one of that name is not enforced where the one before it still is.
    n2.terminate()?;
    scene.server.kubectl(&["delete", "cdnp", "deny"], None)?;
    scene.apply(&default("deny", "{policyTypes: [Ingress]}"))?;
    scene.until("deny", &["Enforced@1 False Waiting: 1 of 2 nodes; waiting for n2"])?;
    drop(n1);
    Ok(())
}

#[test]
fn a_default_whose_kind_comes_and_goes_under_the_controller_has_a_status() -> Result<()> {
    let scene = Scene::new()?;
    scene.run_pod("shop", "a", "n1", "10.0.0.1")?;
    let crd = "clusterdefaultnetworkpolicies.portcullis.dev";
    let remove = || scene.server.kubectl(&["delete", "crd", crd], None);
    remove()?;
    let controller = scene.controller("first", "750")?;
    let deadline = Instant::now() + PATIENCE;
    let absent = ["the cluster lacks this kind", "ClusterDefaultNetworkPolicy"];
    let said = |log: &str| log.lines().any(|line| absent.iter().all(|word| line.contains(word)));
    while !said(&fs::read_to_string(controller.1.path())?) {
        ensure!(Instant::now() < deadline, "{}", fs::read_to_string(controller.1.path())?);
        std::thread::sleep(ASK_EVERY);
    }
    // Nobody runs agents here.
    let nowhere = "Enforced@1 False Waiting: 0 of 1 nodes; no report of n1";
    scene.server.install_crds()?;
    scene.apply(&default("deny", "{policyTypes: [Ingress]}"))?;
    scene.until("deny", &["Accepted@1 True", nowhere, "namespaces 2, pods 1", "nodes 0 of 1"])?;
    remove()?;
    scene.server.install_crds()?;
    scene.apply(&default("deny", "{policyTypes: [Ingress], mode: Audit}"))?;
    scene.until("deny", &["Accepted@1 True", "Enforced@1 False Audit", "nodes 0 of 1"])?;
    Ok(())
}

#[test]
fn a_default_that_is_broken_or_selects_nothing_says_so() -> Result<()> {
    let scene = Scene::new()?;
    scene.run_pod("shop", "a", "n1", "10.0.0.1")?;
    let _agent = scene.agent("n1")?;
    let _controller = scene.controller("first", "750")?;
    // What the API server's own rules let pass, as it lets an object that is older than they are.
    let long = "a".repeat(254);
    let broken =
        format!("{{policyTypes: [Ingress], podSelector: {{matchLabels: {{{long}/b: x}}}}}}");
    scene.apply(&default("broken", &broken))?;
    let refused = "Accepted@1 False FailedClosed: spec.podSelector";
    // It is enforced, as the most closed thing that it can mean.
    scene.until("broken", &[refused, "Enforced@1 True", "namespaces 2, pods 1"])?;
    scene.patch("broken", &json!({"podSelector": null}))?;
    scene.until("broken", &["Accepted@2 True", "Enforced@2 True Applied: 1 of 1 nodes"])?;

    let nobody = "{policyTypes: [Ingress], podSelector: {matchLabels: {app: nobody}}}";
    scene.apply(&default("nobody", nobody))?;
    let nothing = "Enforced@1 True NothingSelected";
    scene.until("nobody", &["Accepted@1 True", nothing, "namespaces 2, pods 0", "nodes 0 of 0"])?;
    let deadline = Instant::now() + PATIENCE;
    let mut expected = vec![("broken", "FailedClosed"), ("nobody", "SelectsNothing")];
    while !expected.is_empty() {
        let events = scene.server.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        expected.retain(|(name, reason)| {
            !events.iter().any(|event| {
                event["regarding"]["kind"] == "ClusterDefaultNetworkPolicy"
                    && event["regarding"]["name"] == *name
                    && event["reason"] == *reason
            })
        });
        ensure!(Instant::now() < deadline, "{expected:?} are not told: {events:#?}");
        std::thread::sleep(ASK_EVERY);
    }
    Ok(())
}

#[test]
fn of_a_node_whose_agent_is_silent_nothing_is_claimed_whoever_leads() -> Result<()> {
    let scene = Scene::new()?;
    scene.run_pod("shop", "a", "n1", "10.0.0.1")?;
    scene.apply(&default("deny", "{policyTypes: [Ingress]}"))?;
    let agent = scene.agent("n1")?;
    let controller = scene.controller("first", "15")?;
    scene.until("deny", &["Enforced@1 True Applied: 1 of 1 nodes"])?;
    agent.kill()?;
    let silent = "Enforced@1 Unknown AgentSilent: 0 of 1 nodes; no word from n1, see its \
                  agent";
    let stopped = Instant::now();
    let told = scene.until("deny", &[silent, "nodes 0 of 1", "Accepted@1 True"])?;
    // --silent-after, a look every half second, and the pace of writes.
    let limit = Duration::from_secs(15) + 2 * WRITE_PERIOD_MIN;
    ensure!(stopped.elapsed() < limit, "told after {:?}", stopped.elapsed());

    // Another one leads, knows no better, and says so.
    drop(controller);
    let _next = scene.controller("second", "15")?;
    scene.apply("{apiVersion: v1, kind: Namespace, metadata: {name: new}}")?;
    let known = scene.until("deny", &["namespaces 3, pods 1"])?;
    let since = |policy: &Value| {
        let conditions = policy["status"]["conditions"].as_array();
        let enforced = conditions.into_iter().flatten().find(|c| c["type"] == "Enforced");
        enforced.map(|found| found["lastTransitionTime"].clone())
    };
    assert_eq!(lines(&known["status"]).iter().filter(|line| line.starts_with(silent)).count(), 1);
    assert_eq!(since(&told), since(&known), "it was unknown all the time");
    let _agent = scene.agent("n1")?;
    scene.until("deny", &["Enforced@1 True Applied: 1 of 1 nodes"])?;
    Ok(())
}
