//! Findings of objects in the cluster of the examples of docs/lint.md.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use crate::session::{run, text};

pub(crate) const WORLD: &str = "whatif/tests/lint/world.yaml";

pub(crate) fn json(line: &str, input: &str) -> Value {
    let Output { stdout, stderr, .. } = run(line, input);
    let answer = serde_json::from_slice(&stdout);
    answer.inspect_err(|_| println!("{line}: {}", text(&stderr))).expect("JSON")
}

/// A policy in the cluster of the examples, and the codes that it has.
#[track_caller]
pub(crate) fn check(policy: &str, expected: &[&str]) {
    let policy = format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, {policy}}}");
    let answer = json(&format!("lint -o json --disable PCL103 -f {WORLD} -f -"), &policy);
    let findings = answer["findings"].as_array().expect("findings");
    let codes: BTreeSet<&str> = findings.iter().filter_map(|one| one["code"].as_str()).collect();
    assert_eq!(codes, expected.iter().copied().collect(), "{policy}: {findings:#?}");
}

/// A policy for egress of the web pods with these rules.
pub(crate) fn egress(rules: &str) -> String {
    format!(
        "metadata: {{name: e, namespace: shop}}, spec: {{podSelector: {{matchLabels: {{app: web}}}}, \
         policyTypes: [Egress], egress: [{rules}]}}"
    )
}

/// Objects in the cluster of the examples, and the codes that they have with those objects.
#[track_caller]
pub(crate) fn check_all(objects: &[&str], more: &str, expected: &[(&str, &str)]) {
    let answer = json(&format!("lint -o json -f {WORLD} -f - {more}"), &objects.join("\n---\n"));
    let findings = answer["findings"].as_array().expect("findings");
    let text = |one: &Value, field: &str| one[field].as_str().expect(field).to_owned();
    let found: BTreeSet<_> =
        findings.iter().map(|one| (text(one, "code"), text(one, "object"))).collect();
    let expected: BTreeSet<_> =
        expected.iter().map(|(code, object)| ((*code).to_owned(), (*object).to_owned())).collect();
    assert_eq!(found, expected, "{objects:?}: {findings:#?}");
}
