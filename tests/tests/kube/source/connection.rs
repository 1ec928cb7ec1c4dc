//! The connections of an agent to the API server, and when it last received something.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::kube::{ApiServer, Options};
use tempfile::TempDir;

use super::seen::Seen;
use super::{apply, namespace, policy, wait_for};

/// Passes TCP connections on to a server, and counts those that are open.
struct Forward {
    open: Arc<AtomicUsize>,
    /// For the connections that are open: whether nothing of the server is passed on any more.
    is_silent: Arc<Mutex<Arc<AtomicBool>>>,
    directory: TempDir,
}

impl Forward {
    /// The threads end with the process.
    fn start(server: &ApiServer) -> Result<Self> {
        let kubeconfig = std::fs::read_to_string(server.admin_kubeconfig())?;
        let at = kubeconfig.find("https://").context("no server in the kubeconfig")? + 8;
        let address: String = kubeconfig[at..]
            .chars()
            .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':'))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let own = listener.local_addr()?.to_string();
        let directory = tempfile::tempdir()?;
        let through = kubeconfig.replace(&address, &own);
        std::fs::write(directory.path().join("kubeconfig"), through)?;
        let (open, server) = (Arc::new(AtomicUsize::new(0)), address.parse()?);
        let is_silent = Arc::<Mutex<Arc<AtomicBool>>>::default();
        let (count, silent) = (Arc::clone(&open), Arc::clone(&is_silent));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                let silent = Arc::clone(&silent.lock().unwrap_or_else(PoisonError::into_inner));
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let _ = pass(&client, server, &silent);
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { open, is_silent, directory })
    }

    /// From now on, nothing of the server is passed on by the connections that are open. They stay
    /// open, and take what the client sends, as a proxy does whose server is dead.
    fn silence(&self) {
        let mut silent = self.is_silent.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *silent).store(true, Ordering::SeqCst);
    }

    fn source(&self) -> Result<Seen> {
        Seen::start(&self.directory.path().join("kubeconfig"))
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// Passes on what both sides send until one of them ends.
fn pass(client: &TcpStream, server: SocketAddr, is_silent: &Arc<AtomicBool>) -> Result<()> {
    let server = TcpStream::connect(server)?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    let silent = Arc::clone(is_silent);
    let other = thread::spawn(move || copy(from_client, to_server, &silent));
    copy(server, client.try_clone()?, is_silent);
    let _ = other.join();
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool) {
    let mut buffer = [0; 16_384];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if is_silent.load(Ordering::SeqCst) {
            continue;
        }
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn all_watches_share_one_connection_where_the_server_has_http_2() -> Result<()> {
    for (flags, is_shared) in [(&[][..], true), (&["--disable-http2-serving=true"][..], false)] {
        let options = flags.iter().fold(Options::default(), |all, f| all.api_server_arg(*f));
        let server = ApiServer::start(options)?;
        apply(&server, &[&namespace("shop")])?;
        let forward = Forward::start(&server)?;
        let mut seen = forward.source()?;
        seen.until_synced()?;
        // Connections that were begun at the same moment end when the server agrees on HTTP/2.
        if is_shared {
            wait_for(|| forward.open() == 1)?;
        }
        apply(&server, &[&policy("p")])?;
        seen.until_change("+NetworkPolicy shop/p")?;
        let open = forward.open();
        ensure!((open == 1) == is_shared, "{flags:?}: {open} connections");
    }
    Ok(())
}

/// A proxy in front of the API server may not notice that the server is dead. All requests of the
/// agent use this connection, also those that are repeated.
#[test]
fn a_connection_whose_other_end_is_dead_is_replaced() -> Result<()> {
    let server = ApiServer::start(Options::default())?;
    apply(&server, &[&namespace("shop")])?;
    let forward = Forward::start(&server)?;
    let mut seen = forward.source()?;
    seen.until_synced()?;
    forward.silence();
    apply(&server, &[&policy("p")])?;
    seen.until_change("+NetworkPolicy shop/p")
}

#[test]
fn the_age_of_what_was_received_grows_while_the_api_server_is_away() -> Result<()> {
    let mut server = ApiServer::start(Options::default())?;
    apply(&server, &[&namespace("shop")])?;
    let mut seen = Seen::start(&server.admin_kubeconfig())?;
    seen.until_synced()?;
    server.kill();
    thread::sleep(Duration::from_secs(2));
    let ages = seen.contacts.ages();
    assert_eq!(
        ages.keys().copied().collect::<Vec<_>>(),
        [
            "ClusterDefaultNetworkPolicy",
            "ClusterNetworkPolicy",
            "Namespace",
            "NetworkPolicy",
            "Node",
            "Pod"
        ]
    );
    ensure!(ages.values().all(|age| *age >= Duration::from_secs(1)), "{ages:?}");
    let restarted = Instant::now();
    server.restart()?;
    apply(&server, &[&policy("p")])?;
    seen.until_change("+NetworkPolicy shop/p")?;
    let ages = seen.contacts.ages();
    ensure!(ages["NetworkPolicy"] <= restarted.elapsed(), "{ages:?}");
    Ok(())
}
