//! The files for CI systems and for krew: they can be read, name only what exists, and the script that
//! they call fails when it should.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::CommandFactory as _;
use portcullis_crds::manifest::Manifest;
use portcullis_whatif::args::Args;
use serde_json::Value;

use super::session::text;
use super::{policy, write};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(name: &str) -> String {
    fs::read_to_string(root().join(name)).expect("the file")
}

fn yaml(text: &str) -> Value {
    let manifest = Manifest::parse("file", text);
    assert_eq!(manifest.diagnostics, []);
    manifest.documents.first().expect("a document").value().clone()
}

/// The words of `text` that begin with `prefix`, without it.
fn words<'t>(text: &'t str, prefix: &str) -> BTreeSet<&'t str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let found = text.match_indices(prefix).filter_map(|(at, _)| text.get(at + prefix.len()..));
    found.map(|rest| rest.split(|letter| !is_part(letter)).next().unwrap_or_default()).collect()
}

/// The lines that are not comments.
fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn the_script_names_only_flags_and_subcommands_that_exist() {
    let script = code(&file("deploy/ci/whatif.sh"));
    let mut called = words(&script, "\"$whatif\" ");
    called.extend(words(&script, "set -- plan").iter().map(|_| "plan"));
    called.remove("");
    assert_eq!(called, ["lint", "plan", "test"].into());
    let program = Args::command();
    let mut known = BTreeSet::new();
    for name in called {
        let command = program.find_subcommand(name).expect("a subcommand");
        known.extend(command.get_arguments().filter_map(clap::Arg::get_long));
    }
    let used = words(&script, " --");
    assert!(used.len() > 4, "{used:?}");
    for flag in used.iter().filter(|flag| !flag.is_empty()) {
        assert!(known.contains(flag), "--{flag}");
    }
}

#[test]
fn the_action_and_the_template_set_only_what_the_script_reads() {
    let script = file("deploy/ci/whatif.sh");
    let known = words(&script, "WHATIF_");
    let action = file("action.yml");
    for (name, of_its_own) in
        [("action.yml", vec![]), ("deploy/ci/gitlab.yml", vec!["SOURCE", "REVISION", "TOKEN"])]
    {
        let text = file(name);
        assert!(text.contains("deploy/ci/whatif.sh"), "{name}");
        for variable in words(&code(&text), "WHATIF_") {
            assert!(
                known.contains(variable) || of_its_own.contains(&variable),
                "{name}: {variable}"
            );
        }
        for variable in words(&code(&script), "${WHATIF_") {
            let is_needed = !["ANNOTATE"].contains(&variable) || name == "action.yml";
            assert!(
                !is_needed || text.contains(&format!("WHATIF_{variable}")),
                "{name}: {variable}"
            );
        }
    }
    let inputs = yaml(&action)["inputs"].as_object().expect("inputs").clone();
    let declared: BTreeSet<&str> = inputs.keys().map(String::as_str).collect();
    assert_eq!(words(&action, "inputs."), declared);
    assert_eq!(yaml(&action)["runs"]["using"], "composite");
    let steps = yaml(&action)["runs"]["steps"].as_array().expect("steps").clone();
    assert!(steps.iter().all(|step| step["shell"] == "bash"), "a composite action needs it");
    assert!(yaml(&file("deploy/ci/gitlab.yml"))[".kubectl-whatif"]["script"].is_array());
}

#[test]
fn the_manifest_of_krew_names_the_program() {
    let text = file(".krew.yaml");
    // krew-release-bot replaces these lines.
    let lines = text.lines().map(|line| {
        let is_replaced = line.trim_start().starts_with("{{addURIAndSha");
        if is_replaced { "      uri: https://example.com" } else { line }
    });
    let manifest = yaml(&lines.flat_map(|line| [line, "\n"]).collect::<String>());
    assert_eq!(manifest["kind"], "Plugin");
    assert_eq!(manifest["metadata"]["name"], "netpol-whatif");
    for platform in manifest["spec"]["platforms"].as_array().expect("platforms") {
        assert_eq!(platform["bin"], "kubectl-whatif");
    }
}

