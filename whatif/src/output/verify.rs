//! Whether nodes enforce what the API objects say: lines for people, and `kind: Verification`.

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use super::json::API_VERSION;
use crate::verify::{Agreement, Finding};

/// The answer of `verify`.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Verification`.
    pub kind: &'static str,
    /// The nodes, by name.
    pub nodes: Vec<Node>,
}

/// Whether a node enforces what the API objects say.
#[derive(Serialize, JsonSchema, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The node.
    pub node: String,
    /// Whether the node and the API objects agree.
    pub result: Agreement,
    /// A hash of the compiled state that the node enforces; absent when its agent did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Whether the rules in the kernel of the node were compared.
    pub kernel_compared: bool,
    /// How many rules in the kernel of the node were compared.
    pub rules_compared: usize,
    /// How many sets in the kernel of the node were compared.
    pub sets_compared: usize,
    /// The differences, one sentence each.
    pub differences: Vec<String>,
    /// Why the result is not known, or why only the report of the node was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Verification {
    /// The answer about these nodes.
    #[must_use]
    pub fn new(findings: &[Finding]) -> Self {
        let nodes = findings.iter().map(Node::from).collect();
        Self { api_version: API_VERSION, kind: "Verification", nodes }
    }
}

impl From<&Finding> for Node {
    fn from(finding: &Finding) -> Self {
        let (rules_compared, sets_compared) = finding.compared.unwrap_or_default();
        Self {
            node: finding.node.clone(),
            result: finding.agreement(),
            hash: finding.hash.clone(),
            kernel_compared: finding.compared.is_some(),
            rules_compared,
            sets_compared,
            differences: finding.differences.clone(),
            message: finding.unknown.as_ref().or(finding.by_report.as_ref()).cloned(),
        }
    }
}

/// Writes a line for each node, and its differences below.
///
/// # Errors
/// When the output cannot be written.
pub fn text(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let width = findings.iter().map(|found| found.node.len()).max().unwrap_or(0);
    for finding in findings {
        let Finding { node, hash, compared, by_report, differences, unknown } = finding;
        let hash = hash.as_deref().unwrap_or("-");
        let compared = match compared {
            Some((rules, sets)) => format!("{rules} rules and {sets} sets of the kernel compared"),
            None if by_report.is_some() => "report compared, kernel not compared".to_owned(),
            None => "not compared".to_owned(),
        };
        let state = match finding.agreement() {
            Agreement::Unknown => "Unknown",
            Agreement::Agrees => "Agrees ",
            Agreement::Differs => "DIFFERS",
        };
        writeln!(out, "{node:width$}  {state}  {hash:33}  {compared}")?;
        for difference in differences.iter().chain(unknown).chain(by_report) {
            writeln!(out, "  {difference}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        let agrees = Finding {
            node: "n1".to_owned(),
            hash: Some("54t27c3mc2mtohpl-a2oy7hqzlmnxkrqs".to_owned()),
            compared: Some((106, 2)),
            by_report: None,
            differences: Vec::new(),
            unknown: None,
        };
        let differs = Finding {
            node: "n2".to_owned(),
            differences: vec!["kernel: a set has other members".to_owned()],
            ..agrees.clone()
        };
        let silent = Finding::unknown("n10", "the agent gave no answer".to_owned(), None);
        let by_report = Finding {
            node: "n3".to_owned(),
            compared: None,
            by_report: Some("pods/exec is forbidden".to_owned()),
            ..agrees.clone()
        };
        vec![agrees, differs, silent, by_report]
    }

    #[test]
    fn a_line_for_each_node_has_the_result_and_the_differences_follow() {
        let mut out = Vec::new();
        text(&findings(), &mut out).expect("memory");
        let expected = "\
n1   Agrees   54t27c3mc2mtohpl-a2oy7hqzlmnxkrqs  106 rules and 2 sets of the kernel compared
n2   DIFFERS  54t27c3mc2mtohpl-a2oy7hqzlmnxkrqs  106 rules and 2 sets of the kernel compared
  kernel: a set has other members
n10  Unknown  -                                  not compared
  the agent gave no answer
n3   Agrees   54t27c3mc2mtohpl-a2oy7hqzlmnxkrqs  report compared, kernel not compared
  pods/exec is forbidden
";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn json_has_the_same_results() {
        let json = serde_json::to_value(Verification::new(&findings())).expect("JSON");
        assert_eq!(json["kind"], "Verification");
        let results: Vec<_> = json["nodes"].as_array().expect("nodes").iter().collect();
        let [agrees, differs, silent, by_report] = results.as_slice() else { panic!("{json}") };
        assert_eq!((&agrees["result"], &agrees["rulesCompared"]), (&"Agrees".into(), &106.into()));
        assert_eq!(differs["result"], "Differs");
        assert_eq!(differs["differences"][0], "kernel: a set has other members");
        assert_eq!(
            (&by_report["result"], &by_report["kernelCompared"]),
            (&"Agrees".into(), &false.into())
        );
        assert_eq!(by_report["message"], "pods/exec is forbidden");
        assert_eq!(silent["result"], "Unknown");
        assert_eq!(silent["message"], "the agent gave no answer");
        assert!(silent.get("hash").is_none() && agrees.get("message").is_none(), "{json}");
    }
}
