//! Least privilege, from the manifests and the audit log alone: each right that deploy/ grants was
//! used by who has it, and nothing that was asked for was refused.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use portcullis_lab::{Lab, Node};
use portcullis_tests::cluster::portcullis;
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::Value;

use super::{ASK_EVERY, LIMIT, apply, arguments, containers, objects, root};

/// A right as granted; as used, it names no object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Right {
    pub(super) account: String,
    verb: String,
    group: String,
    /// With its subresource, if any.
    resource: String,
    /// None: in all of them.
    namespace: Option<String>,
    name: Option<String>,
}

/// What the accounts have to do: a policy that selects nothing, for an Event, a report to delete, and
/// a status to write.
const WORLD: &str = r"
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, labels: {app: a}},
 spec: {nodeName: n1, containers: [{name: a, image: a}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {matchLabels: {app: nobody}}}
---
apiVersion: portcullis.dev/v1alpha1
kind: ClusterDefaultNetworkPolicy
metadata: {name: deny}
spec: {policyTypes: [Ingress, Egress], allowAPIServer: true}
---
apiVersion: portcullis.dev/v1alpha1
kind: NodePolicyReport
metadata:
  name: gone
  ownerReferences: [{apiVersion: v1, kind: Node, name: gone, uid: 00000000-0000-0000-0000-000000000000}]
spec: {nodeName: gone}
";

#[test]
fn every_right_that_is_granted_is_used_and_none_is_missing() -> Result<()> {
    let lab = Lab::builder().nodes(2).build()?;
    let mut server = ApiServer::start(Options::beside(&lab)?.audit())?;
    let directory = root().join("deploy");
    apply(&server, &directory)?;
    server.kubectl(&["apply", "-f", "-"], Some(WORLD))?;
    let objects = objects(&server, &directory)?;
    let mut programs = Vec::new();
    // A node each, for all of them have the same ports.
    for (object, node) in objects.iter().filter(|o| super::template(o).is_some()).zip(lab.nodes()) {
        programs.push(Program::start(&server, object, node)?);
    }
    for program in &programs {
        program.wait_for_probes()?;
    }
    let accounts: BTreeSet<&str> = programs.iter().map(|program| &*program.account).collect();
    let mut unused: Vec<Right> = granted(&objects)?;
    unused.retain(|right| accounts.contains(&*right.account));
    ensure!(!unused.is_empty(), "nothing is granted");
    // One kind comes while they run: until now it was looked for.
    let foreign_crd = |right: &Right| {
        right.name.as_deref().is_some_and(|name| name.starts_with("clusternetworkpolicies."))
    };
    until_used(&server, &accounts, &(0..0), &mut unused, foreign_crd)?;
    server.install_cluster_network_policy()?;
    // After this, lists are asked for in pages: what old servers make a program do.
    let before = audit(&server)?.len();
    server.restart_with("--feature-gates=WatchList=false")?;
    // Until it is ready, it knows no RBAC and refuses everybody.
    let starting = before..audit(&server)?.len();
    let own_crd =
        |right: &Right| right.name.as_deref().is_some_and(|name| name.ends_with(".portcullis.dev"));
    until_used(&server, &accounts, &starting, &mut unused, |right| !own_crd(right))?;
    // Others go, and are looked for.
    for kind in ["clusterdefaultnetworkpolicies", "nodepolicyreports"] {
        server.kubectl(&["delete", "crd", &format!("{kind}.portcullis.dev")], None)?;
    }
    until_used(&server, &accounts, &starting, &mut unused, |_| true)
}

/// Waits until each of those rights that `wanted` names was used; takes all that were out of
/// `unused`.
pub(super) fn until_used(
    server: &ApiServer,
    accounts: &BTreeSet<&str>,
    starting: &Range<usize>,
    unused: &mut Vec<Right>,
    wanted: impl Fn(&Right) -> bool,
) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let used = used(server, accounts, starting)?;
        unused.retain(|right| !used.iter().any(|used| right.is(used)));
        if !unused.iter().any(&wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "granted and not used: {unused:#?}");
        std::thread::sleep(ASK_EVERY);
    }
}

