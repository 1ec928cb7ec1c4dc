//! `kubectl whatif` on a live cluster: what it answers, as whom, and what it may not read.

mod status;
mod tiers;
mod verify;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use portcullis_tests::cluster::kubectl_whatif;
use portcullis_tests::kube::{ApiServer, Options, Shared};
use serde_json::Value;

/// A shop whose pods do not run yet, and users who may read all, a part, and nothing.
const OBJECTS: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: shop}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: jobs, labels: {team: jobs}}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: a, image: a, env: [{name: TOKEN, value: s3cret}], ports: [{name: http, containerPort: 8080}]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}, spec: {selector: {app: api}, ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {containers: [{name: a, image: a}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: report, namespace: jobs, labels: {app: report}}, spec: {containers: [{name: a, image: a}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}
  - {from: [{namespaceSelector: {matchLabels: {team: jobs}}}], ports: [{port: 9090}]}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: partly, namespace: shop}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: partly}
rules:
- {apiGroups: [""], resources: [pods, namespaces, nodes, services, replicationcontrollers], verbs: [list]}
- {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets, replicasets], verbs: [list]}
- {apiGroups: [batch], resources: [jobs, cronjobs], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: partly}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: partly}
subjects:
- {kind: ServiceAccount, name: partly, namespace: shop}
- {kind: User, name: jane, apiGroup: rbac.authorization.k8s.io}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: policies, namespace: shop}
rules: [{apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: policies, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: policies}
subjects: [{kind: Group, name: shop-owners, apiGroup: rbac.authorization.k8s.io}]
"#;

/// It changes nothing: there is no such pod.
const NOBODY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {matchLabels: {app: nobody}}}
";

struct Asked {
    code: Option<i32>,
    out: String,
    said: String,
}

fn ask(kubeconfig: &Path, line: &str) -> Result<Asked> {
    let output = Command::new(kubectl_whatif()?)
        .args(line.split_whitespace())
        .env("KUBECONFIG", kubeconfig)
        .output()?;
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes);
    Ok(Asked { code: status.code(), out: text(stdout)?, said: text(stderr)? })
}

/// A server with [`OBJECTS`], which tests read and do not change.
fn server() -> Result<&'static ApiServer> {
    static SERVER: Shared = Shared::new();
    SERVER.get(prepare)
}

fn prepare(server: &ApiServer) -> Result<()> {
    // No controller makes it: pods need the ServiceAccount of their namespace.
    for namespace in ["shop", "jobs"] {
        server.kubectl(&["create", "namespace", namespace], None)?;
        server.kubectl(&["create", "serviceaccount", "default", "-n", namespace], None)?;
    }
    server.kubectl(&["apply", "--server-side", "-f", "-"], Some(OBJECTS)).map(drop)
}

const QUESTIONS: [&str; 9] = [
    "check shop/web shop/api:8080",
    "check jobs/report shop/api:8080",
    "check jobs/report shop/api:9090 -o json",
    "check -n shop web svc/api:80",
    "map -o csv -A",
    "who shop/deploy/api -o csv",
    "check jobs/report shop/api:8080 --without netpol/shop/api",
    "check 192.0.2.1 shop/api",
    "plan --without netpol/shop/api",
];

