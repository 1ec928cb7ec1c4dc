//! The connection of this process to the API server.
//!
//! The HTTP stack is kube's own, layer by layer, with three differences that matter to a process
//! that mostly waits: the kernel detects a dead connection within [`DEAD_AFTER`], no write waits
//! for an earlier one to be acknowledged (Nagle), and the stack repeats no request, since the
//! caller decides when to try again.
//!
//! HTTP/2 with TLS: all requests of a client share one connection, so that a cluster of thousands of
//! nodes has one connection for each agent, and not one for each watch. A watch that is read slowly
//! does not stop the others, since the connection may hold back what all watches together may
//! (`CONNECTION_WINDOW_BYTES`). A server without HTTP/2, or without TLS, gets HTTP/1.1 and a
//! connection for each watch. Nothing is compressed: `gzip` is not compiled in, and events are small.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use http::header::{HeaderValue, USER_AGENT};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{ClientBuilder, ConfigExt as _, RustlsTlsError};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// A connection is dead when the peer does not respond for this long: to the kernel's probes, or to
/// pings of HTTP/2.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);

/// How long a TCP connection may take to be established.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a response may take to begin. How long it takes to end is not limited.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How much of one answer the server may send before it is read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// How much of all answers the server may send before it is read. If watches that are read slowly
/// could use all of it, the others would wait for them.
const CONNECTION_WINDOW_BYTES: u32 = 16 * STREAM_WINDOW_BYTES;

/// The API server, the credentials, and the component that uses them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// Kubeconfig files, separated as in `KUBECONFIG`; `None`: the pod's own ServiceAccount.
    pub kubeconfig: Option<OsString>,
    /// The component of Portcullis, for the logs of the server: `node`, `controller`.
    pub component: &'static str,
}

/// Why there is no client for the API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A kubeconfig is unusable.
    #[error("failed to use the kubeconfig {}", paths.display())]
    Kubeconfig {
        /// The kubeconfig files, as in `KUBECONFIG`.
        paths: OsString,
        /// Why it cannot be used.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// No kubeconfig was given, and this process is not in a pod with a ServiceAccount.
    #[error("not in a pod with a ServiceAccount token; --kubeconfig says how to reach the cluster")]
    NotInCluster(#[source] kube::config::InClusterError),
    /// The configuration cannot be used, for example because of an invalid certificate.
    #[error("failed to prepare a client of the API server")]
    Client(#[source] kube::Error),
    /// No thread could be started.
    #[error("failed to start a thread for the API server")]
    Thread(#[source] io::Error),
}

impl Access {
    /// Runs `work` with a client on a thread of its own, so that its waits and its decoding do not
    /// delay the caller.
    ///
    /// # Errors
    /// When no thread can be started, or the configuration names no server or no credentials.
    pub fn spawn<F: Future<Output = ()>>(
        self,
        thread: &str,
        work: impl FnOnce(Client) -> F + Send + 'static,
    ) -> Result<(), AccessError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(AccessError::Thread)?;
        let (started, starting) = sync_channel(1);
        let run = move || {
            runtime.block_on(async {
                match self.client().await {
                    Ok(client) => {
                        let _ = started.send(Ok(()));
                        work(client).await;
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            });
        };
        let builder = std::thread::Builder::new().name(thread.to_owned());
        builder.spawn(run).map_err(AccessError::Thread)?;
        let ended = || AccessError::Thread(io::Error::other("it ended at once"));
        starting.recv().map_err(|_| ended())?
    }

    /// A client, which has not sent a request yet. Its tasks run on the runtime of the caller.
    ///
    /// Tokens in files are read again when they are rotated.
    ///
    /// # Errors
    /// When the configuration names no server or no credentials.
    pub async fn client(&self) -> Result<Client, AccessError> {
        let mut config = self.config().await?;
        config.headers.push((USER_AGENT, self.user_agent()));
        build(&config).map_err(AccessError::Client)
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let Some(paths) = self.kubeconfig.as_deref().filter(|paths| !paths.is_empty()) else {
            return Config::incluster().map_err(AccessError::NotInCluster);
        };
        let wrap = |source| AccessError::Kubeconfig { paths: paths.to_owned(), source };
        let kubeconfig = read(paths).map_err(wrap)?;
        let options = KubeConfigOptions::default();
        Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrap)
    }

    fn user_agent(&self) -> HeaderValue {
        let text = format!("portcullis/{} ({})", env!("CARGO_PKG_VERSION"), self.component);
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("portcullis"))
    }
}

/// All files that `paths` lists, merged as `kubectl` does: the first one wins where two differ.
fn read(paths: &OsStr) -> Result<Kubeconfig, kube::config::KubeconfigError> {
    let mut merged = Kubeconfig::default();
    for path in std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()) {
        merged = merged.merge(Kubeconfig::read_from(path)?)?;
    }
    Ok(merged)
}

fn build(config: &Config) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_LIMIT));
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(DEAD_AFTER / 2));
    tcp.set_keepalive_interval(Some(DEAD_AFTER / 6));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(DEAD_AFTER));
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        // By default, a connection that began no request for 90 s gets no other one, although its
        // watches continue: each watch that begins again would open another connection.
        .pool_idle_timeout(None)
        // A proxy may keep a connection open whose other end is dead. All requests would use it.
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(DEAD_AFTER / 2)
        .http2_keep_alive_timeout(DEAD_AFTER / 2)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .build(secured(config, tcp)?);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .timeout(ANSWER_LIMIT)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// As kube's `rustls_https_connector_with_connector`, and with HTTP/2 where the server has it.
fn secured(
    config: &Config,
    tcp: HttpConnector,
) -> Result<HttpsConnector<HttpConnector>, kube::Error> {
    let tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?);
    let mut tls = tls.https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(RustlsTlsError::InvalidServerName);
        let name = FixedServerNameResolver::new(name.map_err(kube::Error::RustlsTls)?);
        tls = tls.with_server_name_resolver(name);
    }
    Ok(tls.enable_http1().enable_http2().wrap_connector(tcp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(server: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: a, \
             clusters: [{{name: a, cluster: {{server: '{server}'}}}}], \
             users: [{{name: a, user: {{token: t}}}}], \
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]}}"
        )
    }

    fn access(kubeconfig: Option<OsString>) -> Access {
        Access { kubeconfig, component: "node" }
    }

    #[tokio::test]
    async fn of_several_kubeconfigs_the_first_counts() {
        let directory = tempfile::tempdir().unwrap();
        let paths = [directory.path().join("a"), directory.path().join("b")];
        std::fs::write(&paths[0], kubeconfig("https://10.0.0.1:6443")).unwrap();
        std::fs::write(&paths[1], kubeconfig("https://10.0.0.2:6443")).unwrap();
        let config = access(Some(std::env::join_paths(&paths).unwrap())).config().await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://10.0.0.1:6443/");
        access(Some(paths[1].clone().into())).client().await.unwrap();
    }

    #[tokio::test]
    async fn without_a_cluster_the_error_names_the_flag() {
        for none in [None, Some(OsString::new())] {
            let error = access(none).client().await.map(drop).unwrap_err();
            assert!(error.to_string().contains("--kubeconfig"), "{error}");
        }
        let error = access(Some("/nowhere".into())).client().await.map(drop).unwrap_err();
        assert_eq!(error.to_string(), "failed to use the kubeconfig /nowhere");
    }
}
