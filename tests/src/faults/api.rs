//! An API server that lies: it lists and watches a few kinds from memory, and does with requests what a
//! fault says. A real one does not do most of these things on request.
//!
//! ```text
//! row ─ put, delete, restore ─► Store ─► list, watch ─► Mode ─► agent
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_lab::Namespace;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::sleep;

use super::stage::lock;
use crate::kube::plain_kubeconfig;

/// What becomes of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// They are answered.
    Serve,
    /// Connections end, those that are open too.
    Gone,
    /// They are answered with this status.
    Refuse(u16),
    /// They are answered with this text, and status 200.
    Say(&'static str),
    /// Answers end in the middle of a line.
    CutOff,
    /// Watches end with the event 410; lists are answered.
    Expire,
    /// Streaming lists are answered with 500; lists and watches are answered.
    NoStreaming,
    /// No answer comes, and nothing on watches that are open; these end with the fault.
    Silent,
    /// Each line of an answer comes this much later.
    Slow(Duration),
}

/// The kinds that are served: path of the list, and kind.
const KINDS: [(&str, &str, &str); 6] = [
    ("/api/v1/pods", "v1", "Pod"),
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/apis/networking.k8s.io/v1/networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
    (
        "/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies",
        "policy.networking.k8s.io/v1beta1",
        "ClusterNetworkPolicy",
    ),
    (
        "/apis/portcullis.dev/v1alpha1/clusterdefaultnetworkpolicies",
        "portcullis.dev/v1alpha1",
        "ClusterDefaultNetworkPolicy",
    ),
];

/// Kind and name with namespace.
type Key = (String, String);

/// The objects, and what happened to them.
#[derive(Clone, Default)]
struct Store {
    version: u64,
    objects: BTreeMap<Key, Value>,
    /// Version, kind, type of the event, object.
    events: Vec<(u64, String, &'static str, Value)>,
    /// Watches from an earlier version have expired.
    oldest: u64,
}

impl Store {
    fn put(&mut self, mut object: Value) {
        self.version += 1;
        let key = key(&object);
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let is_new = !self.objects.contains_key(&key);
        let event = if is_new { "ADDED" } else { "MODIFIED" };
        self.events.push((self.version, key.0.clone(), event, object.clone()));
        self.objects.insert(key, object);
    }

    fn delete(&mut self, key: &Key) {
        let Some(mut object) = self.objects.remove(key) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.push((self.version, key.0.clone(), "DELETED", object));
    }

    fn of_kind<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = &'a Value> {
        self.after("", wanted).map(|(_, object)| object)
    }

    /// The objects whose names come after `last`, in the order of their names.
    fn after<'a>(
        &'a self,
        last: &str,
        wanted: &'a Wanted,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let last = (wanted.kind.to_owned(), last.to_owned());
        let after = self.objects.range((Bound::Excluded(last), Bound::Unbounded));
        let of_kind = after.take_while(|((of, _), _)| of == wanted.kind);
        of_kind
            .map(|((_, name), object)| (name.as_str(), object))
            .filter(|(_, object)| wanted.selects(object))
    }

    /// A page of a list of at most `limit` objects. The token of the next one is the version of the
    /// first page, from which a watch continues, and the last name.
    fn page(&self, wanted: &Wanted, limit: usize, token: Option<&str>) -> Value {
        let Wanted { version, kind, .. } = wanted;
        let (listed, last) = token.and_then(|token| token.split_once(':')).unwrap_or_default();
        let listed = listed.parse().unwrap_or(self.version);
        let mut objects = self.after(last, wanted);
        let page: Vec<_> = objects.by_ref().take(limit).collect();
        let next = objects.next().and_then(|_| page.last());
        let next = next.map(|(last, _)| format!("{listed}:{last}"));
        json!({"apiVersion": version, "kind": format!("{kind}List"),
            "metadata": {"resourceVersion": listed.to_string(), "continue": next},
            "items": page.iter().map(|(_, object)| object).collect::<Vec<_>>()})
    }
}

fn key(object: &Value) -> Key {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"));
    (text("/kind").to_owned(), name)
}

/// The objects that a request asks for.
struct Wanted {
    version: &'static str,
    kind: &'static str,
    /// Pointer to a field, whether it is to have this value or another one, and the value.
    fields: Vec<(String, bool, String)>,
}

