//! Findings that somebody accepted: by an annotation, or by a report from earlier; and codes that
//! explain themselves.

mod session;

use portcullis_lint::Code;
use session::{run, text};

const WORLD: &str = "-f whatif/tests/lint/world.yaml -f - --disable PCL103";

/// A NetworkPolicy that selects nothing.
fn policy(name: &str, annotation: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
         namespace: shop, annotations: {{portcullis.dev/lint-ignore: '{annotation}'}}}}, spec: \
         {{podSelector: {{matchLabels: {{app: {name}-none}}}}}}}}\n---\n"
    )
}

#[track_caller]
fn check(flags: &str, input: &str, code: i32, part: &str) {
    let answer = run(&format!("lint {WORLD} {flags}"), input);
    let written = text(&answer.stderr) + &text(&answer.stdout);
    assert!(written.contains(part), "{written}");
    assert_eq!(answer.status.code(), Some(code), "{written}");
}

#[test]
fn an_annotation_accepts_findings_of_its_object() {
    check("", &policy("a", ""), 1, "PCL101");
    check("", &policy("a", "PCL205, PCL101"), 0, "note: 1 finding is ignored by annotations");
    check("", &policy("a", "selects-nothing"), 0, "Nothing found");
    check("", &policy("a", "PCL205"), 1, "PCL101");
    check("", &(policy("a", "PCL101") + &policy("b", "")), 1, "NetworkPolicy shop/b");
    check("", &policy("a", "PCL999"), 1, "`PCL999` is not a list of codes");
}

#[test]
fn a_baseline_accepts_what_a_report_has() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("baseline.json");
    let report = run(&format!("lint {WORLD} -o json"), &policy("a", ""));
    std::fs::write(&path, &report.stdout).expect("written");
    let baseline = format!("--baseline {}", path.display());
    check(&baseline, &policy("a", ""), 0, "note: 1 finding is in the baseline");
    // Its line may change.
    check(&baseline, &format!("# a comment\n\n{}", policy("a", "")), 0, "Nothing found");
    check(&baseline, &(policy("a", "") + &policy("b", "")), 1, "1 warning found");
    std::fs::write(&path, "{}").expect("written");
    check(&baseline, &policy("a", ""), 2, "is not a report of `kubectl whatif lint -o json`");
}

#[test]
fn every_code_explains_itself_without_a_source() {
    for code in Code::ALL {
        let answer = run(&format!("lint --explain {code}"), "");
        let written = text(&answer.stdout);
        assert!(written.starts_with(&format!("## {code} {}\n", code.name())), "{written}");
        assert_eq!(written.matches("\n## ").count(), 0, "{written}");
        assert!(written.contains("Good:"), "{written}");
    }
    let answer = run("lint --explain PCL999", "");
    assert!(text(&answer.stderr).contains("there is no such code"));
}
