//! `kubectl whatif verify` for users who may not run programs in the pods of agents: it compares the
//! hashes that real agents report.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use portcullis_tests::kube::ApiServer;
use serde_json::{Value, json};

use super::{Asked, ask};
use crate::report::{agent, report, shop};

/// The pod of the agent, as the API server has it, and a user who may read everything else.
const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: portcullis-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: default}}
---
apiVersion: v1
kind: Pod
metadata:
  name: portcullis-abcde
  namespace: portcullis-system
  labels: {app.kubernetes.io/name: portcullis, app.kubernetes.io/component: node}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: node, image: portcullis}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [''], resources: [pods, namespaces, nodes, services, replicationcontrollers], verbs: [get, list]}
- {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets, replicasets], verbs: [get, list]}
- {apiGroups: [batch], resources: [jobs, cronjobs], verbs: [get, list]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies, ingresses], verbs: [get, list]}
- {apiGroups: [portcullis.dev], resources: ['*'], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
";

/// A pod of another node.
const PEER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: peer, namespace: shop, labels: {app: peer}}
spec: {nodeName: n2, containers: [{name: a, image: a}]}
";

/// The hashes in the report of n1 once it has this generation of the policy.
fn reported(server: &ApiServer, generation: u64) -> Result<Value> {
    let status = report(server, |report| {
        report["status"]["policies"][0]["observedGeneration"] == generation
    })?;
    let state = status["status"]["compiledState"].clone();
    ensure!(state["rules"].is_string() && state["members"].is_string(), "{status:#}");
    Ok(state)
}

#[test]
fn verify_compares_the_hashes_of_a_report_where_exec_is_forbidden() -> Result<()> {
    let (cluster, server, kubeconfig) = shop()?;
    server.kubectl(&["apply", "-f", "-"], Some(OBJECTS))?;
    let status = json!({"status": {"phase": "Running"}}).to_string();
    let patch = ["patch", "pod", "portcullis-abcde", "-nportcullis-system"];
    server.kubectl(&[&patch[..], &["--subresource=status", "-p", &status]].concat(), None)?;
    let admin = server.admin_kubeconfig();
    let verify = |code: i32, words: &[&str]| -> Result<Asked> {
        let asked = ask(&admin, "verify --as system:serviceaccount:default:reader")?;
        let all = format!("{}{}", asked.out, asked.said);
        ensure!(asked.code == Some(code), "{:?}\n{all}", asked.code);
        for word in words {
            ensure!(all.contains(word), "no {word:?} in\n{all}");
        }
        Ok(asked)
    };
    let patch = |spec: &Value| {
        let spec = json!({ "spec": spec }).to_string();
        server.kubectl(&["patch", "netpol", "deny", "-nshop", "--type=merge", "-p", &spec], None)
    };
    verify(3, &["Unknown", "pods/exec are forbidden; the node has no report"])?;

    let running = agent(&cluster, &kubeconfig)?;
    let first = reported(&server, 1)?;
    let hash = |state: &Value| {
        let part = |name: &str| state[name].as_str().map(str::to_owned).context("no hash");
        anyhow::Ok(format!("{}-{}", part("rules")?, part("members")?))
    };
    verify(
        3,
        &["Agrees", &hash(&first)?, "report compared, kernel not compared", "are forbidden"],
    )?;
    // `portcullis verify` has it from the agent.
    let asked = cluster.ask("n1", &["verify", "-o", "json"])?;
    let answer: Value = serde_json::from_str(&asked.out).context(asked.said)?;
    assert_eq!(answer["node"]["compiledState"], first);

    let from_peers = json!([{"from": [{"podSelector": {"matchLabels": {"app": "peer"}}}]}]);
    patch(&json!({ "ingress": from_peers }))?;
    let second = reported(&server, 2)?;
    ensure!(second["rules"] != first["rules"], "other rules have the same hash: {second}");
    verify(3, &["Agrees", &hash(&second)?])?;

    // A member of a set is no reason to write a report: the report is older than the pod.
    server.kubectl(&["apply", "-f", "-"], Some(PEER))?;
    let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": "10.244.9.9"}]}});
    let status = status.to_string();
    let words = ["patch", "pod", "peer", "-nshop", "--subresource=status", "-p", &status];
    server.kubectl(&words, None)?;
    verify(3, &["Unknown", "its rules agree", "not the members of its sets"])?;
    assert_eq!(reported(&server, 2)?, second);

    // A node that does not follow.
    running.signal(Signal::SIGSTOP)?;
    patch(&json!({"policyTypes": ["Ingress", "Egress"]}))?;
    verify(1, &["DIFFERS", "the node enforces other rules than the API objects say"])?;
    running.signal(Signal::SIGCONT)?;
    reported(&server, 3)?;
    verify(3, &["Agrees"]).map(drop)
}
