//! What the documents name is there, and what users meet (flags, metrics, reasons, the annotation)
//! is in the documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::CommandFactory as _;
use policy_engine::world::Options;
use portcullis_controller::cluster;
use portcullis_controller::dataplane::denial::Denial;
use portcullis_controller::node::metrics::Metrics;
use portcullis_controller::node::publisher::Publisher;
use portcullis_controller::node::signals::Signals;
use portcullis_controller::serve::pulse::Pulse;
use portcullis_crds::lean::MODE_ANNOTATION;
use portcullis_whatif::args::SourceArgs;
use portcullis_whatif::model::Cluster;
use portcullis_whatif::policytest::{self, Suite};
use portcullis_whatif::source;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use crate::root;

/// Flags that the documents show of other programs and of the demo, and what clap adds.
const FLAGS_OF_OTHERS: [&str; 40] = [
    "archive",
    "bench",
    "build-arg",
    "bundle",
    "cascade",
    "certificate-identity",
    "certificate-oidc-issuer",
    "check",
    "cleanup",
    "cni",
    "comment",
    "disable-network-policy",
    "families",
    "for",
    "help",
    "ignore-missing",
    "ignore-not-found",
    "kube-proxy",
    "kubernetes",
    "line-numbers",
    "manifest",
    "nocapture",
    "package",
    "pause",
    "platform",
    "prefix",
    "push",
    "release",
    "repo",
    "set",
    "since",
    "tail",
    "target",
    "test",
    "test-threads",
    "timeout",
    "topology",
    "type",
    "types",
    "version",
];

/// What may follow a name of a directory or file.
const ENDINGS: [&str; 6] = [".md", ".rs", ".sh", ".toml", ".txt", ".yaml"];

/// Where reasons of Events and conditions are made.
const REASONS: [&str; 5] = [
    "controller/src/cluster/findings/mod.rs",
    "controller/src/cluster/reports.rs",
    "controller/src/cluster/standing.rs",
    "controller/src/dataplane/conflict/judgement.rs",
    "controller/src/node/state.rs",
];

/// A file or directory of the repository, by its path from the root.
fn paths(below: &str, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(root().join(below))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if [".git", "target"].contains(&name.as_str()) {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            paths(&path, found)?;
        }
        found.insert(path);
    }
    Ok(())
}

pub(super) fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("failed to read {path}"))
}

/// Every document with its text.
fn documents() -> Result<Vec<(String, String)>> {
    let mut all = BTreeSet::new();
    paths("", &mut all)?;
    let documents = all.into_iter().filter(|path| path.strip_suffix(".md").is_some());
    let documents =
        documents.map(|path| Ok((path.clone(), read(&path)?))).collect::<Result<_>>()?;
    Ok(documents)
}

/// The text that a user looks in for an answer.
fn docs() -> Result<String> {
    let of_users = |path: &str| path == "README.md" || path.starts_with("docs/");
    let documents = documents()?.into_iter().filter(|(path, _)| of_users(path));
    Ok(documents.map(|(_, text)| text).collect())
}

/// The words of `text` made of letters and of what `also` accepts.
pub(super) fn words(text: &str, also: impl Fn(char) -> bool) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && !also(letter)).collect()
}

/// The long flags of a program and all its subcommands.
fn flags(command: &clap::Command, found: &mut BTreeSet<String>) {
    if command.is_hide_set() {
        return;
    }
    let named = command.get_arguments().filter_map(clap::Arg::get_long);
    found.extend(named.map(str::to_owned));
    command.get_subcommands().for_each(|command| flags(command, found));
}

/// The names under which `/metrics` shows a registry, without those of a histogram's parts.
pub(super) fn metrics(registry: &Registry) -> Result<BTreeSet<String>> {
    let mut shown = String::new();
    text::encode(&mut shown, registry)?;
    let mut names = BTreeSet::new();
    for line in shown.lines() {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        names.insert(match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        });
    }
    Ok(names)
}

/// Those of the agent and of the controller.
pub(super) fn registries() -> [Arc<Registry>; 2] {
    let of_controller = cluster::metrics::Metrics::default();
    for staged in cluster::metrics::Staged::all() {
        of_controller.cluster_policies.get_or_create(&staged).set(0);
    }
    let of_agent = Metrics::default();
    Denial::all().for_each(|denial| of_agent.denials.denied(denial, 0));
    let publisher = Publisher::new(of_agent.clone(), Pulse::default());
    let signals = Signals::new(publisher.subscribe(), Pulse::default(), Duration::ZERO);
    [of_agent.registry(signals), of_controller.registry()]
}

