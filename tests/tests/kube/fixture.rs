//! The API server of tests is one to rely on: it comes back as it was, and knows who asks.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use portcullis_tests::kube::{ApiServer, Options};
use portcullis_tests::lab::{Families, Lab};

const READER: &str = r#"
{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: default}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [namespaces], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
"#;

#[test]
fn it_comes_back_with_its_data_at_the_same_place() -> Result<()> {
    let mut server = ApiServer::start(Options::default())?;
    let address = server.address();
    server.kubectl(&["create", "namespace", "shop"], None)?;
    server.kill();
    ensure!(server.kubectl(&["get", "namespace", "shop"], None).is_err(), "it answers when dead");
    server.restart()?;
    assert_eq!(server.kubectl(&["get", "ns", "shop", "-oname"], None)?, "namespace/shop\n");
    assert_eq!(server.address(), address);
    Ok(())
}

#[tokio::test]
async fn a_client_of_ours_is_administrator() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    let namespaces: Api<Namespace> = Api::all(server.client().await?);
    let found = namespaces.list(&kube::api::ListParams::default()).await?;
    let names: Vec<_> = found.items.into_iter().filter_map(|item| item.metadata.name).collect();
    assert!(names.iter().any(|name| name == "default"), "{names:?}");
    assert!(names.iter().any(|name| name == "kube-system"), "{names:?}");
    Ok(())
}

#[test]
fn a_service_account_may_do_what_rbac_says_and_the_audit_log_has_it() -> Result<()> {
    let server = ApiServer::start(Options::default().audit())?;
    server.kubectl(&["apply", "-f", "-"], Some(READER))?;
    let reader = server.kubeconfig_for_service_account("default", "reader")?;
    let reader = format!("--kubeconfig={}", reader.display());
    server.kubectl(&[&reader, "get", "namespace", "default"], None)?;
    let refused = server.kubectl(&[&reader, "get", "pods"], None);
    let refused = refused.expect_err("pods are not granted").to_string();
    ensure!(refused.contains("system:serviceaccount:default:reader"), "{refused}");
    ensure!(refused.contains("cannot list resource \"pods\""), "{refused}");
    let audit = fs::read_to_string(server.audit_log())?;
    let of_reader = audit.lines().filter(|line| line.contains(":default:reader"));
    ensure!(of_reader.filter(|line| line.contains("\"verb\":\"list\"")).count() > 0, "{audit}");
    Ok(())
}

fn every_node_reaches_it(families: Families) -> Result<()> {
    let lab = Lab::builder().nodes(2).families(families).build()?;
    let server = ApiServer::start(Options::beside(&lab)?)?;
    server.kubectl(&["apply", "-f", "-"], Some(READER))?;
    let reader = server.kubeconfig_for_service_account("default", "reader")?;
    for node in lab.nodes() {
        let mut kubectl = Command::new(ApiServer::binary("kubectl")?);
        kubectl.args(["get", "namespace", "default", "-oname", "--cache-dir=/dev/null"]);
        let output = node.netns().output(kubectl.env("KUBECONFIG", &reader))?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"namespace/default\n", "{}: {said}", node.name());
    }
    Ok(())
}

#[test]
fn every_node_of_a_lab_reaches_it() -> Result<()> {
    every_node_reaches_it(Families::Dual)
}

#[test]
fn every_node_of_an_ipv6_lab_reaches_it() -> Result<()> {
    every_node_reaches_it(Families::V6)
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let wrong = Options::default().api_server_arg("--no-such-flag");
    let failure = format!("{:#}", ApiServer::start(wrong).err().expect("it has no such flag"));
    assert!(failure.contains("unknown flag: --no-such-flag"), "{failure}");
}
