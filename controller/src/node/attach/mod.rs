//! Finds the interface of each pod of this node, on its own thread, and reports every change.
//!
//! ```text
//! libcni's cache ── inotify ─┐                       ┌─ cache: entries ─────┐
//! kernel ── rtnetlink ───────┼─► wake ─► scan, a thread                     ├─► resolve ─► Found ─► agent
//! agent ── addresses of pods ┘                       └─ dataplane/interfaces ┘
//! ```
//!
//! A container runtime writes its result to the cache 240 ms or more before the first process of
//! the pod starts, while the API server may show the address later: so the agent knows the pod, its
//! addresses and its interface before the pod can send a packet. Without a cache, the interfaces of
//! addresses in the API server are found by host routes and by the addresses of veth peers.

mod cache;
mod evidence;
mod notice;
mod resolve;
mod scan;
mod wake;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use portcullis_crds::diagnostic::Diagnostic;
use tokio::sync::watch;

use self::scan::Scanner;
use self::wake::{Reason, Wake};
use crate::dataplane::attachment::{Attachments, InterfaceName};

/// One pod that a container runtime has attached to this node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CniPod {
    /// The namespace of the pod.
    pub namespace: String,
    /// The name of the pod.
    pub name: String,
    /// The uid that the kubelet uses; `None` with old runtimes. For a static pod it is not that of
    /// the API object, but its annotation `kubernetes.io/config.hash`.
    pub uid: Option<String>,
    /// The addresses of the pod in the result of the plugin.
    pub addresses: BTreeSet<IpAddr>,
    /// The node's end of the pod's interface.
    pub interface: InterfaceName,
}

/// Whether `text` can be parsed as a file of libcni's cache.
#[must_use]
pub fn is_readable(text: &[u8]) -> bool {
    cache::is_readable(text)
}

/// The interfaces of this node's pods.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Found {
    /// The interface of each address, and the interfaces on which only packets of pods arrive.
    pub attachments: Attachments,
    /// The pods of the cache whose interface exists, in the order of the names of interfaces.
    pub pods: Vec<CniPod>,
    /// Warnings of files that cannot be read, and of contradictory evidence.
    pub diagnostics: Vec<Diagnostic>,
}

/// The agent's side of the thread that finds interfaces.
#[derive(Debug)]
pub struct Finder {
    found: watch::Receiver<Found>,
    pods: watch::Sender<BTreeSet<IpAddr>>,
    wake: Arc<Wake>,
}

impl Finder {
    /// Starts to scan libcni's cache, if a directory is given, and the network namespace of the
    /// calling thread, until this value is dropped.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(cni_results: Option<&Path>) -> io::Result<Self> {
        let wake = Arc::new(Wake::default());
        let (pods, latest_pods) = watch::channel(BTreeSet::new());
        let (sender, found) = watch::channel(Found::default());
        notice::start(Arc::clone(&wake))?;
        let scanner = Scanner::new(cni_results, Arc::clone(&wake), latest_pods);
        thread::Builder::new().name("attach".to_owned()).spawn(move || scanner.run(&sender))?;
        Ok(Self { found, pods, wake })
    }

    /// Waits until the result changes; the first call waits for the first result.
    pub async fn next(&mut self) -> Found {
        match self.found.changed().await {
            Ok(()) => self.found.borrow_and_update().clone(),
            // The thread does not end before this value is dropped.
            Err(_) => std::future::pending().await,
        }
    }

    /// Sets the addresses of all pods of this node that the API server knows, except for pods with
    /// hostNetwork. If an address is new, the next result was read after this call.
    pub fn set_pods(&self, pods: BTreeSet<IpAddr>) {
        let is_new = self.pods.send_if_modified(|known| {
            let is_new = *known != pods;
            *known = pods;
            is_new
        });
        if is_new {
            self.wake.raise(Reason::Pods);
        }
    }
}

impl Drop for Finder {
    fn drop(&mut self) {
        self.wake.raise(Reason::Closed);
    }
}
