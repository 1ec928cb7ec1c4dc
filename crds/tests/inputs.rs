//! Whole files: what they become (`pass`), and what a person reads about them (`fail`).

use std::fmt::Write as _;

use portcullis_crds::convert;
use portcullis_crds::manifest::Manifest;

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
