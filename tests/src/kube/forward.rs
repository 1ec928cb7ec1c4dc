//! A port of this machine's loopback that leads to an address inside a namespace, so that the test
//! itself reaches what its lab's nodes reach. The root namespace gets no link for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use portcullis_lab::Namespace;

/// A forwarded port; closed when this is dropped.
pub(super) struct Forward {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Forward {
    /// Leads a free port to `target` in `namespace`.
    ///
    /// # Errors
    /// When no port can be had.
    pub(super) fn start(namespace: Namespace, target: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kube-forward")
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("failed to open a port for the API server")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let guard = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(guard);
        let namespace = Arc::new(namespace);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, Arc::clone(&namespace), target));
            }
        });
        Ok(Self { address, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Also where the drop happens inside of another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Carries one connection. Where nothing listens at the target, it is closed: what a client makes
/// of that is the same as of a refusal.
async fn carry(mut near: TcpStream, namespace: Arc<Namespace>, target: SocketAddr) {
    let inside = move || namespace.run(|| std::net::TcpStream::connect(target));
    let Ok(Ok(Ok(far))) = tokio::task::spawn_blocking(inside).await else { return };
    if far.set_nonblocking(true).is_err() {
        return;
    }
    let Ok(mut far) = TcpStream::from_std(far) else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let _ = copy_bidirectional(&mut near, &mut far).await;
}
