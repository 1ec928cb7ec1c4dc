//! A way to the API server that a test can cut, close and bend: plain HTTP on this machine's
//! loopback, every request passed on to the real server as its administrator.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use futures_util::io::AsyncBufReadExt as _;
use kube::Client;
use portcullis_tests::kube::{ApiServer, plain_kubeconfig};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What becomes of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// They are passed on, and so are the answers.
    Pass,
    /// Connections end, those that are open too.
    Cut,
    /// They are answered with this status.
    Refuse(u16),
    /// Those that have this text in their target are, and end if they are open; the others pass.
    RefuseSome(&'static str, u16),
    /// Those that have this text in their target get an answer of one event: an error of this status.
    FailSome(&'static str, u16),
    /// Those that have this text in their target get an answer that ends after its first line.
    EndSome(&'static str),
}

impl Mode {
    /// The status that a request for this gets.
    fn refuses(self, target: &str) -> Option<u16> {
        match self {
            Self::Refuse(code) => Some(code),
            Self::RefuseSome(text, code) => target.contains(text).then_some(code),
            Self::Pass | Self::Cut | Self::FailSome(..) | Self::EndSome(_) => None,
        }
    }
}

/// What becomes of each line of an answer.
type Bend = fn(String) -> String;

/// The proxy; dropping it ends all connections.
pub(super) struct Proxy {
    mode: watch::Sender<Mode>,
    requests: Arc<Mutex<Vec<String>>>,
    kubeconfig: PathBuf,
    _directory: TempDir,
    _runtime: Runtime,
}

impl Proxy {
    /// Passes everything on to `server`, each line of an answer as `bend` makes it.
    pub(super) fn start(server: &ApiServer, bend: Bend) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (client, listener) = runtime.block_on(async {
            let client = server.client().await?;
            anyhow::Ok((client, TcpListener::bind("127.0.0.1:0").await?))
        })?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, plain_kubeconfig(listener.local_addr()?))?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, log, mut modes) = (client.clone(), Arc::clone(&log), modes.clone());
                tokio::spawn(async move {
                    let mut cut = modes.clone();
                    tokio::select! {
                        // That one connection fails is what the test is about.
                        _ = serve(stream, &client, &log, &mut modes, bend) => {}
                        _ = cut.wait_for(|mode| *mode == Mode::Cut) => {}
                    }
                });
            }
        });
        Ok(Self { mode, requests, kubeconfig, _directory: directory, _runtime: runtime })
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// How many requests so far have had all of `parts` in their target.
    pub(super) fn count(&self, parts: &[&str]) -> usize {
        let requests = self.requests.lock().expect("no thread panics with it");
        requests.iter().filter(|target| parts.iter().all(|part| target.contains(part))).count()
    }
}

async fn serve(
    stream: TcpStream,
    client: &Client,
    log: &Mutex<Vec<String>>,
    modes: &mut watch::Receiver<Mode>,
    bend: Bend,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let target = head.split(' ').nth(1).context("no request line")?.to_owned();
    log.lock().expect("no thread panics with it").push(target.clone());
    let mode = *modes.borrow_and_update();
    if let Some(code) = mode.refuses(&target) {
        return answer(&mut stream, code, &status(code).to_string()).await;
    }
    if let Mode::FailSome(text, code) = mode
        && target.contains(text)
    {
        let event = serde_json::json!({"type": "ERROR", "object": status(code)});
        return answer(&mut stream, 200, &event.to_string()).await;
    }
    let request = http::Request::get(&target).body(Vec::new())?;
    let mut lines = match client.request_stream(request).await {
        Ok(body) => body.lines(),
        Err(kube::Error::Api(status)) => {
            let text = serde_json::to_string(&status)?;
            return answer(&mut stream, status.code, &text).await;
        }
        Err(error) => return Err(error.into()),
    };
    stream.write_all(head_of(200).as_bytes()).await?;
    let some_end =
        |mode: &Mode| matches!(mode, Mode::RefuseSome(..)) && mode.refuses(&target).is_some();
    loop {
        let line = tokio::select! {
            line = lines.try_next() => line?,
            _ = modes.wait_for(some_end) => None,
        };
        let Some(line) = line else { return Ok(()) };
        stream.write_all((bend(line) + "\n").as_bytes()).await?;
        stream.flush().await?;
        if matches!(mode, Mode::EndSome(text) if target.contains(text)) {
            return Ok(());
        }
    }
}

/// What an API server says when it refuses.
fn status(code: u16) -> serde_json::Value {
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": "Refused", "message": "the test says no",
    })
}

async fn answer(stream: &mut BufReader<TcpStream>, code: u16, text: &str) -> Result<()> {
    stream.write_all((head_of(code) + text).as_bytes()).await?;
    Ok(stream.flush().await?)
}

/// The answer ends with the connection.
fn head_of(code: u16) -> String {
    format!("HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
}
