//! The live page of `ui` in a real browser, beside an API server that answers as a test needs it.
//!
//! Needs `chromium` in `PATH`; `tests/setup.sh` installs it.

#[expect(dead_code, reason = "these tests use a part of it")]
mod browser;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use browser::Browser;
use serde_json::{Value, json};

/// What no page may take for more than text.
const EVIL: &str = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>";
/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// An API server of two nodes, one policy, and one agent that logs what a test says.
#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The generation that the node reports.
    applied: i64,
    /// The connections that follow the log of the agent.
    followers: Vec<TcpStream>,
    /// Whether it answers anything but errors.
    is_down: bool,
}

impl Server {
    /// Starts it; and the kubeconfig for it.
    fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Self(Arc::default());
        let serving = server.clone();
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let server = serving.clone();
                // What the client does not read any more is no failure.
                thread::spawn(move || server.answer(connection));
            }
        });
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "a", "user": {}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        (server, kubeconfig.to_string())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Has the agent log a line.
    fn log(&self, line: &str) {
        let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
        self.change(|state| {
            for follower in &mut state.followers {
                follower.write_all(chunk.as_bytes()).expect("it is followed");
            }
        });
    }

    fn answer(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let mut head = BufReader::new(connection.try_clone()?).lines();
        let request = head.next().transpose()?.unwrap_or_default();
        while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = if state.is_down { None } else { objects(&path, state.applied) };
        if let Some(items) = found {
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
            let body = list.to_string();
            return write!(
                connection,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            );
        }
        if path.contains("/log?") && !state.is_down {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            connection.write_all(head.as_bytes())?;
            state.followers.push(connection);
            return Ok(());
        }
        connection.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    }
}

/// The objects at a path; `None` if it is not a list.
fn objects(path: &str, applied: i64) -> Option<Value> {
    let pod = |namespace: &str, name: &str| {
        json!({"metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running"}})
    };
    let resource = path.split('?').next().unwrap_or_default().rsplit('/').next()?;
    Some(match resource {
        "log" => return None,
        "namespaces" => json!([{"metadata": {"name": "shop"}}]),
        "nodes" => json!([{"metadata": {"name": "n1"}}, {"metadata": {"name": "n2"}}]),
        "networkpolicies" => json!([{
            "metadata": {"namespace": "shop", "name": "deny", "uid": "u", "generation": 2},
            "spec": {"podSelector": {"matchLabels": {"app": "db"}}},
        }]),
        "pods" if path.contains("labelSelector") => {
            json!([pod("portcullis-system", "portcullis-node-1")])
        }
        "pods" => json!([pod("shop", "db"), pod("shop", "web")]),
        "nodepolicyreports" => json!([{
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "NodePolicyReport",
            "metadata": {"name": "n1"}, "spec": {"nodeName": "n1"},
            "status": {
                "observedAt": now(), "state": "Enforcing",
                "conditions": [{"type": "Enforcing", "status": "True", "reason": "Enforcing",
                    "message": format!("all is applied {EVIL}"), "lastTransitionTime": now()}],
                "policies": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "deny", "uid": "u",
                    "observedGeneration": applied}],
            },
        }]),
        _ => json!([]),
    })
}

fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let now = jiff::Timestamp::from_second(i64::try_from(since.as_secs()).expect("a time"));
    now.expect("a time").to_string()
}

/// `kubectl whatif ui`, and the address that it printed. It ends with this value.
struct Ui {
    child: Child,
    url: String,
    directory: tempfile::TempDir,
}

impl Ui {
    fn start(kubeconfig: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("kubeconfig");
        std::fs::write(&file, kubeconfig).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"))
            .arg("ui")
            .args(flags)
            .arg("--kubeconfig")
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let mut url = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        lines.read_line(&mut url).expect("the address of the page");
        Self { child, url: url.trim_end().to_owned(), directory }
    }

    fn open(&self) -> Browser {
        Browser::open_url(self.directory.path(), &self.url)
    }

