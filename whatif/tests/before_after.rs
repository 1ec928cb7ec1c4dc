//! `plan --before … --after …`: an object that only the side before contains is removed.

mod ci;
mod released;
mod session;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use session::{run, text};

const WORLD: &str = "whatif/tests/lint/world.yaml";

/// A NetworkPolicy of the database that lets `app` connect to it.
fn policy(name: &str, app: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
         namespace: shop}}, spec: {{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{{from: \
         [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}]}}}}\n---\n"
    )
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::create_dir_all(directory.join(name).parent().expect("a directory")).expect("created");
    fs::write(directory.join(name), text).expect("written");
}

#[track_caller]
fn plan(flags: &str, code: i32, part: &str) {
    let Output { status, stdout, stderr } = run(&format!("plan {flags}"), "");
    let written = text(&stderr) + &text(&stdout);
    assert!(written.contains(part), "{flags}: {written}");
    assert_eq!(status.code(), Some(code), "{flags}: {written}");
}

#[test]
fn a_policy_that_only_the_side_before_contains_is_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().display();
    write(directory.path(), "old/db.yaml", &policy("db", "api"));
    write(directory.path(), "old/other.yaml", &policy("other", "nobody"));
    write(directory.path(), "new/other.yaml", &policy("other", "nobody"));
    write(directory.path(), "more/db.yaml", &policy("db", "none"));
    write(directory.path(), "none/values.yaml", "a: 1\n");
    let sides = format!("--before {dir}/old --after {dir}/new");
    let removed = format!("networkpolicy/shop/db removed ({dir}/old/db.yaml:1:1)");
    plan(&format!("-f {WORLD} {sides}"), 1, &removed);
    plan(&format!("-f {WORLD} {sides}"), 1, "1 object differs");
    plan(&format!("-f {WORLD} {sides} --fail-on opened"), 0, "closed");
    plan(&format!("-f {WORLD} {sides} --fail-on closed"), 1, "closed");
    // Both flags can be repeated, and what the cluster has of the side before is removed too.
    plan(&format!("-f {WORLD} {sides} --after {dir}/more"), 1, "networkpolicy/shop/db modified");
    plan(&format!("-f {WORLD} -f {dir}/old {sides}"), 1, &removed);
    plan(&format!("-f {WORLD} --before {dir}/old --after {dir}/old"), 0, "no object differs");
    // All at once.
    let all = format!("-f {WORLD} --before {dir}/old --after {dir}/none");
    plan(&all, 2, "contains no Kubernetes object");
    plan(&format!("{all} --fail-on-empty=false"), 1, "2 objects differ");
    plan(&format!("-f {WORLD} --before {dir}/old"), 2, "--after");
}

#[test]
fn every_format_and_the_hypothesis_work_with_two_sides() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().display();
    write(directory.path(), "old/db.yaml", &policy("db", "api"));
    write(directory.path(), "new/other.yaml", &policy("other", "nobody"));
    let sides = format!("-f {WORLD} --before {dir}/old --after {dir}/new");
    let formats = [
        ("json", "\"change\": \"Removed\""),
        ("yaml", "change: Removed"),
        ("md", "networkpolicy/shop/db"),
        ("html", "<html"),
    ];
    for (format, part) in formats {
        plan(&format!("{sides} -o {format}"), 1, part);
    }
    plan(&format!("{sides} --without netpol/shop/other"), 1, "opened");
    plan(&format!("{sides} --with {dir}/old --without netpol/shop/other"), 0, "no object differs");
}

#[test]
fn pods_come_from_the_sides_or_are_missed() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().display();
    write(directory.path(), "old/db.yaml", &policy("db", "api"));
    write(directory.path(), "new/other.yaml", &policy("other", "nobody"));
    // Neither side has a pod: the cluster of the kubeconfig is asked, and there is none.
    plan(&format!("--before {dir}/old --after {dir}/new"), 2, "no source");
    let world = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(WORLD));
    let world = world.expect("the world");
    write(directory.path(), "old/world.yaml", &world);
    write(directory.path(), "new/world.yaml", &world);
    plan(&format!("--before {dir}/old --after {dir}/new"), 1, "networkpolicy/shop/db removed");
    // Without pods, no answer is a good one.
    let blind =
        format!("-f {dir}/new/other.yaml --before {dir}/old/db.yaml --after {dir}/new/other.yaml");
    plan(&blind, 3, "no pods and no workloads");
}

fn git(directory: &Path, arguments: &[&str]) {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
        .args(arguments)
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_side_can_be_a_git_revision() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    git(root, &["init", "--quiet", "."]);
    write(root, "deploy/a b/db.yaml", &policy("db", "api"));
    write(root, "deploy/.hidden.yaml", &policy("hidden", "api"));
    write(root, "deploy/kustomization.yaml", "resources: []\n");
    write(root, "deploy/other.yml", &policy("other", "nobody"));
    write(root, "README.md", "not a manifest\n");
    git(root, &["add", "."]);
    git(root, &["commit", "--quiet", "--message", "one"]);
    git(root, &["tag", "v1"]);
    git(root, &["rm", "--quiet", "deploy/a b/db.yaml"]);
    git(root, &["commit", "--quiet", "--message", "two"]);
    let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(WORLD);
    let ask = |directory: &Path, before: &str, after: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"))
            .current_dir(directory)
            .args(["plan", "--before", before, "--after", after, "-f"])
            .arg(&world)
            .output()
            .expect("the binary is built");
        (output.status.code(), text(&output.stderr) + &text(&output.stdout))
    };
    let removed = "networkpolicy/shop/db removed (git:";
    for (directory, before, after) in [
        (root, "git:v1:deploy", "git:HEAD:deploy"),
        (root, "git:v1:.", "deploy"),
        (root, "git:HEAD~1:deploy/", "git:HEAD:deploy/other.yml"),
    ] {
        let (code, written) = ask(directory, before, after);
        let place =
            format!("{removed}{}:deploy/a b/db.yaml:1:1)", before.split(':').nth(1).unwrap());
        assert!(written.contains(&place) && written.contains("1 object differs"), "{written}");
        assert_eq!(code, Some(1), "{before} {after}: {written}");
    }
    let below = root.join("deploy");
    let (code, written) = ask(&below, "git:v1:.", "git:HEAD:.");
    assert!(written.contains("removed (git:v1:a b/db.yaml:1:1)"), "{written}");
    assert_eq!(code, Some(1));
    for (before, problem) in [
        ("git:nowhere:deploy", "`nowhere` is not a revision"),
        ("git:--help:deploy", "`--help` is not a revision"),
        ("git:v1:nowhere", "git:v1:nowhere contains no file that ends in .yaml, .yml or .json"),
        ("git:v1", "write git:REV:PATH"),
    ] {
        let (code, written) = ask(root, before, "deploy");
        assert!(written.contains(problem), "{written}");
        assert_eq!(code, Some(2), "{before}: {written}");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("other.yml", root.join("deploy/link.yaml")).expect("linked");
        git(root, &["add", "."]);
        git(root, &["commit", "--quiet", "--message", "three"]);
        let (code, written) = ask(root, "git:HEAD:deploy", "git:HEAD:deploy");
        assert!(
            written.contains("git:HEAD:deploy/link.yaml:1:1: error: is a symbolic"),
            "{written}"
        );
        assert_eq!(code, Some(3), "{written}");
    }
}
