//! `NodePolicyReport`: the API server takes what agents write and refuses what no agent writes;
//! real agents report what they enforce.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_controller::node::report::pace::WRITE_PERIOD_MIN;
use portcullis_lab::{Lab, PodSpec};
use portcullis_tests::cluster::{Agent, AgentSetup, Cluster};
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(1);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What an agent needs: no more, and with the last rule left out, no report.
const READING: &str = r#"
{apiVersion: v1, kind: ServiceAccount, metadata: {name: agent, namespace: default}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent}
subjects: [{kind: ServiceAccount, name: agent, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: agent}
rules:
- {apiGroups: [""], resources: [pods, namespaces, nodes], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
- {apiGroups: [policy.networking.k8s.io], resources: [clusternetworkpolicies], verbs: [list, watch]}
- {apiGroups: [portcullis.dev], resources: [clusterdefaultnetworkpolicies], verbs: [list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get]}
"#;
const REPORTING: &str = r"
- {apiGroups: [portcullis.dev], resources: [nodepolicyreports], verbs: [create, patch]}
- {apiGroups: [portcullis.dev], resources: [nodepolicyreports/status], verbs: [patch]}
";

/// A namespace whose pod may be reached by none.
const SHOP: &str = r"
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop}
spec: {nodeName: n1, containers: [{name: db, image: db}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

/// Asks until `wanted` accepts the report of node n1.
pub(crate) fn report(server: &ApiServer, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let raw = "/apis/portcullis.dev/v1alpha1/nodepolicyreports/n1";
        let last = server.get(raw)?;
        if wanted(&last) {
            return Ok(last);
        }
        ensure!(Instant::now() < deadline, "the report stays so: {last:#}");
        std::thread::sleep(ASK_EVERY);
    }
}

/// A condition of a report, or nothing.
fn condition<'a>(report: &'a Value, kind: &str) -> &'a Value {
    let conditions = report["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.unwrap_or(&Value::Null)
}

fn cluster() -> Result<(Cluster, ApiServer)> {
    let lab = Lab::builder().nodes(1).pods([PodSpec::new("shop", "db", "n1")]).build()?;
    let server = ApiServer::start(Options::beside(&lab)?.audit())?;
    Ok((Cluster::new(lab, &[])?, server))
}

/// How many times the agent wrote the status of its report.
fn writes(server: &ApiServer) -> Result<usize> {
    let audit = fs::read_to_string(server.audit_log())?;
    let of_agent = audit.lines().filter(|line| {
        ["nodepolicyreports/n1/status", "default:agent", "ResponseComplete"]
            .iter()
            .all(|word| line.contains(word))
    });
    Ok(of_agent.count())
}

pub(crate) fn agent(cluster: &Cluster, kubeconfig: &Path) -> Result<Agent> {
    let flags = ["--pod-name=portcullis-abcde", "--conflict-period=1"].map(str::to_owned).into();
    let kubeconfig = Some(kubeconfig.to_owned());
    cluster.spawn_agent_as("n1", &AgentSetup { kubeconfig, flags, ..AgentSetup::default() })
}

#[test]
fn a_report_that_cannot_be_true_is_refused() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    server.install_crds()?;
    let object = |name: &str, node: &str| {
        json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
            "metadata": {"name": name}, "spec": {"nodeName": node},
        })
        .to_string()
    };
    let apply = |text: &str| server.kubectl(&["apply", "-f", "-"], Some(text));
    apply(&object("n1", "n1"))?;
    let status = |status: &Value| {
        let patch = json!({ "status": status }).to_string();
        let words = ["patch", "npr", "n1", "--subresource=status", "--type=merge", "-p", &patch];
        server.kubectl(&words, None)
    };
    status(&json!({"policies": [{"namespace": "a", "name": "b"}], "policiesEnforced": 1}))?;
    let diagnostic =
        |message: &str| json!({"severity": "Error", "object": "", "field": "", "message": message});
    for (refused, why) in [
        (apply(&object("n2", "n1")), "the report of a node has the name of the node"),
        (apply(&object("n1", "n2")), "a report stays with its node"),
        (status(&json!({"policiesEnforced": 2})), "policiesEnforced counts the policies"),
        (status(&json!({"policiesEnforced": -1})), "greater than or equal to 0"),
        (status(&json!({"diagnosticsFound": 1})), "diagnosticsFound counts the diagnostics"),
        (status(&json!({"backend": {"name": "ebtables", "families": []}})), "Unsupported"),
        (
            status(&json!({"diagnosticsFound": 1, "diagnostics": [diagnostic(&"x".repeat(1001))]})),
            "may not be more than 1000",
        ),
        (
            status(&json!({"diagnosticsFound": 51, "diagnostics": vec![diagnostic(""); 51]})),
            "must have at most 50 items",
        ),
    ] {
        let error = refused.err().with_context(|| format!("accepted, in spite of: {why}"))?;
        ensure!(format!("{error:#}").contains(why), "{why}: {error:#}");
    }
    let said = server.kubectl(&["explain", "npr.status.driftRepairs"], None)?;
    ensure!(said.contains("repaired, since the agent started"), "{said}");
    Ok(())
}