impl Wanted {
    /// Of a field selector, only fields that never change count: the node of a pod, and names.
    fn new(version: &'static str, kind: &'static str, selector: &str) -> Self {
        let selector = selector.replace("%3D", "=").replace("%21", "!").replace("%2C", ",");
        let fields = selector.split(',').filter_map(|term| {
            let (field, value) = term.split_once('=')?;
            let (name, is) = field.strip_suffix('!').map_or((field, true), |name| (name, false));
            let counts = ["spec.nodeName", "metadata.name"].contains(&name);
            counts.then(|| (format!("/{}", name.replace('.', "/")), is, value.to_owned()))
        });
        Self { version, kind, fields: fields.collect() }
    }

    fn selects(&self, object: &Value) -> bool {
        let found = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
        self.fields.iter().all(|(at, is, value)| (found(at) == value) == *is)
    }
}

/// The running server; dropping it ends all connections.
pub(super) struct Api {
    store: Arc<Mutex<Store>>,
    backup: Mutex<Option<Store>>,
    news: watch::Sender<()>,
    mode: watch::Sender<Mode>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    kubeconfig: PathBuf,
    port: u16,
    _directory: TempDir,
    _runtime: Runtime,
}

impl Api {
    /// Serves at this address of a namespace.
    pub(super) fn start(namespace: &Namespace, address: IpAddr) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = namespace.run(|| std::net::TcpListener::bind((address, 0)))??;
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        let directory = tempfile::tempdir()?;
        let kubeconfig = directory.path().join("kubeconfig");
        std::fs::write(&kubeconfig, plain_kubeconfig(at))?;
        let (news, _) = watch::channel(());
        let (mode, _) = watch::channel(Mode::Serve);
        let (store, peers) = (Arc::<Mutex<Store>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let shared = (Arc::clone(&store), Arc::clone(&peers), news.clone(), mode.clone());
        runtime.spawn(async move {
            let (store, peers, news, mode) = shared;
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, peer)) = listener.accept().await {
                lock(&peers).push(peer);
                let request = Request {
                    store: Arc::clone(&store),
                    news: news.subscribe(),
                    mode: mode.subscribe(),
                };
                let mut gone = mode.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        // A row may break connections on purpose.
                        _ = request.serve(stream) => {}
                        _ = gone.wait_for(|mode| *mode == Mode::Gone) => {}
                    }
                });
            }
        });
        let port = at.port();
        Ok(Self {
            store,
            backup: Mutex::default(),
            news,
            mode,
            peers,
            kubeconfig,
            port,
            _directory: directory,
            _runtime: runtime,
        })
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Puts objects in place, as they are known to watches at the same moment.
    pub(super) fn put(&self, objects: impl IntoIterator<Item = Value>) {
        let mut store = lock(&self.store);
        objects.into_iter().for_each(|object| store.put(object));
        drop(store);
        self.news.send_replace(());
    }

    pub(super) fn delete(&self, kind: &str, names: impl IntoIterator<Item = String>) {
        let mut store = lock(&self.store);
        names.into_iter().for_each(|name| store.delete(&(kind.to_owned(), name)));
        drop(store);
        self.news.send_replace(());
    }

    /// Watches that were interrupted can no longer go on from where they were.
    pub(super) fn compact(&self) {
        let mut store = lock(&self.store);
        store.oldest = store.version;
        store.events.clear();
    }

    pub(super) fn back_up(&self) {
        *lock(&self.backup) = Some(lock(&self.store).clone());
    }

    /// The state of the backup, with its resourceVersions: those of later changes are given again.
    pub(super) fn restore(&self) {
        let Some(backup) = lock(&self.backup).take() else { return };
        *lock(&self.store) = Store { events: Vec::new(), oldest: backup.version, ..backup };
        self.news.send_replace(());
    }

    /// The clients of all connections so far.
    pub(super) fn peers(&self) -> Vec<SocketAddr> {
        lock(&self.peers).clone()
    }
}

/// What one connection asks.
struct Request {
    store: Arc<Mutex<Store>>,
    news: watch::Receiver<()>,
    mode: watch::Receiver<Mode>,
}

