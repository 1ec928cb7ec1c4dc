//! The chart: it installs the same objects as kustomize does, and Helm installs, upgrades and
//! uninstalls it on a real API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use portcullis_crds::manifest::Manifest;
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::{Value, json};

use super::root;

pub(super) const NAMESPACE: &str = "portcullis-system";
/// The annotation that keeps CRDs, and so all objects of their kinds, when the chart is uninstalled.
const KEEP: &str = "helm.sh/resource-policy";

/// Helm, with directories of its own.
pub(super) struct Helm {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Helm {
    pub(super) fn new() -> Result<Self> {
        let build = Command::new(root().join("tests/kube/program.sh")).arg("helm").output()?;
        ensure!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        let program = String::from_utf8(build.stdout)?;
        let program = program.lines().last().context("program.sh prints no path")?.into();
        Ok(Self { program, home: tempfile::tempdir()? })
    }

    pub(super) fn output(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--namespace", NAMESPACE]).env("KUBECONFIG", kubeconfig);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.home.path());
        }
        command.output().context("failed to start helm")
    }

    pub(super) fn run(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        let output = self.output(kubeconfig, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {arguments:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What the chart makes of these values.
    pub(super) fn template(&self, values: &[&str]) -> Result<String> {
        let chart = chart();
        let arguments = ["template", "portcullis", &chart, "--kube-version=1.36.0"];
        self.run(Path::new("/nowhere"), &[&arguments, values].concat())
    }
}

pub(super) fn chart() -> String {
    root().join("deploy/helm/portcullis").to_string_lossy().into_owned()
}

/// The objects of a stream by kind and name.
pub(super) fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let manifest = Manifest::parse("objects", text);
    ensure!(manifest.is_whole(), "{:?}", manifest.diagnostics);
    let objects = manifest.documents.iter().map(|document| {
        let mut object = document.value().clone();
        let kind = object["kind"].as_str().context("no kind")?.to_owned();
        let metadata = object["metadata"].as_object_mut().context("no metadata")?;
        let name = metadata["name"].as_str().context("no name")?.to_owned();
        if kind.starts_with("ValidatingAdmissionPolicy") {
            // This kind has no namespace. kubectl 1.36 adds one here all the same.
            metadata.remove("namespace");
        }
        Ok((format!("{kind}/{name}"), object))
    });
    objects.collect()
}

#[test]
fn the_chart_contains_the_objects_of_kustomize() -> Result<()> {
    let helm = Helm::new()?;
    let kubectl = ApiServer::binary("kubectl")?;
    let cases: [(&str, &[&str]); 4] = [
        ("deploy", &[]),
        ("deploy/overlays/bridge-settings", &["--set=node.bridgeSettings=true"]),
        ("deploy/overlays/dual-stack", &["--set=node.requireFamilies={IPv4,IPv6}"]),
        ("deploy/overlays/kubernetes-1.30", &["--set=ownReportPolicy=false"]),
    ];
    for (directory, values) in cases {
        let built = Command::new(&kubectl).arg("kustomize").arg(root().join(directory)).output()?;
        let mut expected = objects(&String::from_utf8(built.stdout)?)?;
        // Helm or its user makes the namespace of a release.
        expected.remove(&format!("Namespace/{NAMESPACE}")).context("no namespace")?;
        for (name, object) in &mut expected {
            if name.starts_with("CustomResourceDefinition/") {
                object["metadata"]["annotations"] = json!({KEEP: "keep"});
            }
        }
        // `helm test` creates objects of its own.
        let found = objects(&helm.template(&[&["--skip-tests"], values].concat())?)?;
        let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{directory}");
        for (name, object) in &found {
            assert_eq!(Some(object), expected.get(name), "{directory}: {name}");
        }
    }
    Ok(())
}

#[test]
fn values_reach_the_objects_and_wrong_ones_are_refused() -> Result<()> {
    let helm = Helm::new()?;
    let digest = format!("sha256:{}", "a".repeat(64));
    let found = objects(&helm.template(&[
        "--set=image.repository=registry.example/portcullis",
        &format!("--set=image.digest={digest}"),
        "--set=image.pullSecrets={one}",
        "--set=crds.install=false",
        "--set=node.extraArgs={--deny-action=reject}",
        "--set=node.podLabels.team=network",
        "--set=controller.replicas=1",
        "--set=controller.extraArgs={--event-delay=5}",
        "--set=monitoring.podMonitor=true",
        "--set=monitoring.rules=true",
        "--set=monitoring.labels.release=prometheus",
    ])?)?;
    ensure!(!found.keys().any(|name| name.starts_with("CustomResourceDefinition/")), "CRDs");
    let image = format!("registry.example/portcullis@{digest}");
    for (name, argument) in [
        ("DaemonSet/portcullis-node", "--deny-action=reject"),
        ("Deployment/portcullis-controller", "--event-delay=5"),
    ] {
        let pod = found.get(name).context("missing")?["spec"]["template"].clone();
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["image"], image);
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "one"}]));
        let arguments = container["args"].as_array().context("arguments")?;
        ensure!(arguments.contains(&json!(argument)), "{name}: {arguments:?}");
    }
    let of = |name: &str| found.get(name).with_context(|| format!("no {name}"));
    let node = of("DaemonSet/portcullis-node")?;
    assert_eq!(node["spec"]["template"]["metadata"]["labels"]["team"], "network");
    // A single replica must not block a drain.
    let budget = of("PodDisruptionBudget/portcullis-controller")?;
    assert_eq!(budget["spec"]["minAvailable"], 0);
    let alerts = std::fs::read_to_string(root().join("deploy/alerts.yaml"))?;
    let alerts = Manifest::parse("alerts.yaml", &alerts);
    let groups = &alerts.documents.first().context("alerts")?.value()["groups"];
    let rules = of("PrometheusRule/portcullis")?;
    assert_eq!(&rules["spec"]["groups"], groups);
    for object in [rules, of("PodMonitor/portcullis")?] {
        assert_eq!(object["metadata"]["labels"]["release"], "prometheus");
    }

    for (value, field) in [
        ("node.extraArg={--v}", "extraArg"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("image.digest=latest", "digest"),
        ("controller.replicas=many", "replicas"),
        ("node.requireFamilies={ipv4}", "requireFamilies"),
    ] {
        let refused = helm.template(&["--set", value]).err();
        let refused = format!("{:#}", refused.with_context(|| format!("{value} is accepted"))?);
        ensure!(refused.contains(field), "{value}: {refused}");
    }
    Ok(())
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() -> Result<()> {
    let (helm, chart) = (Helm::new()?, chart());
    let server = ApiServer::start(Options::default())?;
    let admin = server.admin_kubeconfig();
    let run = |arguments: &[&str]| helm.run(&admin, arguments);
    run(&["install", "portcullis", &chart, "--create-namespace"])?;
    let arguments = || -> Result<Value> {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/portcullis-node");
        let node = server.get(&path)?;
        Ok(node["spec"]["template"]["spec"]["containers"][0]["args"].clone())
    };
    let before = arguments()?;
    ensure!(before.is_array(), "the agent is installed: {before}");
    run(&["upgrade", "portcullis", &chart, "--set=node.extraArgs={--deny-action=reject}"])?;
    ensure!(
        arguments()?.as_array().is_some_and(|all| all.contains(&json!("--deny-action=reject")))
    );
    run(&["rollback", "portcullis", "1"])?;
    assert_eq!(arguments()?, before);

    // What users wrote stays, because the CRDs stay.
    let default = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "ClusterDefaultNetworkPolicy",
        "metadata": {"name": "mine"}, "spec": {"policyTypes": ["Ingress"]}});
    server.kubectl(&["apply", "-f", "-"], Some(&default.to_string()))?;
    run(&["uninstall", "portcullis"])?;
    assert_eq!(arguments()?, Value::Null);
    server.kubectl(&["get", "cdnp", "mine"], None)?;
    run(&["install", "portcullis", &chart])?;
    assert_eq!(arguments()?, before, "a chart takes over its own CRDs");
    Ok(())
}
