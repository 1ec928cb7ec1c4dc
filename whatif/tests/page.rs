//! The pages of `plan` and `map` in a real browser: what it shows, what it answers, what it refuses.
//!
//! Needs `chromium` in `PATH`; `tests/setup.sh` installs it.

mod browser;
mod pictures;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use browser::Browser;
use serde_json::Value;

/// The page of one plan, in a directory of its own.
struct Page {
    directory: tempfile::TempDir,
}

impl Page {
    /// Runs the real binary on two manifests.
    fn of(before: &str, change: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("before.yaml"), before).expect("written");
        std::fs::write(path("change.yaml"), change).expect("written");
        let mut plan = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"));
        plan.args(["plan", "-o", "html", "-f"]).arg(path("before.yaml"));
        let output = plan.arg("--with").arg(path("change.yaml")).output();
        Self::written(directory, &output.expect("the binary is built"))
    }

    /// The page of the small cluster of all tiers without one of its objects.
    fn of_tiers_without(object: &str) -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources");
        let mut plan = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"));
        plan.args(["plan", "-o", "html", "--without", object, "-f"]);
        let output = plan.arg(sources.join("tiers.yaml")).output();
        let directory = tempfile::tempdir().expect("a directory");
        Self::written(directory, &output.expect("the binary is built"))
    }

    fn written(directory: tempfile::TempDir, output: &Output) -> Self {
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(directory.path().join("plan.html"), &output.stdout).expect("written");
        Self { directory }
    }

    /// The page of the example that the golden sessions use.
    fn of_example() -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sources");
        let read = |name: &str| std::fs::read_to_string(sources.join(name)).expect("a source");
        Self::of(&read("plan-before.yaml"), &read("plan-change.yaml"))
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("plan.html")
    }

    fn open(&self) -> Browser {
        Browser::open(self.directory.path(), &self.file())
    }
}

/// The words of the matrix row whose header holds `name`, cell by cell.
const ROW: &str = "(name) => [...document.querySelectorAll('tbody tr')]
    .filter((row) => row.querySelector('th').textContent.includes(name))
    .map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent))[0] ?? null";

fn row(browser: &mut Browser, name: &str) -> Value {
    browser.evaluate(&format!("({ROW})({name:?})"))
}

fn text(browser: &mut Browser, selector: &str) -> String {
    let found = browser.evaluate(&format!("document.querySelector({selector:?}).innerText"));
    found.as_str().unwrap_or_default().to_owned()
}

fn click(browser: &mut Browser, selector: &str) {
    browser.evaluate(&format!("document.querySelector({selector:?}).click()"));
}

