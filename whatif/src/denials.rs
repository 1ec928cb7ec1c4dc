//! The lines that agents log about denied connections, as text or JSON; docs/operations.md describes
//! them.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::output::json::API_VERSION;

/// One line about packets that were denied, or that a policy in audit would deny.
#[derive(Serialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// `whatif.portcullis.dev/v1alpha1`.
    pub api_version: &'static str,
    /// `Denial`.
    pub kind: &'static str,
    /// When the agent logged it: RFC 3339, UTC, with microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The node whose agent logged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `Denied`, or `WouldDeny` for policies in audit.
    pub verdict: String,
    /// `Ingress` or `Egress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The tier that denies it; `Address` if the packet has an address that its pod does not have,
    /// `Connection` if conntrack does not know its TCP connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// `namespace/pod`, `node/NAME` or an address; absent if the agent had no room to name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The address of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// As `source`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The address of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_address: Option<String>,
    /// `TCP`, `UDP`, `SCTP`, `ICMP` or another protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The port of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The policies that deny it, and the closest rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How many packets it is about.
    pub count: u64,
    /// The time in which these packets came, in seconds, if the denial continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

impl Record {
    /// The record that a line contains; `None` if the line is not a record of a denial.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        // kubectl writes a prefix with `--prefix`, and a time with `--timestamps`.
        let json =
            line.find('{').and_then(|at| serde_json::from_str::<Value>(line.get(at..)?).ok());
        let field = |name: &str| -> Option<String> {
            match &json {
                Some(object) => match object.get(name)? {
                    Value::String(text) => Some(text.clone()),
                    Value::Number(number) => Some(number.to_string()),
                    _ => None,
                },
                None => text_field(line, name),
            }
        };
        let verdict = field("verdict").filter(|found| found == "Denied" || found == "WouldDeny")?;
        let either = |logged: &str, written: &str| field(logged).or_else(|| field(written));
        let time = match &json {
            Some(_) => either("timestamp", "time"),
            None => line.split_whitespace().find(|word| is_time(word)).map(str::to_owned),
        };
        Some(Self {
            api_version: API_VERSION,
            kind: "Denial",
            time,
            node: field("node"),
            verdict,
            direction: field("direction"),
            tier: field("tier"),
            source: field("source"),
            source_address: either("source_address", "sourceAddress"),
            destination: field("destination"),
            destination_address: either("destination_address", "destinationAddress"),
            protocol: field("protocol"),
            port: field("port").and_then(|port| port.parse().ok()),
            why: field("why"),
            count: field("count").and_then(|count| count.parse().ok()).unwrap_or(1),
            seconds: field("seconds").and_then(|seconds| seconds.parse().ok()),
        })
    }
}

/// Whether a word is a time as agents write it: `2026-11-21T13:54:34.167696Z`.
fn is_time(word: &str) -> bool {
    word.len() > 20 && word.ends_with('Z') && word.get(10..11) == Some("T")
}

/// The value of `name=value` or `name="value"`.
fn text_field(line: &str, name: &str) -> Option<String> {
    let mut rest = line;
    loop {
        let at = rest.find(&format!("{name}="))?;
        let begins = rest.get(..at)?.chars().next_back().is_none_or(char::is_whitespace);
        rest = rest.get(at + name.len() + 1..)?;
        // No name has quotation marks, so the first one ends the value.
        if begins {
            return match rest.strip_prefix('"') {
                Some(quoted) => Some(quoted.split('"').next()?.to_owned()),
                None => Some(rest.split_whitespace().next()?.to_owned()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"[pod/portcullis-node-x/agent] 2026-11-21T13:54:34.167696Z  INFO denied again node="n2" verdict="Denied" direction="Ingress" tier="NetworkPolicy" source="shop/web" source_address=10.9.1.2 destination="shop/api" destination_address=10.9.2.2 protocol="TCP" port=5432 why="isolated by shop/api; source=no" count=7 seconds=60"#;
    const JSON: &str = r#"{"timestamp":"2026-11-21T13:54:34.167696Z","level":"INFO","message":"denied again","node":"n2","verdict":"Denied","direction":"Ingress","tier":"NetworkPolicy","source":"shop/web","source_address":"10.9.1.2","destination":"shop/api","destination_address":"10.9.2.2","protocol":"TCP","port":5432,"why":"isolated by shop/api; source=no","count":7,"seconds":60}"#;

    #[test]
    fn both_formats_of_the_log_and_our_own_json_are_one_record() {
        let text = |text: &str| Some(text.to_owned());
        let expected = Record {
            api_version: API_VERSION,
            kind: "Denial",
            time: text("2026-11-21T13:54:34.167696Z"),
            node: text("n2"),
            verdict: "Denied".to_owned(),
            direction: text("Ingress"),
            tier: text("NetworkPolicy"),
            source: text("shop/web"),
            source_address: text("10.9.1.2"),
            destination: text("shop/api"),
            destination_address: text("10.9.2.2"),
            protocol: text("TCP"),
            port: Some(5432),
            why: text("isolated by shop/api; source=no"),
            count: 7,
            seconds: Some(60),
        };
        for line in [TEXT, JSON, &serde_json::to_string(&expected).expect("it is JSON")] {
            assert_eq!(Record::read(line).as_ref(), Some(&expected), "{line}");
        }
    }

    #[test]
    fn a_denial_that_could_not_be_named_is_a_record_and_other_lines_are_none() {
        let unnamed = r#"2026-11-21T13:54:34.167696Z  INFO denied, with no room to name them verdict="WouldDeny" direction="Egress" tier="Admin" count=3"#;
        let record = Record::read(unnamed).expect("a record");
        assert_eq!(
            (record.source, record.count, record.verdict),
            (None, 3, "WouldDeny".to_owned())
        );
        for line in ["INFO policies applied source=\"shop/web\"", "{\"message\":\"applied\"}", ""] {
            assert_eq!(Record::read(line), None, "{line}");
        }
    }
}
