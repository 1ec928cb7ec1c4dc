//! Policies of the whole cluster, live: read where the cluster has them, missed where it has not,
//! and a gap where they may not be read.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

use super::{ask, prepare};

const KINDS: [(&str, &str, &str, &str); 2] = [
    ("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy"),
    ("portcullis.dev", "v1alpha1", "clusterdefaultnetworkpolicies", "ClusterDefaultNetworkPolicy"),
];

/// Jobs may not scrape, the shop is closed to the rest, and closing jobs is being tried.
const OBJECTS: &str = "
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard, annotations: {note: s3cret}}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {team: shop}}}
  ingress:
  - action: Deny
    from: [{namespaces: {matchLabels: {team: jobs}}}]
    protocols: [{tcp: {destinationPort: {number: 9090}}}]
---
apiVersion: portcullis.dev/v1alpha1
kind: ClusterDefaultNetworkPolicy
metadata: {name: default}
spec:
  namespaceSelector: {matchLabels: {team: shop}}
  policyTypes: [Ingress]
  ingress: [{from: [{sameNamespace: true}]}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: tried, annotations: {portcullis.dev/mode: audit}}
spec:
  tier: Baseline
  priority: 1
  subject: {namespaces: {matchLabels: {team: jobs}}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
";

/// CRDs that take anything; what they say of their objects does not matter here.
fn install(server: &ApiServer) -> Result<()> {
    let versions = |version: &str, schema: &Value| {
        // One that nobody knows yet, to be served later.
        let later = json!({"name": "v9", "served": false, "storage": false, "schema": schema});
        json!([{"name": version, "served": true, "storage": true, "schema": schema}, later])
    };
    for (group, version, plural, kind) in KINDS {
        let schema = json!({"openAPIV3Schema":
            {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let approved = "https://github.com/kubernetes-sigs/network-policy-api";
        let name = format!("{plural}.{group}");
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "annotations": {"api-approved.kubernetes.io": approved}},
            "spec": {
                "group": group, "scope": "Cluster", "names": {"kind": kind, "plural": plural},
                "versions": versions(version, &schema),
            },
        });
        server.kubectl(&["apply", "--server-side", "-f", "-"], Some(&crd.to_string()))?;
        let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", &name];
        server.kubectl(&established, None)?;
    }
    server.kubectl(&["apply", "--server-side", "-f", "-"], Some(OBJECTS)).map(drop)
}

#[test]
fn policies_of_the_cluster_count_where_it_has_them() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    prepare(&server)?;
    let admin = server.admin_kubeconfig();
    let scrape = "check jobs/report shop/api:9090";
    let absent = ask(&admin, scrape)?;
    assert_eq!(absent.code, Some(0), "without the kinds: {}{}", absent.out, absent.said);
    ensure!(!absent.said.contains("clusternetworkpolicies"), "{}", absent.said);
    // Who may not read them misses nothing, as long as there are none.
    let jane = "--as jane --as-group system:authenticated --as-group shop-owners";
    let inside = format!("check web deploy/api:8080 -n shop {jane}");
    let before = ask(&admin, &inside)?;
    assert_eq!(before.code, Some(0), "{}{}", before.out, before.said);

    install(&server)?;
    let file = tempfile::NamedTempFile::with_suffix(".json")?;
    let written = ask(&admin, &format!("snapshot -o {}", file.path().display()))?;
    assert_eq!(written.code, Some(0), "{}", written.said);
    let text = std::fs::read_to_string(file.path())?;
    ensure!(
        !text.contains("s3cret") && text.contains("\"portcullis.dev/mode\":\"audit\""),
        "{text}"
    );
    let mut codes = Vec::new();
    for question in [
        scrape,
        "check jobs/report shop/web:80",
        "check shop/web shop/api:8080",
        "check shop/web jobs/report:80",
        "map -o csv",
        "plan --audit",
        "plan --without cdnp/default --without cnp/guard",
    ] {
        let live = ask(&admin, question)?;
        let offline =
            ask(Path::new("/nowhere"), &format!("{question} -f {}", file.path().display()))?;
        let shown = format!(" ({}", file.path().display());
        let cut = |line: &str| line.split(&shown).next().unwrap_or_default().to_owned();
        let offline_text: Vec<String> = offline.out.lines().map(cut).collect();
        let live_text: Vec<String> = live.out.lines().map(str::to_owned).collect();
        assert_eq!(live_text, offline_text, "{question}: {}", live.said);
        assert_eq!(live.code, offline.code, "{question}: {}", live.said);
        codes.push(live.code.unwrap_or(-1));
    }
    assert_eq!(codes, [1, 1, 0, 0, 0, 1, 1]);
    let denied = ask(&admin, scrape)?.out;
    ensure!(denied.contains("denied by ClusterNetworkPolicy/guard rule 1 (Admin)"), "{denied}");
    let tried = ask(&admin, "check shop/web jobs/report:80")?.out;
    ensure!(tried.contains("in audit: ingress would be denied by"), "{tried}");

    let after = ask(&admin, &inside)?;
    assert_eq!(after.code, Some(3), "{}{}", after.out, after.said);
    let missing = "the verb `list` on the resource `clusternetworkpolicies`";
    ensure!(after.out.contains(missing), "{}", after.out);

    // A later version may mean anything; a snapshot says so as well.
    let only_later = r#"[{"op": "replace", "path": "/spec/versions/0/served", "value": false},
        {"op": "replace", "path": "/spec/versions/1/served", "value": true}]"#;
    for crd in KINDS.map(|(group, _, plural, _)| format!("{plural}.{group}")) {
        server.kubectl(&["patch", "crd", &crd, "--type=json", "-p", only_later], None)?;
    }
    let unknown = "of policy.networking.k8s.io/v9, a version that is not understood";
    let end = Instant::now() + Duration::from_mins(1);
    let live = loop {
        let live = ask(&admin, scrape)?;
        if live.code == Some(3) || Instant::now() > end {
            break live;
        }
    };
    assert_eq!(live.code, Some(3), "{}{}", live.out, live.said);
    ensure!(live.out.contains(unknown), "{}", live.out);
    let written = ask(&admin, &format!("snapshot -o {}", file.path().display()))?;
    assert_eq!(written.code, Some(0), "{}", written.said);
    let offline = format!("{scrape} -f {}", file.path().display());
    let offline = ask(Path::new("/nowhere"), &offline)?;
    assert_eq!((offline.code, offline.out), (Some(3), live.out), "{}", offline.said);
    Ok(())
}