/// A cluster whose agents can report, with the pod and the policy of [`SHOP`]; and their kubeconfig.
pub(crate) fn shop() -> Result<(Cluster, ApiServer, PathBuf)> {
    let (cluster, server) = cluster()?;
    server.install_crds()?;
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}}";
    server.kubectl(&["apply", "-f", "-"], Some(&format!("{node}\n---{SHOP}")))?;
    let address = cluster.lab.pod("shop/db")?.addresses().first().context("no address")?;
    let patch = json!({"status": {"phase": "Running", "podIPs": [{"ip": address.to_string()}]}});
    let patch = patch.to_string();
    let words = ["patch", "pod", "db", "-nshop", "--subresource=status", "-p", &patch];
    server.kubectl(&words, None)?;
    server.kubectl(&["apply", "-f", "-"], Some(&format!("{}{REPORTING}", READING.trim_end())))?;
    let kubeconfig = server.kubeconfig_for_service_account("default", "agent")?;
    Ok((cluster, server, kubeconfig))
}

#[test]
fn an_agent_reports_what_it_enforces() -> Result<()> {
    let (cluster, server, kubeconfig) = shop()?;
    let running = agent(&cluster, &kubeconfig)?;
    let first = report(&server, |report| condition(report, "Enforcing")["status"] == "True")?;
    let status = &first["status"];
    let uid = server.kubectl(&["get", "node", "n1", "-o", "jsonpath={.metadata.uid}"], None)?;
    let owner = &first["metadata"]["ownerReferences"][0];
    assert_eq!((owner["kind"].as_str(), owner["uid"].as_str()), (Some("Node"), Some(uid.as_str())));
    assert_eq!(status["agent"]["podName"], "portcullis-abcde");
    assert_eq!(status["backend"]["name"], "iptables-nft");
    let pods = json!({"local": 1, "isolated": 1, "isolatedIngress": 1, "isolatedEgress": 0});
    assert_eq!(status["pods"], pods);
    let jsonpath = "jsonpath={.metadata.uid}";
    let policy = server.kubectl(&["get", "netpol", "deny", "-n", "shop", "-o", jsonpath], None)?;
    let deny = |generation| {
        json!([{"kind": "NetworkPolicy", "namespace": "shop", "name": "deny", "uid": policy,
                "observedGeneration": generation, "pods": 1}])
    };
    assert_eq!(status["policies"], deny(1));
    ensure!(status["syncLatencyMicroseconds"]["last"].as_i64() > Some(0), "{status:#}");

    // What others own of it stays, whoever writes after whom.
    let current = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
        "metadata": {"name": "n1"},
        "status": {"conditions": [{
            "type": "Current", "status": "True", "reason": "Fresh", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    let words =
        ["apply", "--server-side", "--field-manager=other", "--subresource=status", "-f", "-"];
    server.kubectl(&words, Some(&current.to_string()))?;
    let shown = server.kubectl(&["get", "npr"], None)?;
    let rows: Vec<Vec<&str>> = shown.lines().map(|row| row.split_whitespace().collect()).collect();
    let head = "NAME STATE REASON REPORTING POLICIES ISOLATED PODS DIAGNOSTICS LAST SYNC AGE";
    assert_eq!(rows.first().map(|row| row.join(" ")).as_deref(), Some(head));
    let row = rows.get(1).context("no row")?;
    let known = ["n1", "Enforcing", "PoliciesEnforced", "True", "1", "1", "0"];
    assert_eq!(row.get(..7), Some(&known[..]), "{shown}");
    // Times and latencies have units.
    let has_unit = |cell: &str| cell.ends_with('s') || cell.ends_with('m');
    ensure!(row.len() == 9 && row[7..].iter().all(|cell| has_unit(cell)), "{shown}");
    let wide = server.kubectl(&["get", "npr", "-o", "wide"], None)?;
    let wide: Vec<Vec<&str>> = wide.lines().map(|row| row.split_whitespace().collect()).collect();
    let more = "LATENCY P50 REPAIRS BACKEND VERSION BACKEND REASON";
    assert_eq!(wide.first().map(|row| row.join(" ")), Some(format!("{head} {more}")));
    let row = wide.get(1).and_then(|row| row.get(9..)).context("no wide row")?;
    let (latency, rest) = row.split_first().context("no latency")?;
    ensure!(latency.ends_with("ms") || latency.ends_with('s'), "{wide:?}");
    let reason = "iptables and ipset work".split(' ');
    let known = ["0", "iptables-nft", env!("CARGO_PKG_VERSION")].into_iter().chain(reason);
    assert_eq!(rest, known.collect::<Vec<_>>());

    // Another generation that means the same for the kernel is news all the same.
    let generations = 12;
    let changing = Instant::now();
    for generation in 2..=generations {
        let labels = json!([{"key": format!("none-{generation}"), "operator": "DoesNotExist"}]);
        let patch = json!({"spec": {"podSelector": {"matchExpressions": labels}}}).to_string();
        server.kubectl(&["patch", "netpol", "deny", "-nshop", "-p", &patch], None)?;
    }
    let second = report(&server, |report| report["status"]["policies"] == deny(generations))?;
    // One at the start, and one more than there are whole periods.
    let writes = writes(&server)?;
    let periods = usize::try_from(changing.elapsed().as_secs() / WRITE_PERIOD_MIN.as_secs())?;
    ensure!(writes <= 2 + periods, "{writes} writes in {:?}", changing.elapsed());
    assert_eq!(condition(&second, "Current")["reason"], "Fresh", "{second:#}");
    let since = |report: &Value| condition(report, "Enforcing")["lastTransitionTime"].clone();
    assert_eq!(since(&first), since(&second), "it was enforced all the time");

    // It comes back when it is deleted, and a new agent goes on with it.
    server.kubectl(&["delete", "npr", "n1"], None)?;
    running.terminate()?;
    let _next = agent(&cluster, &kubeconfig)?;
    report(&server, |report| report["status"]["policies"] == deny(generations))?;
    server.kubectl(&["delete", "npr", "n1"], None)?;
    server.kubectl(&["delete", "netpol", "deny", "-nshop"], None)?;
    report(&server, |report| report["status"]["policiesEnforced"] == 0)?;
    Ok(())
}

#[test]
fn a_node_with_a_second_enforcer_is_reported_as_not_enforcing() -> Result<()> {
    let (cluster, server, kubeconfig) = shop()?;
    let node = cluster.lab.node("n1")?;
    node.shell("iptables-nft -N cali-FORWARD; iptables-nft -A FORWARD -j cali-FORWARD")?;
    let _agent = agent(&cluster, &kubeconfig)?;
    let first = report(&server, |report| condition(report, "Enforcing")["status"] == "False")?;
    let enforcing = condition(&first, "Enforcing");
    assert_eq!(enforcing["reason"], "SecondEnforcer");
    let message = enforcing["message"].as_str().unwrap_or_default();
    ensure!(message.contains("Calico") && message.contains("remove it"), "{message}");
    let shown = server.kubectl(&["get", "npr", "-o", "wide"], None)?;
    ensure!(shown.contains("Bypassed") && shown.contains("SecondEnforcer"), "{shown}");
    // Its policies are in the kernel all the same.
    assert_eq!(first["status"]["policiesEnforced"], 1);
    node.shell("iptables-nft -D FORWARD -j cali-FORWARD")?;
    report(&server, |report| condition(report, "Enforcing")["reason"] == "PoliciesEnforced")?;
    Ok(())
}

#[test]
fn a_kind_that_is_forbidden_keeps_no_other_from_being_enforced() -> Result<()> {
    let (cluster, server, kubeconfig) = shop()?;
    let of_kind = ["policy.networking.k8s.io", "clusterdefaultnetworkpolicies"];
    let role = |kinds: &[&str]| -> Result<()> {
        let rules = READING.lines().filter(|line| {
            !of_kind.iter().any(|kind| line.contains(kind) && !kinds.contains(kind))
        });
        let role = rules.collect::<Vec<_>>().join("\n") + REPORTING;
        server.kubectl(&["apply", "-f", "-"], Some(&role)).map(drop)
    };
    let is = |state: &'static str, policies: i64| {
        move |report: &Value| {
            report["status"]["state"] == state && report["status"]["policiesEnforced"] == policies
        }
    };
    role(&["policy.networking.k8s.io"])?;
    let first = agent(&cluster, &kubeconfig)?;
    let found = report(&server, is("Degraded", 1))?;
    let enforcing = condition(&found, "Enforcing");
    assert_eq!(enforcing["reason"], "ObjectsUnread");
    let message = enforcing["message"].as_str().unwrap_or_default();
    ensure!(message.contains("ClusterDefaultNetworkPolicy: 403"), "{message}");
    ensure!(message.contains("is forbidden: User"), "{message}");
    role(&of_kind)?;
    report(&server, is("Enforcing", 1))?;

    // Rules of an earlier run may hold policies of the kind: nothing is taken away from them.
    first.terminate()?;
    role(&["policy.networking.k8s.io"])?;
    let rules =
        || cluster.lab.node("n1")?.shell("iptables-nft-save -t mangle | grep -c PORTCULLIS-R");
    let before = rules()?;
    server.kubectl(&["delete", "netpol", "deny", "-nshop"], None)?;
    let second = agent(&cluster, &kubeconfig)?;
    let failing = |report: &Value| report["status"]["state"] == "Failing";
    let found = report(&server, failing)?;
    assert_eq!(condition(&found, "Enforcing")["reason"], "ObjectsUnread");
    assert_eq!(rules()?, before);
    role(&of_kind)?;
    report(&server, is("Enforcing", 0))?;
    second.terminate()
}

#[test]
fn without_the_kind_or_the_right_to_write_it_policies_are_enforced_all_the_same() -> Result<()> {
    let (cluster, server) = cluster()?;
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}}";
    server.kubectl(&["apply", "-f", "-"], Some(&format!("{node}\n---{SHOP}")))?;
    for (rules, advice) in
        [(REPORTING, "install the CRDs of deploy/crds"), ("", "grant what deploy/ grants")]
    {
        let role = format!("{}{rules}", READING.trim_end());
        server.kubectl(&["apply", "-f", "-"], Some(&role))?;
        let kubeconfig = server.kubeconfig_for_service_account("default", "agent")?;
        let agent = agent(&cluster, &kubeconfig)?;
        agent.wait_for("policies are enforced", PATIENCE)?;
        let told = agent.find_after(0, PATIENCE, |line| line.contains(advice))?;
        // It goes on with its work and says no more of it.
        let beat = agent.logged();
        server.kubectl(&["label", "ns", "shop", &format!("round={beat}"), "--overwrite"], None)?;
        agent.wait_for_after(beat, "all that the source said so far is enforced", PATIENCE)?;
        let again = agent.said_after(told, "failed to write the NodePolicyReport");
        ensure!(again.is_none(), "{again:?}");
        agent.terminate()?;
    }
    Ok(())
}