#[test]
fn a_page_opens_toggles_filters_and_explains() {
    let page = Page::of_example();
    let mut browser = page.open();
    assert_eq!(
        text(&mut browser, "#headline"),
        "1 opened, 3 closed, 2 narrowed; 2 risks; 2 objects differ."
    );
    assert!(text(&mut browser, "#risks").contains("DNS lost"));
    let about = text(&mut browser, "#about");
    for said in ["before.yaml --with", "change.yaml", env!("CARGO_PKG_VERSION"), "2 objects"] {
        assert!(about.contains(said), "{said} is not in: {about}");
    }
    // jobs, kube-system, shop, external addresses
    assert_eq!(row(&mut browser, "jobs"), serde_json::json!(["−1/1", "−1/1", "▼1/3", "−1/1"]));

    click(&mut browser, "[data-mode=before]");
    assert_eq!(row(&mut browser, "jobs"), serde_json::json!(["1/1", "1/1", "1/3", "1/1"]));
    click(&mut browser, "[data-mode=after]");
    assert_eq!(row(&mut browser, "jobs"), serde_json::json!(["", "", "1/3", ""]));
    click(&mut browser, "[data-mode=changed]");

    click(&mut browser, "tbody button[data-space=shop]");
    assert_eq!(
        row(&mut browser, "deployment/web"),
        serde_json::json!(["", "", "▼1/2", "▼", "", ""])
    );
    click(&mut browser, "td[aria-label^='from shop/deployment/web to shop/deployment/api']");
    let why = text(&mut browser, "#why");
    for said in ["narrowed", "8080/TCP, 9090/TCP", "networkpolicy/shop/api modified", "shop/api"] {
        assert!(why.contains(said), "{said} is not in: {why}");
    }

    browser.evaluate(
        "(() => { const filter = document.getElementById('filter'); filter.value = 'coredns';
           filter.dispatchEvent(new Event('input')); })()",
    );
    assert_eq!(row(&mut browser, "shop"), Value::Null);
    assert_ne!(row(&mut browser, "cronjob/report"), Value::Null);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn nodes_have_columns_of_their_own() {
    let page = Page::of_tiers_without("cnp/edge");
    let mut browser = page.open();
    // Only the edge node n1 is told, by the DNS pod; `the nodes` is a column, and no row.
    assert_eq!(row(&mut browser, "kube-system"), serde_json::json!(["+1/1"]));
    assert_eq!(row(&mut browser, "the nodes"), Value::Null);
    click(&mut browser, "#open-all");
    click(&mut browser, "td[aria-label^='from kube-system/pod/coredns to node/n1: opened']");
    let why = text(&mut browser, "#why");
    for said in ["kube-system/pod/coredns → node/n1", "every port", "clusternetworkpolicy/edge"] {
        assert!(why.contains(said), "{said} is not in: {why}");
    }
    assert!(!why.contains("Ingress of node/n1"), "{why}");
    // What does not change is told too.
    click(&mut browser, "[data-mode=after]");
    let after = |browser: &mut Browser, from: &str| {
        let cell = format!("td[aria-label^='from {from} to node/n1']");
        let label = format!("document.querySelector({cell:?}).getAttribute('aria-label')");
        browser.evaluate(&label).as_str().unwrap_or_default().to_owned()
    };
    let found = after(&mut browser, "shop/pod/web");
    assert_eq!(found, "from shop/pod/web to node/n1: nothing");
    let found = after(&mut browser, "external addresses");
    assert_eq!(found, "from external addresses to node/n1: NetworkPolicies do not apply to it");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_page_holds_all_that_it_needs() {
    let page = Page::of_example();
    let text = std::fs::read_to_string(page.file()).expect("a page");
    for word in ["http://", "https://", "src=", "href=", "url(", "@import", "innerHTML", "eval("] {
        assert!(!text.contains(word), "{word}");
    }
    assert!(text.contains("default-src 'none'; script-src 'sha256-"));
}

#[test]
fn a_page_is_read_by_keyboard_alone() {
    let page = Page::of_example();
    let mut browser = page.open();
    let focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.id \
                   ?? document.activeElement.textContent";
    let mut passed = Vec::new();
    // The radio group, the filter, two buttons, four columns, one row header: then the first cell.
    for _ in 0..20 {
        browser.press("Tab");
        let at = browser.evaluate(focused).as_str().unwrap_or_default().to_owned();
        let arrived = at.starts_with("from jobs/* to jobs/*");
        passed.push(at);
        if arrived {
            break;
        }
    }
    assert!(passed.last().is_some_and(|at| at.starts_with("from jobs/*")), "{passed:?}");
    browser.press("ArrowDown");
    browser.press("ArrowRight");
    browser.press("ArrowRight");
    assert_eq!(browser.evaluate(focused), "from shop/* to shop/*: 1 narrowed of 6 pairs");
    browser.press("Enter");
    assert!(text(&mut browser, "#why").contains("shop/deployment/web → shop/deployment/api"));
    let roles = browser.evaluate(
        "['grid', 'gridcell', 'rowheader', 'columnheader', 'radiogroup', 'radio']
            .filter((role) => !document.querySelector(`[role=${role}]`))",
    );
    assert_eq!(roles, serde_json::json!([]), "roles that are missing");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_malicious_name_is_text_and_runs_nothing() {
    let evil =
        "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>{{csp}}";
    let before = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: {evil:?}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: db}}}}\n"
    );
    let change = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{namespace: shop, name: {evil:?}}}\nspec: {{podSelector: {{}}}}\n"
    );
    let page = Page::of(&before, &change);
    let mut browser = page.open();
    click(&mut browser, "#open-all");
    click(&mut browser, "td.closed[aria-label*='/db']:not([aria-label*='*'])");
    let all = text(&mut browser, "body");
    let times = all.matches("<img src=x onerror=alert(1)>").count();
    assert!(times > 2, "the name shows as it is: {all}");
    let made = browser.evaluate("document.querySelectorAll('img, script:not([id])').length");
    assert_eq!(made, 1, "nothing but the script of the page");
    assert_eq!(browser.evaluate("document.title"), "What if: connections before and after");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_policy_of_the_page_refuses_what_is_not_its_own() {
    let page = Page::of_example();
    let mut browser = page.open();
    browser.evaluate(
        "(() => { const script = document.createElement('script');
           script.textContent = \"document.title = 'owned'\"; document.body.append(script);
           const image = document.createElement('img'); image.src = 'file:///nowhere.png';
           document.body.append(image); })()",
    );
    assert_eq!(browser.evaluate("document.title"), "What if: connections before and after");
    let complaints = browser.complaints();
    assert!(complaints.iter().any(|c| c.contains("script-src")), "{complaints:?}");
    assert!(complaints.iter().any(|c| c.contains("default-src")), "{complaints:?}");
}

