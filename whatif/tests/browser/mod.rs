//! Chromium without a window, by its developer tools' protocol over a pipe: no port, no crate.
//!
//! Messages are JSON with a NUL behind each; the browser reads descriptor 3 and writes 4.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A browser that shows one page. It ends with this value.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    last: u64,
    events: Vec<Value>,
}

impl Browser {
    /// Starts a browser, with what it writes in `directory`, and waits until the file `page` is there.
    pub(crate) fn open(directory: &Path, page: &Path) -> Self {
        Self::open_url(directory, &format!("file://{}", page.display()))
    }

    /// As [`Browser::open`], for a page at a URL.
    pub(crate) fn open_url(directory: &Path, url: &str) -> Self {
        // The shell gives the pipe its descriptors; `timeout` ends a browser that hangs.
        let script = "exec timeout 120 chromium \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh", "--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--remote-debugging-pipe", "--window-size=1400,900", "--no-first-run"])
            .args(["--disable-dev-shm-usage", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", directory.join("profile").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        let mut browser = Self { child, to, from, session: None, last: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Log", "Page", "Runtime"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser.call("Page.navigate", &json!({"url": url}));
        browser.wait_for("Page.loadEventFired");
        assert_eq!(browser.evaluate("document.documentElement.dataset.ready"), "yes");
        browser
    }

    /// The value of an expression in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", &asked);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].take()
    }

    /// Presses and releases a key.
    pub(crate) fn press(&mut self, key: &str) {
        let codes = [("Tab", 9), ("Enter", 13), ("ArrowRight", 39), ("ArrowDown", 40)];
        let code = codes.iter().find(|(name, _)| *name == key).map(|(_, code)| *code);
        let code: u8 = code.expect("a key that is known here");
        for kind in ["rawKeyDown", "keyUp"] {
            let event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// What the browser had to complain of: refusals by policy, exceptions, errors.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // Everything that happened before this answer is told before it.
        self.evaluate("0");
        let complains = |event: &&Value| {
            ["Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"]
                .contains(&event["method"].as_str().unwrap_or_default())
        };
        self.events.iter().filter(complains).map(ToString::to_string).collect()
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let sent = self.to.write_all(format!("{message}\0").as_bytes());
        sent.expect("chromium runs: is it installed?");
        loop {
            let mut answer = self.read();
            if answer["id"] == self.last {
                assert_eq!(answer["error"], Value::Null, "{method}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    fn wait_for(&mut self, event: &str) {
        while !self.events.iter().any(|known| known["method"] == event) {
            let message = self.read();
            self.events.push(message);
        }
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).expect("a message");
        assert_eq!(message.pop(), Some(0), "chromium ended: is it installed?");
        serde_json::from_slice(&message).expect("JSON")
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let message = json!({"id": self.last + 1, "method": "Browser.close"});
        let asked = self.to.write_all(format!("{message}\0").as_bytes());
        if asked.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