    /// The port, and the path with the token.
    fn place(&self) -> (u16, &str) {
        let rest = self.url.strip_prefix("http://127.0.0.1:").expect("loopback only");
        let (port, path) = rest.split_once('/').expect("a path");
        (port.parse().expect("a port"), path)
    }

    /// The answer to a request with this head.
    fn ask(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.place().0)).expect("it listens");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the text of an element has `words`; how long that took.
fn wait_for(browser: &mut Browser, element: &str, words: &str) -> Duration {
    let began = Instant::now();
    loop {
        let text = browser.evaluate(&format!("document.querySelector({element:?}).innerText"));
        let text = text.as_str().unwrap_or_default();
        if text.contains(words) {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "{words:?} is not in: {text}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until an expression has this value.
fn wait_until(browser: &mut Browser, expression: &str, expected: &Value) {
    let began = Instant::now();
    loop {
        let found = browser.evaluate(expression);
        if found == *expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{expression} is {found}, and not {expected}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn denial(source: &str, why: &str) -> String {
    json!({"timestamp": now(), "level": "INFO", "message": "denied", "node": "n1", "verdict": "Denied",
        "direction": "Ingress", "source": source, "destination": "shop/db", "protocol": "TCP",
        "port": 5432, "why": why, "count": 1})
    .to_string()
}

#[test]
fn the_page_shows_what_is_applied_and_denials_as_they_come() {
    let (server, kubeconfig) = Server::start();
    server.change(|state| state.applied = 1);
    let ui = Ui::start(&kubeconfig, &[]);
    let mut browser = ui.open();
    wait_for(&mut browser, "#headline", "0 of 1 policy applied on all nodes of their pods");
    wait_for(&mut browser, "#headline", "1 of 2 nodes Enforcing");
    wait_for(&mut browser, "#policies", "n1: the node has generation 1");
    wait_for(&mut browser, "#nodes", "the node has no report; see whether an agent runs there");
    wait_for(&mut browser, "#about", "the cluster of the kubeconfig, read at 20");
    server.change(|state| state.applied = 2);
    wait_for(&mut browser, "#headline", "1 of 1 policy applied");
    wait_for(&mut browser, "#policies", "1/1");

    server.log(&denial("shop/web", "isolated by shop/deny"));
    let took = wait_for(&mut browser, "#denials", "shop/web → shop/db");
    println!("a denial is on the page after {took:?}");
    wait_for(&mut browser, "#denials", "Ingress: isolated by shop/deny");
    wait_for(&mut browser, "#denials-title", "Denials (1)");
    // Each is added once; the latest is first.
    server.log(&denial("jobs/report", "isolated by shop/deny"));
    wait_for(&mut browser, "#denials-title", "Denials (2)");
    let rows =
        "[...document.querySelectorAll('#denials tbody tr')].map((row) => row.cells[3].innerText)";
    assert_eq!(browser.evaluate(rows), json!(["jobs/report → shop/db", "shop/web → shop/db"]));

    let filter = |words: &str| {
        format!(
            "(() => {{ const filter = document.getElementById('filter'); filter.value = {words:?};
               filter.dispatchEvent(new Event('input')); }})()"
        )
    };
    browser.evaluate(&filter("JOBS/"));
    assert_eq!(browser.evaluate(rows), json!(["jobs/report → shop/db"]));
    wait_for(&mut browser, "#policies", "Nothing here matches the filter.");
    browser.evaluate(&filter(""));
    browser.evaluate("document.getElementById('show-map').click()");
    let map =
        "document.querySelector('iframe')?.contentDocument?.querySelector('#headline')?.innerText";
    wait_until(&mut browser, map, &json!("2 workloads in 1 namespace"));
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // What is shown is not taken for what is.
    server.change(|state| state.is_down = true);
    wait_for(&mut browser, "#problem", "The cluster cannot be read, and what is shown may be old");
    server.change(|state| state.is_down = false);
    wait_until(&mut browser, "document.getElementById('problem').hidden", &json!(true));
    drop(ui);
    wait_for(&mut browser, "#problem", "kubectl whatif ui does not answer");
}

#[test]
fn what_a_cluster_says_is_text_and_runs_nothing() {
    let (server, kubeconfig) = Server::start();
    let ui = Ui::start(&kubeconfig, &["-n", "shop"]);
    let mut browser = ui.open();
    wait_for(&mut browser, "#policies", "shop/deny");
    let filter = browser.evaluate("document.getElementById('filter').value");
    assert_eq!(filter, "shop/", "-n fills the filter in");
    server.log(&denial(&format!("shop/{EVIL}"), EVIL));
    wait_for(&mut browser, "#denials", &format!("Ingress: {EVIL}"));
    browser.evaluate(
        "(() => { const filter = document.getElementById('filter'); filter.value = '';
           filter.dispatchEvent(new Event('input')); })()",
    );
    wait_for(&mut browser, "#nodes", &format!("all is applied {EVIL}"));
    let made = browser.evaluate("document.querySelectorAll('img, script').length");
    assert_eq!(made, 1, "nothing but the script of the page");
    assert_eq!(browser.evaluate("document.title"), "What if: live");
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // Nothing else runs or is loaded, even if it were in the page.
    browser.evaluate(
        "(() => { const script = document.createElement('script');
           script.textContent = \"document.title = 'owned'\"; document.body.append(script);
           const image = document.createElement('img'); image.src = 'http://127.0.0.1:1/x.png';
           document.body.append(image); })()",
    );
    assert_eq!(browser.evaluate("document.title"), "What if: live");
    let complaints = browser.complaints();
    assert!(complaints.iter().any(|text| text.contains("script-src")), "{complaints:?}");
    assert!(complaints.iter().any(|text| text.contains("default-src")), "{complaints:?}");
}