/// 500 workloads, each with a policy; the change touches every tenth.
fn large() -> (String, String) {
    let (mut before, mut change) = (String::new(), String::new());
    for number in 0..500 {
        let (namespace, app) = (format!("team-{:02}", number / 25), format!("app-{number:03}"));
        let next = format!("app-{:03}", number / 25 * 25 + (number + 1) % 25);
        let _ = writeln!(
            before,
            "---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {app}, namespace: \
             {namespace}}}, spec: {{template: {{metadata: {{labels: {{app: {app}}}}}, spec: \
             {{containers: [{{name: c}}]}}}}}}}}"
        );
        let policy = |peers: &str| {
            format!(
                "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: \
                 {app}, namespace: {namespace}}}, spec: {{podSelector: {{matchLabels: {{app: \
                 {app}}}}}, ingress: [{{from: [{peers}], ports: [{{port: {number}}}]}}]}}}}\n",
                number = 8000 + number
            )
        };
        before += &policy(&format!("{{podSelector: {{matchLabels: {{app: {next}}}}}}}"));
        if number % 10 == 0 {
            change += &policy("{namespaceSelector: {}}");
        }
    }
    (before, change)
}

#[test]
fn five_hundred_workloads_open_in_reasonable_time() {
    /// Far above what it takes, for machines that do other things too.
    const LIMIT: Duration = Duration::from_secs(10);
    let (before, change) = large();
    let page = Page::of(&before, &change);
    let started = Instant::now();
    let mut browser = page.open();
    println!("with the start of the browser: {:?}", started.elapsed());
    let drawn = |browser: &mut Browser| {
        browser.evaluate("document.getElementsByTagName('*').length").as_u64().unwrap_or(u64::MAX)
    };
    let mut steps = vec![("closed", Duration::ZERO, drawn(&mut browser))];
    for (name, selector) in [
        ("all open", "#open-all"),
        ("before", "[data-mode=before]"),
        ("after", "[data-mode=after]"),
    ] {
        let started = Instant::now();
        click(&mut browser, selector);
        steps.push((name, started.elapsed(), drawn(&mut browser)));
    }
    println!("{steps:?}");
    for (name, took, elements) in steps {
        assert!(took < LIMIT, "{name} took {took:?}");
        // 500 × 500 cells would be 250,000.
        assert!(elements < 5_000, "{name} has {elements} elements");
    }
    assert!(started.elapsed() < LIMIT * 3);
    assert!(text(&mut browser, "#pager").contains("of 521"));
    click(&mut browser, "#pager button[aria-label='next rows']");
    assert!(text(&mut browser, "#pager").contains("61–120 of 521"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
