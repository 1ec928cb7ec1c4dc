//! An agent speaks for its own node only, whatever RBAC says.

use anyhow::{Context, Result, ensure};
use portcullis_tests::kube::{ApiServer, Options};
use serde_json::json;
use std::time::Instant;

use super::{LIMIT, apply, root};

#[test]
fn an_agent_writes_the_report_of_its_own_node_only() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    apply(&server, &root().join("deploy"))?;
    for node in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        server.kubectl(&["apply", "-f", "-"], Some(&node.to_string()))?;
    }
    let tokens = ["create", "token", "portcullis-node", "-nportcullis-system"];
    let of_n1 = ["--bound-object-kind=Node", "--bound-object-name=n1"];
    let of_n1 = server.kubectl(&[&tokens[..], &of_n1].concat(), None)?;
    let of_nobody = server.kubectl(&tokens, None)?;
    let write = |token: &str, node: &str| {
        let report = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
            "metadata": {"name": node}, "spec": {"nodeName": node}});
        // Without the administrator's certificate, which would speak louder than the token.
        let kubeconfig = server.kubeconfig_for_token(token.trim())?;
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let apply = ["apply", "--server-side", "-f", "-", &kubeconfig];
        server.kubectl(&apply, Some(&report.to_string()))
    };
    // A policy is enforced a moment after it was accepted.
    let deadline = Instant::now() + LIMIT;
    let refused = loop {
        match write(&of_n1, "n2") {
            Err(refused) => break refused.to_string(),
            Ok(_) => ensure!(Instant::now() < deadline, "the policy is not enforced"),
        }
    };
    ensure!(refused.contains("only the report of its own node, not n2"), "{refused}");
    write(&of_n1, "n1").context("its own")?;
    let refused = write(&of_nobody, "n1").expect_err("this token speaks for no node").to_string();
    ensure!(refused.contains("only the report of its own node, not n1"), "{refused}");
    Ok(())
}