#[test]
fn other_pages_and_other_names_of_this_machine_get_nothing() {
    let (_server, kubeconfig) = Server::start();
    let ui = Ui::start(&kubeconfig, &[]);
    let (port, path) = ui.place();
    let get = |host: &str, path: &str| {
        let answer = ui.ask(&format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let own = format!("127.0.0.1:{port}");
    assert_eq!(get(&own, path), "HTTP/1.1 200 OK");
    assert_eq!(get(&format!("localhost:{port}"), &format!("{path}news")), "HTTP/1.1 200 OK");
    let rebound = get(&format!("evil.example:{port}"), path);
    assert_eq!(rebound, "HTTP/1.1 421 Misdirected Request");
    assert_eq!(get(&own, "news"), "HTTP/1.1 404 Not Found");
    let refused =
        ui.ask(&format!("POST /{path}news HTTP/1.1\r\nhost: {own}\r\ncontent-length: 9\r\n\r\n"));
    assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");

    // A page of another origin, with the address: it can neither read an answer nor show the page.
    let directory = tempfile::tempdir().expect("a directory");
    let other = directory.path().join("other.html");
    let page = format!(
        "<!doctype html><title>other</title><iframe src='{0}'></iframe>
         <script>fetch('{0}news').then((answer) => answer.text()).then((text) => {{ document.title = text; }})
           .catch(() => {{ document.title = 'refused'; }});
           document.documentElement.dataset.ready = 'yes';</script>",
        ui.url
    );
    std::fs::write(&other, page).expect("written");
    let mut browser = Browser::open(directory.path(), &other);
    wait_until(&mut browser, "document.title", &json!("refused"));
    let complaints = browser.complaints().join("\n");
    assert!(complaints.contains("frame-ancestors"), "{complaints}");
}

#[test]
fn manifests_have_no_agents_and_a_port_that_is_taken_is_an_error() {
    let (_server, kubeconfig) = Server::start();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig).expect("written");
    let file = file.display().to_string();
    let refused = |flags: &[&str], words: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-whatif"));
        let output = command.arg("ui").args(flags).output().expect("the binary is built");
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(words), "{said}");
    };
    refused(&["-f", "."], "-f reads manifests, and the page shows");
    let flag = format!("--port={port}");
    refused(&[&flag, "--kubeconfig", &file], &format!("failed to listen at 127.0.0.1:{port}"));
}