fn git(directory: &Path, words: &str) {
    let done = Command::new("git").current_dir(directory).args(words.split(' ')).output();
    let done = done.expect("git");
    assert!(done.status.success(), "{words}: {}", text(&done.stderr));
}

/// Runs the script in `directory`, with more variables; the exit code, the Markdown file, and what is
/// written to standard output.
fn script(directory: &Path, variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let Output { status, stdout, .. } = Command::new("sh")
        .arg(root().join("deploy/ci/whatif.sh").canonicalize().expect("a path"))
        .current_dir(directory)
        .envs([("WHATIF", env!("CARGO_BIN_EXE_kubectl-whatif")), ("WHATIF_BASE", "HEAD")])
        .envs([("WHATIF_PATH", "k8s"), ("WHATIF_CLUSTER", "world.yaml")])
        .envs([("WHATIF_OUTPUT", "out.md"), ("HOME", "/nowhere")])
        .envs(variables.iter().copied())
        .output()
        .expect("a shell");
    let markdown = fs::read_to_string(directory.join("out.md")).expect("the file");
    (status.code(), markdown, text(&stdout))
}

#[test]
fn the_script_fails_when_it_should() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    write(directory, "world.yaml", &file("whatif/tests/lint/world.yaml"));
    for words in
        ["init -q", "config user.email a@b", "config user.name a", "add -A", "commit -qm a"]
    {
        git(directory, words);
    }
    // The base lacks the directory: all of it is new.
    write(directory, "k8s/db.yaml", &policy("db", "api"));
    let none = [("WHATIF_LINT_FAIL_ON", "warning")];
    let (code, markdown, _) = script(directory, &none);
    assert_eq!(code, Some(0), "{markdown}");
    assert!(markdown.starts_with("<!-- kubectl-whatif -->\n## NetworkPolicies\n"), "{markdown}");
    assert!(markdown.contains("networkpolicy/shop/db added"), "{markdown}");
    let (code, ..) = script(directory, &[("WHATIF_FAIL_ON", "closed")]);
    assert_eq!(code, Some(1));
    let (code, ..) = script(directory, &[("WHATIF_FAIL_ON", "opened,dns")]);
    assert_eq!(code, Some(0));

    git(directory, "add -A");
    git(directory, "commit -qm b");
    fs::remove_file(directory.join("k8s/db.yaml")).expect("removed");
    write(directory, "k8s/none.yaml", &policy("none", "nobody"));
    let annotated = [("WHATIF_ANNOTATE", "github")];
    let (code, markdown, stdout) = script(directory, &annotated);
    assert!(markdown.contains("networkpolicy/shop/db removed"), "{markdown}");
    assert!(markdown.contains("### Lint") && markdown.contains("PCL201"), "{markdown}");
    assert!(stdout.contains("::warning file=k8s/none.yaml"), "{stdout}");
    assert_eq!(code, Some(1), "a finding");
    let (code, ..) = script(directory, &[("WHATIF_LINT_FAIL_ON", "never")]);
    assert_eq!(code, Some(0));

    let test = |expect: &str| {
        write(
            directory,
            "db.test.yaml",
            &format!(
                "{{apiVersion: whatif.portcullis.dev/v1alpha1, kind: PolicyTest, tests: [{{from: \
                 shop/web, to: shop/db, expect: {expect}}}]}}"
            ),
        );
        script(directory, &[("WHATIF_TESTS", "db.test.yaml"), ("WHATIF_LINT_FAIL_ON", "never")])
    };
    assert_eq!(test("denied").0, Some(0));
    let (code, markdown, _) = test("allowed");
    assert_eq!(code, Some(1));
    assert!(markdown.contains("### Tests"), "{markdown}");

    // What cannot be read may be anything.
    write(directory, "k8s/broken.yaml", "a: [\n");
    assert_eq!(script(directory, &[("WHATIF_LINT_FAIL_ON", "error")]).0, Some(1));
    assert_eq!(script(directory, &[("WHATIF", "/nowhere")]).0, Some(2));
}
