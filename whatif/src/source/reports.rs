//! The `NodePolicyReport` objects of a live cluster, in which nodes report what they enforce.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use policy_engine::labels::Str;
use portcullis_apiserver::failure::has_code;
use portcullis_crds::api::node_policy_report::{NodePolicyReport, NodePolicyReportStatus};
use serde_json::Value;

use super::connection::Connection;

const PATH: &str = "/apis/portcullis.dev/v1alpha1/nodepolicyreports";

/// The report of each node, by name.
pub type Reports = BTreeMap<Str, Report>;

/// The report of a node.
#[derive(Debug)]
pub enum Report {
    /// The status of the report.
    Status(Box<NodePolicyReportStatus>),
    /// An agent of another version wrote a report that this version cannot read.
    NotUnderstood,
}

/// Reads the reports of all nodes.
///
/// # Errors
/// When they cannot be listed.
pub fn list(connection: &Connection) -> Result<Reports> {
    match connection.list(PATH) {
        Ok(reports) => Ok(reports.into_iter().filter_map(understood).collect()),
        Err(error) if has_code(&error, 404) => bail!(
            "the cluster has no NodePolicyReports: install the CRDs of Portcullis (deploy/crds) and its agents"
        ),
        Err(error) => Err(error).context(
            "failed to list nodepolicyreports.portcullis.dev, in which each node reports what it enforces",
        ),
    }
}

/// Reads the report of one node; `None` when it has none.
///
/// # Errors
/// When it cannot be read.
pub fn get(connection: &Connection, node: &str) -> Result<Option<Report>> {
    let found = connection.get(PATH, node);
    let found = found.with_context(|| format!("failed to read the NodePolicyReport {node}"))?;
    Ok(found.and_then(understood).map(|(_, report)| report))
}

fn understood(report: Value) -> Option<(Str, Report)> {
    let name = report.get("metadata")?.get("name")?.as_str()?.into();
    let read = serde_json::from_value::<NodePolicyReport>(report);
    let status = read.map(|report| Report::Status(Box::new(report.status.unwrap_or_default())));
    Some((name, status.unwrap_or(Report::NotUnderstood)))
}
