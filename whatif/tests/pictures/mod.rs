//! `map` as a page and as a picture.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::browser::Browser;
use super::{click, row, text};

/// What `map` answers about a manifest, and the directory that the manifest is in.
fn map(manifest: &str, format: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("all.yaml");
    std::fs::write(&path, manifest).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"));
    let output = command.args(["map", "-o", format, "-f"]).arg(&path).output();
    let output = output.expect("the binary is built");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    (directory, String::from_utf8(output.stdout).expect("text"))
}

fn open(directory: &tempfile::TempDir, page: &str) -> Browser {
    let file = directory.path().join("map.html");
    std::fs::write(&file, page).expect("written");
    Browser::open(directory.path(), &file)
}

fn example() -> String {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources");
    std::fs::read_to_string(sources.join("plan-before.yaml")).expect("a source")
}

#[test]
fn a_map_is_a_page_of_one_state() {
    let (directory, page) = map(&example(), "html");
    let mut browser = open(&directory, &page);
    assert_eq!(text(&mut browser, "#headline"), "5 workloads in 3 namespaces");
    let about = text(&mut browser, "#about");
    for said in ["all.yaml", "20", "Z", env!("CARGO_PKG_VERSION")] {
        assert!(about.contains(said), "{said} is not in: {about}");
    }
    assert_eq!(browser.evaluate("document.getElementById('modes').offsetParent"), Value::Null);
    // As in the state before of the plan's page.
    assert_eq!(row(&mut browser, "jobs"), json!(["1/1", "1/1", "1/3", "1/1"]));
    click(&mut browser, "#open-all");
    click(&mut browser, "td[aria-label^='from shop/deployment/web to shop/deployment/api']");
    let why = text(&mut browser, "#why");
    assert!(why.contains("8080/TCP, 9090/TCP") && !why.contains("before"), "{why}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_long_name_keeps_its_end_and_has_a_tooltip() {
    let name = format!("begin-{}-end-7", "x".repeat(60));
    let manifest =
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}}}");
    let (directory, page) = map(&manifest, "html");
    let mut browser = open(&directory, &page);
    click(&mut browser, "#open-all");
    let header = "document.querySelector('tbody th[title*=\"/pod/\"]')";
    assert_eq!(browser.evaluate(&format!("{header}.title")), format!("shop/pod/{name}"));
    let shown = browser.evaluate(&format!("{header}.textContent"));
    let shown = shown.as_str().expect("text");
    assert!(shown.starts_with("pod/begin-") && shown.ends_with("x-end-7"), "{shown}");
    assert!(shown.contains('…') && shown.chars().count() < 40, "{shown}");

    let (_, picture) = map(&manifest, "svg");
    assert!(picture.contains(&format!("<title>shop/{name}")), "{picture}");
    assert!(picture.contains("x-end-7<title>"), "{picture}");
}

#[test]
fn a_picture_is_well_formed_whatever_names_contain() {
    let evil = "</text><script>alert(1)</script>&lt;\\\"";
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: \"{evil}\", namespace: shop}}}}\n---\n{}",
        example()
    );
    let (_, picture) = map(&manifest, "svg");
    let (directory, page) = map(&manifest, "html");
    let mut browser = open(&directory, &page);
    let parsed = format!(
        "(() => {{ const parsed = new DOMParser().parseFromString({}, 'image/svg+xml');
           const texts = [...parsed.querySelectorAll('title')].map((one) => one.textContent);
           return [parsed.documentElement.tagName, parsed.querySelectorAll('script').length,
             parsed.querySelectorAll('path.arrow').length, texts.filter((text) =>
             text.includes('<script>')).length]; }})()",
        Value::from(picture)
    );
    let found = browser.evaluate(&parsed);
    assert_eq!((&found[0], &found[1]), (&json!("svg"), &json!(0)));
    assert!(found[2].as_u64() > Some(0) && found[3].as_u64() > Some(0), "{found}");
}

#[test]
fn pages_and_pictures_are_of_whole_maps() {
    for (question, format) in [(["who", "shop/web"], "html"), (["reach", "shop/web"], "svg")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources");
        let command = command.args(question).args(["-o", format, "-f"]);
        let output = command.arg(sources.join("plan-before.yaml")).output();
        let output = output.expect("the binary is built");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("`kubectl whatif map` only"));
    }
}

#[test]
fn a_picture_has_few_arrows_however_many_connections_there_are() {
    let mut manifest = String::new();
    for namespace in 0..30 {
        for app in ["web", "api", "db", "metrics"] {
            let _ = write!(
                manifest,
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {app}, namespace: ns-{namespace}, \
                 labels: {{app: {app}}}}}}}\n---\n"
            );
        }
        let policy = |name: &str, app: &str, peer: &str, port: u16| {
            format!(
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
                 namespace: ns-{namespace}}}, spec: {{podSelector: {app}, ingress: [{{from: [{peer}], \
                 ports: [{{port: {port}}}]}}]}}}}\n---\n"
            )
        };
        let app = |name: &str| format!("{{matchLabels: {{app: {name}}}}}");
        let everywhere = format!("{{namespaceSelector: {{}}, podSelector: {}}}", app("metrics"));
        let near = |name: &str| format!("{{podSelector: {}}}", app(name));
        manifest += &policy("metrics", "{}", &everywhere, 9090);
        manifest += &policy("api", &app("api"), &near("web"), 8080);
    }
    let (_, picture) = map(&manifest, "svg");
    let arrows = picture.matches("class=\"arrow").count();
    assert!(arrows <= 400, "{arrows} arrows");
    assert_eq!(picture.matches(" ⇄ all<title>").count(), 30);
    assert!(picture.contains("<title>8080/TCP from ns-7/pod/web to ns-7/pod/api</title>"));
}

#[test]
fn a_single_namespace_is_open() {
    let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}}\n---\n\
                    {apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop}}\n";
    let (directory, page) = map(manifest, "html");
    let mut browser = open(&directory, &page);
    let header = "document.querySelector('tbody th[title=\"shop/pod/b\"]') !== null";
    assert_eq!(browser.evaluate(header), true);
}
