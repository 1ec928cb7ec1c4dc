//! `snapshot`: what it writes is enough for every answer, and holds nothing else.

mod session;

use std::fs;

use session::{run, text};

/// Whether questions about the snapshot of `source` are answered as about `source` itself.
fn check_equal(source: &str, questions: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("cluster.yaml");
    let file = file.to_str().expect("UTF-8");
    let written = run(&format!("snapshot -o {file} -f {source}"), "");
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    for question in questions {
        let [of_source, of_snapshot] =
            [source, file].map(|source| run(&format!("{question} -f {source}"), ""));
        let [of_source_text, of_snapshot_text] =
            [&of_source, &of_snapshot].map(|output| without_places(&output.stdout));
        assert_eq!(of_snapshot_text, of_source_text, "{question}");
        assert_eq!(of_snapshot.status.code(), of_source.status.code(), "{question}");
    }
    // A snapshot of a snapshot is the same.
    let again = run(&format!("snapshot -o - -f {file}"), "");
    assert_eq!(text(&again.stdout), fs::read_to_string(file).expect("written"));
}

/// What was written, without the lines that say where a rule stands.
fn without_places(bytes: &[u8]) -> String {
    let text = text(bytes);
    let lines =
        text.lines().filter(|line| !line.contains("origin") && !line.contains("closest is"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_snapshot_answers_as_its_source() {
    check_equal(
        "examples/shop",
        &["map -o csv --by pod", "reach external -o csv", "check node/n1 shop/db-1 -o json"],
    );
    check_equal(
        "whatif/tests/sources/running.yaml",
        &["map -o csv", "who shop/db -o csv --by pod", "check 10.1.0.1 10.1.0.3:5432"],
    );
    check_equal(
        "whatif/tests/sources/kinds.yaml",
        &["map -o csv", "check -n shop nightly svc/front:80", "check infra/ds/logs shop/db:5432"],
    );
}

#[test]
fn a_snapshot_keeps_tiers_and_modes() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["tiers", "audit"] {
        let source = format!("{}/tests/sources/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let to = directory.path().join(format!("{name}.yaml"));
        fs::copy(source, to).expect("copied");
    }
    let questions = [
        "map -o csv",
        "check jobs/report shop/db:5432 -o json",
        "check shop/web shop/db:5432 -o json",
        "check shop/web node/n1:80 -o json",
        "plan --audit -o json",
    ];
    check_equal(directory.path().to_str().expect("UTF-8"), &questions);
}

const SECRETS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {"on": "yes"}, annotations: {note: s3cret}}
spec:
  containers: [{name: a, args: [--token=s3cret], env: [{name: T, value: s3cret}], ports: [{containerPort: 80}]}]
---
{apiVersion: v1, kind: Secret, metadata: {name: s3cret}, stringData: {a: s3cret}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: s3cret}}
"#;

#[test]
fn a_snapshot_holds_no_secret() {
    let written = run("snapshot -o - -n shop -f -", SECRETS);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
    insta::assert_snapshot!(text(&written.stdout));
    let empty = run("snapshot -o - -f -", "{apiVersion: v1, kind: Secret, metadata: {name: a}}");
    assert_eq!(empty.status.code(), Some(2), "{}", text(&empty.stdout));
}
