//! What a real controller serves, beside a real API server.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use portcullis_tests::cluster::portcullis;
use portcullis_tests::kube::{ApiServer, Options};

use crate::Case;
use crate::scrape::{METRICS, Series, series, wait_for};

pub(crate) const CONTROLLER: &str = "portcullis-controller-5d9c7b6f4-q8w2e";

const LEADING: &str = "portcullis_controller_leading";

/// A node whose agent has not reported, with a pod that a policy selects.
const NODE: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: default, labels: {app: web}},
 spec: {nodeName: n1, containers: [{name: web, image: web}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web, namespace: default},
 spec: {podSelector: {}}}
";

/// A controller that is killed when it is dropped.
struct Controller(Child);

impl Controller {
    fn start(kubeconfig: &Path) -> Result<Self> {
        let mut command = Command::new(portcullis()?);
        command.args(["controller", "--lease-namespace=default", "--health-address=off"]);
        command.arg(format!("--metrics-address=127.0.0.1:{METRICS}"));
        command.env("KUBECONFIG", kubeconfig).stdin(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("failed to start a controller")?))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Adds the cases of a controller; the series while nothing is wrong with it.
pub(crate) fn cases(cases: &mut Vec<Case>) -> Result<Vec<Series>> {
    let server = ApiServer::start(Options::default())?;
    server.install_crds()?;
    server.kubectl(&["create", "serviceaccount", "default"], None)?;
    let running = Controller::start(&server.admin_kubeconfig())?;
    let before = wait_for(LEADING, 0.0)?;
    let healthy = series(CONTROLLER, &before, &before);
    let mut case = |name, alerts, series| cases.push(Case { name, series, alerts });
    case("nothing is wrong with the controller", vec![], healthy.clone());

    server.kubectl(&["apply", "-f", "-"], Some(NODE))?;
    wait_for("portcullis_controller_policies_behind", 0.0)?;
    let during = wait_for("portcullis_controller_nodes_unreported", 0.0)?;
    let alerts = vec!["PortcullisNodeWithoutReport", "PortcullisPolicyNotEnforced"];
    case("a node has no agent", alerts, series(CONTROLLER, &before, &during));
    drop(running);

    // It has no permission, so it cannot become the leader.
    let nobody = server.kubeconfig_for_service_account("default", "default")?;
    let _running = Controller::start(&nobody)?;
    let during = wait_for(LEADING, -1.0)?;
    let name = "the controller cannot use its Lease";
    case(name, vec!["PortcullisNoLeader"], series(CONTROLLER, &before, &during));
    Ok(healthy)
}