impl Right {
    fn is(&self, used: &Self) -> bool {
        let within =
            |granted: &Option<String>, used: &Option<String>| granted.is_none() || granted == used;
        (&self.account, &self.verb, &self.group, &self.resource)
            == (&used.account, &used.verb, &used.group, &used.resource)
            && within(&self.namespace, &used.namespace)
            && within(&self.name, &used.name)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// All rights that the bindings give.
pub(super) fn granted(objects: &[Value]) -> Result<Vec<Right>> {
    let mut rights = Vec::new();
    for binding in objects.iter().filter(|object| !object["roleRef"].is_null()) {
        let role = &binding["roleRef"];
        let namespace = binding["metadata"]["namespace"].as_str();
        let is_meant = |object: &&Value| {
            object["kind"] == role["kind"] && object["metadata"]["name"] == role["name"]
        };
        let role = objects.iter().find(is_meant).context("a role that is bound is there")?;
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let account = account(&text(&subject["namespace"]), &text(&subject["name"]));
            for rule in role["rules"].as_array().into_iter().flatten() {
                rights.extend(rights_of(rule, &account, namespace));
            }
        }
    }
    let all =
        |right: &Right| [&right.verb, &right.group, &right.resource].contains(&&"*".to_owned());
    ensure!(!rights.iter().any(all), "a wildcard grants what nobody asked for: {rights:?}");
    Ok(rights)
}

fn rights_of(rule: &Value, account: &str, namespace: Option<&str>) -> Vec<Right> {
    let mut names: Vec<_> = texts(&rule["resourceNames"]).into_iter().map(Some).collect();
    if names.is_empty() {
        names.push(None);
    }
    let mut rights = Vec::new();
    for group in texts(&rule["apiGroups"]) {
        for resource in texts(&rule["resources"]) {
            for verb in texts(&rule["verbs"]) {
                rights.extend(names.iter().map(|name| Right {
                    account: account.to_owned(),
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.clone(),
                    namespace: namespace.map(str::to_owned),
                    name: name.clone(),
                }));
            }
        }
    }
    rights
}

pub(super) fn account(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The audit log. A last line that is half written is not in it yet.
fn audit(server: &ApiServer) -> Result<Vec<Value>> {
    let log = fs::read_to_string(server.audit_log())?;
    Ok(log.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
}

/// What the accounts did so far, by the audit log. None of it was refused.
fn used(
    server: &ApiServer,
    accounts: &BTreeSet<&str>,
    starting: &Range<usize>,
) -> Result<BTreeSet<Right>> {
    let mut used = BTreeSet::new();
    for (place, event) in audit(server)?.iter().enumerate() {
        let (account, object) = (text(&event["user"]["username"]), &event["objectRef"]);
        if !accounts.contains(&*account) {
            continue;
        }
        let code = event["responseStatus"]["code"].as_u64();
        if code == Some(403) {
            ensure!(starting.contains(&place), "refused: {event:#}");
            continue;
        }
        let mut resource = text(&object["resource"]);
        if let Some(part) = object["subresource"].as_str() {
            resource = format!("{resource}/{part}");
        }
        let right = Right {
            account,
            verb: text(&event["verb"]),
            group: text(&object["apiGroup"]),
            resource,
            namespace: object["namespace"].as_str().map(str::to_owned),
            name: object["name"].as_str().map(str::to_owned),
        };
        // A server-side apply that makes the object asks RBAC for `create` as well.
        if right.verb == "patch" && code == Some(201) {
            used.insert(Right { verb: "create".to_owned(), ..right.clone() });
        }
        used.insert(right);
    }
    Ok(used)
}

/// What a pod of a workload runs, on a node of the lab.
struct Program<'a> {
    account: String,
    container: &'a Value,
    node: &'a Node,
    child: Child,
    log: tempfile::NamedTempFile,
    _directory: tempfile::TempDir,
}

impl<'a> Program<'a> {
    fn start(server: &ApiServer, object: &'a Value, node: &'a Node) -> Result<Self> {
        let spec = super::template(object).context("a workload has a template")?;
        let container = containers(object).next().context("a workload has a container")?;
        let words = arguments(container);
        let (namespace, name) =
            (text(&object["metadata"]["namespace"]), text(&spec["serviceAccountName"]));
        let kubeconfig = if object["kind"] == "DaemonSet" {
            server.kubeconfig_for_agent(node.name())?
        } else {
            server.kubeconfig_for_service_account(&namespace, &name)?
        };
        let (log, directory) = (tempfile::NamedTempFile::new()?, tempfile::tempdir()?);
        let mut command = Command::new(portcullis()?);
        command
            .args(words)
            .env("KUBECONFIG", kubeconfig)
            .env("PORTCULLIS_LOCK_DIR", directory.path())
            // An Event about a selector takes ten minutes otherwise.
            .env("PORTCULLIS_EVENT_DELAY", "1")
            .env("PORTCULLIS_MISSING_KIND_PERIOD", "1");
        for variable in container["env"].as_array().into_iter().flatten() {
            let value =
                match variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str) {
                    Some("spec.nodeName") => node.name().to_owned(),
                    Some("metadata.namespace") => namespace.clone(),
                    Some("metadata.name") => format!("{name}-1"),
                    _ => text(&variable["value"]),
                };
            command.env(text(&variable["name"]), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen()?);
        let child = node.netns().spawn(&mut command)?;
        let account = account(&namespace, &name);
        Ok(Self { account, container, node, child, log, _directory: directory })
    }

    /// Asks what the kubelet asks until all answers are good; the metrics, too.
    fn wait_for_probes(&self) -> Result<()> {
        let mut questions = vec![];
        for probe in ["livenessProbe", "readinessProbe"] {
            let probe = &self.container[probe]["httpGet"];
            questions.push((self.port(&probe["port"])?, text(&probe["path"])));
        }
        questions.push((self.port(&Value::from("metrics"))?, "/metrics".to_owned()));
        let deadline = Instant::now() + LIMIT;
        for (port, path) in questions {
            while !self.node.netns().run(|| get(port, &path))?.is_ok_and(|good| good) {
                let log = || fs::read_to_string(self.log.path()).unwrap_or_default();
                ensure!(Instant::now() < deadline, "{}: {port} {path}\n{}", self.account, log());
                std::thread::sleep(ASK_EVERY);
            }
        }
        Ok(())
    }

    fn port(&self, named: &Value) -> Result<u16> {
        let ports = self.container["ports"].as_array().into_iter().flatten();
        let mut ports = ports.filter(|port| port["name"] == *named);
        let number = named.as_u64().or_else(|| ports.next()?["containerPort"].as_u64());
        Ok(number.with_context(|| format!("no port {named}"))?.try_into()?)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the answer is 200.
fn get(port: u16, path: &str) -> Result<bool> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}