impl Request {
    async fn serve(mut self, stream: TcpStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let target = head.split(' ').nth(1).context("no request line")?.to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mode = *self.mode.borrow_and_update();
        match mode {
            Mode::Gone => return Ok(()),
            Mode::Refuse(code) => {
                return answer(&mut stream, code, &status(code).to_string()).await;
            }
            Mode::Say(text) => return answer(&mut stream, 200, text).await,
            Mode::Silent => {
                self.mode.wait_for(|mode| *mode != Mode::Silent).await?;
                return Ok(());
            }
            Mode::NoStreaming if query.contains("sendInitialEvents=true") => {
                return answer(&mut stream, 500, &status(500).to_string()).await;
            }
            Mode::Serve | Mode::CutOff | Mode::Expire | Mode::NoStreaming | Mode::Slow(_) => {}
        }
        let known = KINDS.iter().find(|(list, _, _)| *list == path);
        let Some((_, version, kind)) = known.filter(|_| head.starts_with("GET ")) else {
            return answer(&mut stream, 404, &status(404).to_string()).await;
        };
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let selector = parameter("fieldSelector").unwrap_or_default();
        let wanted = Wanted::new(version, kind, &selector);
        if parameter("watch").is_none() {
            let limit = parameter("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
            let token =
                parameter("continue").map(|text| text.replace("%3A", ":").replace("%2F", "/"));
            let list = lock(&self.store).page(&wanted, limit, token.as_deref()).to_string();
            let cut = if mode == Mode::CutOff { list.len() / 2 } else { list.len() };
            return answer(&mut stream, 200, list.get(..cut).unwrap_or_default()).await;
        }
        let from = parameter("resourceVersion").and_then(|text| text.parse().ok());
        self.watch(&mut stream, &wanted, from).await
    }

    async fn watch(
        &mut self,
        stream: &mut BufReader<TcpStream>,
        wanted: &Wanted,
        from: Option<u64>,
    ) -> Result<()> {
        stream.write_all(head_of(200).as_bytes()).await?;
        let mut at = from;
        loop {
            let mode = *self.mode.borrow_and_update();
            let lines = match mode {
                Mode::Expire => vec![expired()],
                Mode::Refuse(code) => vec![event("ERROR", &status(code))],
                Mode::Say(text) => vec![text.to_owned() + "\n"],
                Mode::Silent => Vec::new(),
                Mode::Gone => return Ok(()),
                Mode::Serve | Mode::CutOff | Mode::NoStreaming | Mode::Slow(_) => {
                    self.news_of(wanted, &mut at)
                }
            };
            for line in lines {
                if let Mode::Slow(late) = mode {
                    sleep(late).await;
                }
                let cut = if mode == Mode::CutOff { line.len() / 2 } else { line.len() };
                stream.write_all(line.as_bytes().get(..cut).unwrap_or_default()).await?;
                stream.flush().await?;
                if mode == Mode::CutOff {
                    return Ok(());
                }
            }
            if matches!(mode, Mode::Expire | Mode::Refuse(_) | Mode::Say(_)) {
                return Ok(());
            }
            if at.is_some_and(|at| at < lock(&self.store).oldest) {
                stream.write_all(expired().as_bytes()).await?;
                return Ok(());
            }
            let mut end = [0];
            tokio::select! {
                _ = self.news.changed() => {}
                changed = self.mode.changed() => {
                    changed?;
                    if mode == Mode::Silent {
                        return Ok(());
                    }
                }
                // The client ended it.
                _ = tokio::io::AsyncReadExt::read(stream, &mut end) => return Ok(()),
            }
        }
    }

    /// The lines of a watch that has come to version `at`: the initial view when there is none.
    fn news_of(&self, wanted: &Wanted, at: &mut Option<u64>) -> Vec<String> {
        let (store, Wanted { version, kind, .. }) = (lock(&self.store), wanted);
        let lines = match *at {
            None => {
                let mut lines: Vec<String> =
                    store.of_kind(wanted).map(|object| event("ADDED", object)).collect();
                let end = json!({"apiVersion": version, "kind": kind, "metadata": {
                    "resourceVersion": store.version.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"}}});
                lines.push(event("BOOKMARK", &end));
                lines
            }
            Some(at) => {
                let news = store.events.iter().filter(|(of, its, _, object)| {
                    *of > at && its == kind && wanted.selects(object)
                });
                news.map(|(_, _, what, object)| event(what, object)).collect()
            }
        };
        if at.is_none_or(|at| at >= store.oldest) {
            *at = Some(store.version);
        }
        lines
    }
}

fn event(what: &str, object: &Value) -> String {
    json!({"type": what, "object": object}).to_string() + "\n"
}

fn expired() -> String {
    event("ERROR", &status(410))
}

/// What an API server says when it refuses.
fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": "Refused", "message": "the fault says no", "details": {"retryAfterSeconds": 1}})
}

async fn answer(stream: &mut BufReader<TcpStream>, code: u16, text: &str) -> Result<()> {
    stream.write_all((head_of(code) + text).as_bytes()).await?;
    Ok(stream.flush().await?)
}

/// The answer ends with the connection.
fn head_of(code: u16) -> String {
    format!("HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
}