#[test]
fn every_flag_is_documented_and_every_documented_flag_exists() -> Result<()> {
    let mut known = BTreeSet::new();
    flags(&portcullis_controller::args::Cli::command(), &mut known);
    flags(&portcullis_whatif::args::Args::command(), &mut known);
    let is_part = |letter| letter == '-';
    let docs = docs()?;
    let named = words(&docs, is_part);
    let missing = known.iter().filter(|flag| !named.contains(format!("--{flag}").as_str()));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "flags that docs/ lacks");
    for (path, text) in documents()? {
        for flag in words(&text, is_part).iter().filter_map(|word| word.strip_prefix("--")) {
            let letters = flag.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
            if letters && flag.starts_with(|letter: char| letter.is_ascii_lowercase()) {
                let is_known = known.contains(flag) || FLAGS_OF_OTHERS.contains(&flag);
                assert!(is_known, "{path}: no program of ours has --{flag}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() -> Result<()> {
    let mut known = BTreeSet::new();
    for registry in registries() {
        known.extend(metrics(&registry)?);
    }
    ensure!(known.len() > 20, "{known:?}");
    let is_part = |letter| letter == '_';
    let docs = docs()?;
    let named = words(&docs, is_part);
    let missing = known.iter().filter(|metric| !named.contains(metric.as_str()));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "metrics that docs/ lacks");
    let mut all = documents()?;
    all.push(("deploy/alerts.yaml".to_owned(), read("deploy/alerts.yaml")?));
    for (path, text) in all {
        for name in words(&text, is_part) {
            let part = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            let is_known = known.contains(name) || part.is_some_and(|name| known.contains(name));
            assert!(is_known || !name.starts_with("portcullis_"), "{path}: no metric {name}");
        }
    }
    Ok(())
}

#[test]
fn every_label_of_an_alert_is_one_of_a_metric() -> Result<()> {
    let mut shown = String::new();
    for registry in registries() {
        text::encode(&mut shown, &registry)?;
    }
    let mut labels = 0;
    for line in read("deploy/alerts.yaml")?.lines().filter(|line| line.contains("portcullis_")) {
        let selectors = line.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        for label in selectors {
            ensure!(shown.contains(label), "no metric has {label}");
            labels += 1;
        }
    }
    ensure!(labels > 1, "only {labels} labels");
    Ok(())
}

#[test]
fn the_policy_test_that_is_shown_passes_in_the_world_that_is_named() -> Result<()> {
    let shown = read("docs/whatif.md")?;
    let test = shown.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let test = test.context("docs/whatif.md shows a test")?;
    let filename = vec![root().join("examples/shop")];
    let sources = source::read(&SourceArgs { filename, ..SourceArgs::default() })?;
    let cluster = Cluster::new(&sources.after, Options::default());
    for suite in Suite::read("docs/whatif.md", test)? {
        for outcome in policytest::run(&suite, &sources.after, &cluster)? {
            ensure!(outcome.passed(), "{outcome:#?}");
        }
    }
    Ok(())
}

#[test]
fn every_reason_and_the_annotation_are_documented() -> Result<()> {
    let docs = docs()?;
    let named = words(&docs, |_| false);
    let (mut reasons, mut missing) = (0, Vec::new());
    for path in REASONS {
        let source = read(path)?;
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for word in code.lines().flat_map(|line| line.split('"').skip(1).step_by(2)) {
            let is_name = word.chars().all(|letter| letter.is_ascii_alphabetic());
            if is_name && word.starts_with(|letter: char| letter.is_ascii_uppercase()) {
                missing.extend((!named.contains(word)).then(|| format!("{word} of {path}")));
                reasons += 1;
            }
        }
    }
    ensure!(reasons > 10, "only {reasons} reasons");
    assert_eq!(missing, Vec::<String>::new(), "what docs/ lacks");
    ensure!(docs.contains(MODE_ANNOTATION), "docs/ does not name {MODE_ANNOTATION}");
    Ok(())
}

/// `{a,b}.rs` stands for `a.rs` and `b.rs`.
fn expanded(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return vec![path.to_owned()] };
    inside.split(',').map(|word| format!("{before}{word}{after}")).collect()
}

/// Whether a path, or the end of one, leads to a directory or file; a module's needs no ending.
fn leads_somewhere(path: &str, all: &BTreeSet<String>) -> bool {
    let path = path.trim_end_matches('/');
    let is = |known: &String| {
        let known = known
            .strip_suffix(".rs")
            .filter(|_| path.strip_suffix(".rs").is_none())
            .unwrap_or(known);
        known.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    };
    all.iter().any(is)
}

#[test]
fn every_path_that_the_architecture_names_exists() -> Result<()> {
    let mut all = BTreeSet::new();
    paths("", &mut all)?;
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_./{},-".contains(letter);
    let mut seen = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        for line in read(document)?.lines() {
            for word in line.split('`').skip(1).step_by(2).filter(|word| word.chars().all(is_part))
            {
                if !word.contains('/') && !ENDINGS.iter().any(|ending| word.ends_with(ending)) {
                    continue;
                }
                for path in expanded(word) {
                    ensure!(leads_somewhere(&path, &all), "{document}: there is no {path}");
                    seen += 1;
                }
            }
        }
    }
    ensure!(seen > 60, "only {seen} paths were looked at");
    Ok(())
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then(|| letter.to_ascii_lowercase()),
    });
    kept.collect()
}

/// The parts of a link, or `None` for one that leads out of the repository.
fn local(link: &str) -> Option<(&str, Option<&str>)> {
    let is_outside = link.contains("://") || link.contains([' ', '\n']);
    (!is_outside).then(|| link.split_once('#').map_or((link, None), |(to, at)| (to, Some(at))))
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let mut seen = 0;
    for (document, text) in documents()? {
        let directory = Path::new(&document).parent().unwrap_or(Path::new(""));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for (to, at) in links.filter_map(local) {
            let target = if to.is_empty() { document.clone().into() } else { directory.join(to) };
            let target = root().join(target);
            ensure!(target.exists(), "{document}: there is no {to}");
            if let Some(at) = at {
                let headed = fs::read_to_string(&target)?;
                let mut headings = headed.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == at);
                ensure!(found, "{document}: {to} has no heading {at}");
            }
            seen += 1;
        }
    }
    ensure!(seen > 40, "only {seen} links were looked at");
    Ok(())
}
