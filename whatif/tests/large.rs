//! Answers about many objects: their size follows what differs, not how many pairs of pods there are.

#![allow(clippy::panic)] // all of it is test code

mod session;

use std::fmt::Write as _;
use std::io::Write as _;

const NAMESPACES: usize = 40;
const APPS: usize = 5;

/// Namespaces of a few apps; all policies that select them are in `policies`.
fn cluster() -> String {
    let mut text = String::new();
    for namespace in 0..NAMESPACES {
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: ns-{namespace}}}"
        );
        for app in 0..APPS {
            let _ = writeln!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: app-{app}, namespace: ns-{namespace}, \
                 labels: {{app: app-{app}}}}}\nspec: {{containers: [{{name: c, image: i}}]}}"
            );
        }
    }
    text
}

/// Each namespace allows one app of its own one port.
fn policies() -> String {
    let mut text = String::new();
    for namespace in 0..NAMESPACES {
        let _ = writeln!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: own, namespace: \
             ns-{namespace}}}\nspec:\n  podSelector: {{}}\n  ingress: [{{from: [{{podSelector: {{matchLabels: \
             {{app: app-0}}}}}}], ports: [{{port: {}}}]}}]",
            8000 + namespace
        );
    }
    text
}

fn run(line: &str, stdin: &str) -> String {
    let answer = session::run(line, stdin);
    session::text(&answer.stdout)
}

#[test]
fn an_answer_that_nobody_read_to_its_end_is_not_a_good_one() {
    let mut pods = String::new();
    for pod in 0..400 {
        let _ = writeln!(pods, "{{apiVersion: v1, kind: Pod, metadata: {{name: p-{pod}}}}}\n---");
    }
    let mut child =
        session::command("map -o csv --by pod -f -").spawn().expect("the binary is built");
    drop(child.stdout.take());
    child.stdin.take().expect("piped").write_all(pods.as_bytes()).expect("it reads all");
    let answer = child.wait_with_output().expect("it ends");
    assert_eq!(answer.status.code(), Some(141), "as of a program that SIGPIPE ends");
    assert_eq!(session::text(&answer.stderr).matches("error").count(), 0);
}

#[test]
fn json_of_a_map_has_edges_between_groups() {
    let found: serde_json::Value =
        serde_json::from_str(&run("map -o json -f -", &(cluster() + &policies()))).expect("JSON");
    let edges = found["edges"].as_array().expect("edges");
    let groups = found["groups"].as_array().expect("groups");
    let members: usize =
        groups.iter().map(|group| group["members"].as_array().expect("members").len()).sum();
    assert_eq!(members, NAMESPACES * APPS, "each pod is in one group");
    assert_eq!(groups.len(), NAMESPACES * 2, "app-0 and the others of each namespace");
    assert_eq!(edges.len(), NAMESPACES, "one for each policy");
    assert!(found.get("entries").is_none(), "pairs are written with --by");
    let pairs: serde_json::Value =
        serde_json::from_str(&run("map -o json --by pod -f -", &(cluster() + &policies())))
            .expect("JSON");
    let entries = pairs["entries"].as_array().expect("entries");
    assert_eq!(entries.len(), NAMESPACES * (APPS - 1), "each other pod of a namespace");
    assert!(pairs.get("groups").is_none());
}

/// Each namespace allows every pod of the cluster a port of its own: the set of all pods is written once.
#[test]
fn json_writes_a_set_of_peers_once() {
    let to_all =
        policies().replace("podSelector: {matchLabels: {app: app-0}}", "namespaceSelector: {}");
    let text = run("map -o json -f -", &(cluster() + &to_all));
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let edges = found["edges"].as_array().expect("edges");
    assert_eq!(edges.len(), NAMESPACES, "one for each policy");
    let listed: usize =
        edges.iter().map(|edge| edge["from"].as_array().expect("groups").len()).sum();
    assert_eq!(listed, NAMESPACES, "each from the group of all pods");
    let groups = found["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), NAMESPACES + 1, "the pods of each namespace, and all of them");
}

#[test]
fn a_large_plan_is_summed_up_by_namespace() {
    let directory = tempfile::tempdir().expect("a directory");
    let with = directory.path().join("policies.yaml");
    std::fs::write(&with, policies()).expect("it is written");
    let line = format!("plan -f - --with {}", with.display());
    let short = run(&line, &cluster());
    let wide = run(&format!("{line} -o wide"), &cluster());
    let first = short.lines().next().expect("a headline");
    // Every pod loses all others of other namespaces, and external addresses; 4 of each keep a port.
    let lost = NAMESPACES * APPS * (NAMESPACES * APPS - 1) - NAMESPACES * (APPS - 1);
    let closed = lost + NAMESPACES * APPS;
    assert!(first.contains(&format!("{closed} closed, 160 narrowed")), "{first}");
    assert_eq!(wide.lines().next(), Some(first));
    assert!(short.lines().count() < 60, "{short}");
    // All pairs of namespaces, and external addresses with each: 20 are shown.
    let more = NAMESPACES * NAMESPACES + NAMESPACES - 20;
    assert!(short.contains(&format!("… and {more} more pairs of namespaces")), "{short}");
    // Two namespaces lose 5 × 5 connections; within one, 4 of 20 keep a port.
    assert!(
        short.contains("ns-0 to ns-1: 25 closed\n  because of networkpolicy/ns-1/own added"),
        "{short}"
    );
    for namespace in 0..NAMESPACES {
        assert!(wide.contains(&format!("networkpolicy/ns-{namespace}/own added")), "{wide}");
    }
    assert!(!wide.contains(" more"), "-o wide writes every name");
}

#[test]
fn many_equal_risks_are_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let with = directory.path().join("policies.yaml");
    std::fs::write(&with, policies()).expect("it is written");
    // From a cluster with the policies to one without.
    let line = format!("plan -f - --before {} --after - --fail-on-empty=false", with.display());
    let answer = session::run(&line.replace("--after -", "--after /dev/null"), &cluster());
    let (text, odd) = (session::text(&answer.stdout), session::text(&answer.stderr));
    let lost = "no policy isolates it for ingress any more";
    assert_eq!(text.matches(lost).count(), 1, "{text}{odd}");
    assert!(text.contains("every pod\n    no policy"), "{text}");
}
