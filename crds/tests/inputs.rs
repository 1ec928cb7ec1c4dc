//! Whole files: what they become (`pass`), what a person reads about them (`fail`), and what their
//! YAML means to kubectl (`yaml`).

use std::fmt::Write as _;

use portcullis_crds::convert;
use portcullis_crds::manifest::{Document, Manifest, decode};
use serde_json::Value;

fn read(path: &str) -> String {
    let path = format!("{}/tests/inputs/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("the input exists")
}

/// The diagnostics of a file, one a line, with the fields as a terminal shows them.
fn diagnostics(name: &str) -> String {
    let manifest = Manifest::parse(name, &read(&format!("fail/{name}")));
    let converted = manifest.documents.iter().flat_map(|document| convert::document(document).1);
    let mut all: Vec<_> = manifest.diagnostics.iter().cloned().chain(converted).collect();
    all.sort_by_key(|diagnostic| diagnostic.source.as_ref().map(|origin| origin.line));
    all.iter().fold(String::new(), |mut text, diagnostic| {
        writeln!(text, "{diagnostic}").expect("a String takes any text");
        text
    })
}

#[test]
fn a_whole_shop_converts_without_a_word() {
    let manifest = Manifest::parse("shop.yaml", &read("pass/shop.yaml"));
    assert!(manifest.is_whole());
    let converted: Vec<_> = manifest.documents.iter().map(convert::document).collect();
    assert!(converted.iter().all(|(_, diagnostics)| diagnostics.is_empty()), "{converted:#?}");
    let objects: Vec<_> = converted.into_iter().map(|(object, _)| object).collect();
    insta::assert_debug_snapshot!(objects);
}

#[test]
fn bad_ports_are_told_one_by_one() {
    insta::assert_snapshot!(diagnostics("ports.yaml"));
}

#[test]
fn bad_peers_are_told_one_by_one() {
    insta::assert_snapshot!(diagnostics("peers.yaml"));
}

#[test]
fn a_bad_spec_is_told_with_what_it_isolates() {
    insta::assert_snapshot!(diagnostics("spec.yaml"));
}

#[test]
fn mistakes_in_policies_of_the_cluster_are_told_one_by_one() {
    insta::assert_snapshot!(diagnostics("tiers.yaml"));
}

#[test]
fn bad_documents_do_not_hide_the_others() {
    insta::assert_snapshot!(diagnostics("documents.yaml"));
}

/// The expectations are the answers of tests/kube/yaml, a program in Go that reads as kubectl does:
/// one element for each document. `stop` is where kubectl reads no further, and we may.
#[test]
fn yaml_means_what_it_means_to_kubectl() {
    let directory = format!("{}/tests/inputs/yaml", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in std::fs::read_dir(&directory).expect("the inputs exist") {
        let path = entry.expect("the directory can be read").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        files += 1;
        let bytes = std::fs::read(&path).expect("the input exists");
        let answers = std::fs::read(path.with_extension("json")).expect("the answers exist");
        let answers: Vec<Value> = serde_json::from_slice(&answers).expect("they are JSON");
        let expected: Vec<&Value> = answers.iter().filter_map(|found| found.get("value")).collect();
        let manifest = Manifest::parse(&path.to_string_lossy(), &decode(bytes));
        let documents = manifest.documents.iter().map(Document::value);
        let stops = answers.iter().any(|answer| answer.get("stop").is_some());
        let take = if stops { expected.len() } else { usize::MAX };
        assert_eq!(documents.take(take).collect::<Vec<_>>(), expected, "{}", path.display());
        let refused = answers.iter().filter(|answer| answer.get("value").is_none()).count();
        assert!(manifest.diagnostics.len() >= refused, "{}", path.display());
    }
    assert!(files > 20, "{files}");
}