#[test]
fn live_answers_are_those_of_the_snapshot() -> Result<()> {
    let server = server()?;
    let admin = server.admin_kubeconfig();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("cluster.json");
    let written = ask(&admin, &format!("snapshot -o {}", file.display()))?;
    assert_eq!(written.code, Some(0), "{}", written.said);
    let text = std::fs::read_to_string(&file)?;
    ensure!(!text.contains("s3cret") && !text.contains("managedFields"), "{text}");
    let mut codes = Vec::new();
    for question in QUESTIONS {
        let live = ask(&admin, question)?;
        let offline = ask(Path::new("/nowhere"), &format!("{question} -f {}", file.display()))?;
        let place = |text: &str| -> String {
            let lines = text
                .lines()
                .filter(|line| !line.contains("closest is") && !line.contains("origin"));
            // Where an object of a file is written, behind what is said of it.
            let shown = format!(" ({}", file.display());
            // And the comma before the origin that only one of them has.
            let cut = |line: &str| {
                let before = line.split(&shown).next().unwrap_or_default();
                before.trim_end_matches(',').to_owned()
            };
            lines.map(cut).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(place(&live.out), place(&offline.out), "{question}: {}", live.said);
        assert_eq!(live.code, offline.code, "{question}: {}", live.said);
        codes.push(live.code.unwrap_or(-1));
    }
    assert_eq!(codes, [0, 1, 0, 0, 0, 0, 0, 1, 1]);
    let lint = |kubeconfig: &Path, more: &str| -> Result<Vec<(Value, Value)>> {
        let asked = ask(kubeconfig, &format!("lint -o json{more}"))?;
        let found: Value = serde_json::from_str(&asked.out)?;
        let findings = found["findings"].as_array().into_iter().flatten();
        Ok(findings.map(|one| (one["code"].clone(), one["message"].clone())).collect())
    };
    let live = lint(&admin, "")?;
    ensure!(!live.is_empty(), "two namespaces have pods that no policy selects");
    assert_eq!(live, lint(Path::new("/nowhere"), &format!(" -f {}", file.display()))?);
    Ok(())
}

#[test]
fn what_may_not_be_read_leaves_the_answer_undetermined() -> Result<()> {
    let server = server()?;
    let partly = server.kubeconfig_for_service_account("shop", "partly")?;
    let missing = "the verb `list` on the resource `networkpolicies` of networking.k8s.io";
    let asked = ask(&partly, "check shop/web shop/api:8080")?;
    assert_eq!(asked.code, Some(3), "{}{}", asked.out, asked.said);
    ensure!(asked.out.contains("Undetermined") && asked.out.contains(missing), "{}", asked.out);
    let map = ask(&partly, "map")?;
    assert_eq!(map.code, Some(3));
    ensure!(map.said.contains(missing), "{}", map.said);

    // Nothing found in a part is not nothing found.
    let deny = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::fs::write(&deny, NOBODY)?;
    let plan = format!("plan --with {}", deny.path().display());
    for question in ["lint --fail-on error", &plan] {
        let asked = ask(&partly, question)?;
        assert_eq!(asked.code, Some(3), "{question}: {}{}", asked.out, asked.said);
        ensure!(asked.said.contains(missing), "{question}: {}", asked.said);
    }

    // Whoever may read nothing learns so, and what is missing.
    let nobody = ask(&server.admin_kubeconfig(), "check shop/web shop/api:8080 --as nobody")?;
    assert_eq!(nobody.code, Some(3), "{}", nobody.said);
    ensure!(
        nobody.said.contains("the verb `list` on the resource `pods` of the core"),
        "{}",
        nobody.said
    );
    Ok(())
}

#[test]
fn it_asks_as_whom_it_is_told_to() -> Result<()> {
    let server = server()?;
    let admin = server.admin_kubeconfig();
    let jane = "--as jane --as-group system:authenticated --as-group shop-owners";
    // Policies of one namespace are enough for a question inside it, and for a denial there.
    let inside = ask(&admin, &format!("check web deploy/api:8080 -n shop {jane}"))?;
    assert_eq!(inside.code, Some(0), "{}{}", inside.out, inside.said);
    let denied = ask(&admin, &format!("check jobs/report deploy/api:8080 -n shop {jane}"))?;
    assert_eq!(denied.code, Some(1), "{}{}", denied.out, denied.said);
    let outside = ask(&admin, &format!("check jobs/report deploy/api:9090 -n shop {jane}"))?;
    assert_eq!(outside.code, Some(3), "{}{}", outside.out, outside.said);
    ensure!(outside.out.contains("namespaces other than shop"), "{}", outside.out);
    let without = ask(&admin, "check web deploy/api:8080 -n shop --as jane")?;
    assert_eq!(without.code, Some(3), "{}{}", without.out, without.said);
    Ok(())
}

#[test]
fn more_than_a_page_is_read_whole() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    let name =
        |number| format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: n{number}}}}}");
    let many: Vec<String> = (0..620).map(name).collect();
    server.kubectl(&["create", "-f", "-"], Some(&many.join("\n---\n")))?;
    let written = ask(&server.admin_kubeconfig(), "snapshot -o -")?;
    let namespaces = written.out.lines().filter(|line| line.contains("\"kind\":\"Namespace\""));
    ensure!(namespaces.count() >= 622, "{}", written.said);
    Ok(())
}

/// Takes one connection after another to wherever it is asked for, and counts them.
fn proxy() -> Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(std::io::Result::ok) {
            let count = Arc::clone(&count);
            std::thread::spawn(move || tunnel(&client, &count));
        }
    });
    Ok((address, taken))
}

/// One `CONNECT host:port`, and what goes through it.
fn tunnel(client: &TcpStream, count: &AtomicUsize) -> std::io::Result<()> {
    let mut asked = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    asked.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while asked.read_line(&mut line)? > 2 {}
    let server = TcpStream::connect(target)?;
    (&*client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    count.fetch_add(1, Ordering::Relaxed);
    let (mut back, mut to) = (server.try_clone()?, client.try_clone()?);
    let returning = std::thread::spawn(move || std::io::copy(&mut back, &mut to));
    std::io::copy(&mut asked, &mut &server)?;
    let _ = returning.join();
    Ok(())
}

#[test]
fn a_proxy_of_the_kubeconfig_is_used() -> Result<()> {
    let server = server()?;
    let (address, taken) = proxy()?;
    let mut kubeconfig: Value = serde_json::from_str(
        &server.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"], None)?,
    )?;
    kubeconfig["clusters"][0]["cluster"]["proxy-url"] = format!("http://{address}").into();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("proxied");
    std::fs::write(&file, kubeconfig.to_string())?;
    let asked = ask(&file, "check shop/web shop/api:8080")?;
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.said);
    ensure!(taken.load(Ordering::Relaxed) > 0, "it went past the proxy");
    Ok(())
}

#[test]
fn a_context_that_is_not_there_is_a_failure_of_the_tool() -> Result<()> {
    let server = server()?;
    let admin = server.admin_kubeconfig();
    let asked = ask(&admin, "map --context other")?;
    assert_eq!(asked.code, Some(2));
    ensure!(asked.said.contains("other"), "{}", asked.said);
    let asked = ask(Path::new("/nowhere"), &format!("map --kubeconfig {}", admin.display()))?;
    assert_eq!(asked.code, Some(0), "{}", asked.said);
    Ok(())
}
