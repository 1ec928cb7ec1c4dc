//! What reads bytes of others, as functions that take any bytes: none may panic, or take long.
//!
//! ```text
//! corpus/TARGET/* ─► tests/replay.rs        in every run of the tests
//!                 ─► run/, libFuzzer        `make fuzz`: it changes these files, and looks for more
//! ```

use std::sync::Arc;

use policy_engine::engine::{Engine, Scope};
use policy_engine::world::Options;
use portcullis_controller::dataplane::backend::iptables::printed;
use portcullis_controller::dataplane::netlink::conntrack::Entry;
use portcullis_controller::node::attach;
use portcullis_controller::node::denials::{message, packet::Packet};
use portcullis_controller::serve::http::{Served, serve_one};
use portcullis_crds::convert::{self, Converted};
use portcullis_crds::manifest::{Manifest, decode};
use portcullis_whatif::endpoint::Endpoint;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What reads bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their directories in `corpus`.
pub const TARGETS: [(&str, Target); 9] = [
    ("cni", cni),
    ("conntrack", conntrack),
    ("endpoint", endpoint),
    ("http", http),
    ("ipset", ipset),
    ("iptables", iptables),
    ("nflog", nflog),
    ("objects", objects),
    ("yaml", yaml),
];

/// A file of the cache of libcni: a container runtime writes it.
fn cni(bytes: &[u8]) {
    let _ = attach::is_readable(bytes);
}

/// A message of the kernel about a connection.
fn conntrack(bytes: &[u8]) {
    if let Some(entry) = Entry::parse(bytes) {
        let _ = entry.handle();
    }
}

/// A word that a user types.
fn endpoint(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = text.parse::<Endpoint>();
    let _ = convert::label_selector(&serde_json::Value::String(text.into_owned()));
}

/// A request for probes and metrics: anyone in the network can send one.
fn http(bytes: &[u8]) {
    let served = Served {
        live: Box::new(|| Ok(())),
        ready: Box::new(|| Err("no".to_owned())),
        registry: Arc::new(Registry::default()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs only a few descriptors");
    runtime.block_on(async {
        let (mut client, stream) = tokio::io::duplex(bytes.len().max(1));
        let ask = async {
            let _ = client.write_all(bytes).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
        };
        tokio::join!(ask, serve_one(Arc::new(served), stream));
    });
}

/// What `ipset save` prints.
fn ipset(bytes: &[u8]) {
    printed::read_sets(&String::from_utf8_lossy(bytes));
}

/// What `iptables-save` prints.
fn iptables(bytes: &[u8]) {
    printed::read_table(&String::from_utf8_lossy(bytes));
}

/// A datagram of NFLOG with packets of attackers, and such a packet alone.
fn nflog(bytes: &[u8]) {
    let _ = message::read(bytes);
    if let Some(packet) = Packet::parse(bytes) {
        let _ = (packet.transport.port(), packet.transport.protocol());
    }
}

/// Objects of users, from their text to rules.
fn objects(bytes: &[u8]) {
    let manifest = Manifest::parse("a.json", &decode(bytes.to_vec()));
    let mut engine = Engine::new(Scope::Node("n1".into()), Options::default());
    for document in &manifest.documents {
        let (converted, diagnostics) = convert::document(document);
        diagnostics.iter().for_each(|found| drop(found.to_string()));
        if let Converted::Object(change) = converted {
            engine.apply(change);
        }
    }
    let _ = engine.flush();
}

/// A manifest.
fn yaml(bytes: &[u8]) {
    let manifest = Manifest::parse("a.yaml", &decode(bytes.to_vec()));
    manifest.diagnostics.iter().for_each(|found| drop(found.to_string()));
}
