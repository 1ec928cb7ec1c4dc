//! A connection to a live cluster: the server, the credentials, and the time limit of a request.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::GetParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::{Client, Config};
use portcullis_apiserver::failure::has_code;
use portcullis_apiserver::pages::Pages;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::args::SourceArgs;

/// How long the server may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// How long one request may take, unless `--request-timeout` is given.
const REQUEST_LIMIT: Duration = Duration::from_mins(1);

/// The server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s; --request-timeout sets this limit", limit.as_secs_f32())]
struct TimedOut {
    limit: Duration,
}

/// Waits for the response to one request, at most for `limit`; zero means without a limit.
pub(super) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    if limit.is_zero() {
        return request.await;
    }
    let answer = tokio::time::timeout(limit, request).await;
    answer.unwrap_or_else(|_| Err(kube::Error::Service(Box::new(TimedOut { limit }))))
}

/// A connection to the cluster that the arguments name.
pub struct Connection {
    runtime: Runtime,
    client: Client,
    namespace: String,
    limit: Duration,
    shows_progress: bool,
}

impl Connection {
    /// Finds the cluster and prepares a client. Nothing is requested yet.
    ///
    /// # Errors
    /// When no cluster is named, or the kubeconfig cannot be used.
    pub fn new(args: &SourceArgs) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start")?;
        let (client, namespace) = runtime.block_on(async {
            let config = config(args).await?;
            let namespace = args.namespace.clone();
            let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
            let client = Client::try_from(config).context("failed to prepare a client")?;
            anyhow::Ok((client, namespace))
        })?;
        let limit = args.request_timeout.unwrap_or(REQUEST_LIMIT);
        Ok(Self { runtime, client, namespace, limit, shows_progress: true })
    }

    /// The namespace of endpoints and objects that name none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same connection without a line about the progress of reads, for those in the background.
    #[must_use]
    pub fn without_progress(self) -> Self {
        Self { shows_progress: false, ..self }
    }

    /// Whether a line on standard error may show how far a read is.
    pub(super) fn shows_progress(&self) -> bool {
        self.shows_progress
    }

    /// A client, for requests within [`Connection::block_on`].
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// How long one request may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Waits for a task that makes requests.
    pub(super) fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        self.runtime.block_on(task)
    }

    /// Reads all objects at `path`, for example `/api/v1/pods`, page by page.
    pub(super) fn list(&self, path: &str) -> Result<Vec<Value>, kube::Error> {
        self.runtime.block_on(async {
            let (mut objects, mut pages) = (Vec::new(), Pages::new(path, None));
            loop {
                let page = within(self.limit, pages.next::<Value>(&self.client)).await?;
                objects.extend(page.items);
                if page.last.is_some() {
                    return Ok(objects);
                }
            }
        })
    }

    /// Reads one object; `None` when there is none of this name.
    pub(super) fn get(&self, path: &str, name: &str) -> Result<Option<Value>, kube::Error> {
        self.runtime.block_on(async {
            let request = Request::new(path).get(name, &GetParams::default());
            let request = request.map_err(kube::Error::BuildRequest)?;
            match within(self.limit, self.client.request::<Value>(request)).await {
                Ok(object) => Ok(Some(object)),
                Err(error) if has_code(&error, 404) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }
}

impl Connection {
    /// Reads a pod; `None` when there is none of this name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Option<Value>> {
        let pod = self.get(&format!("/api/v1/namespaces/{namespace}/pods"), name);
        pod.with_context(|| format!("failed to read the pod {namespace}/{name}"))
    }
}

/// The server and credentials, as kubectl finds them: the files of `--kubeconfig` or `KUBECONFIG`,
/// else `~/.kube/config`, else the ServiceAccount of the pod.
async fn config(args: &SourceArgs) -> Result<Config> {
    let hint = "no source: name manifests with -f, or a cluster with a kubeconfig";
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)
            .with_context(|| format!("failed to use the kubeconfig {}", path.display()))
            .map(Some)?,
        None => match Kubeconfig::read() {
            Ok(found) => Some(found),
            Err(error) => match Config::incluster() {
                Ok(config) if args.context.is_none() => return Ok(impersonated(config, args)),
                _ => bail!("{hint} ({error})"),
            },
        },
    };
    let options = KubeConfigOptions { context: args.context.clone(), ..Default::default() };
    let kubeconfig = kubeconfig.context(hint)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.context(hint)?;
    config.connect_timeout = Some(CONNECT_LIMIT);
    // Each request has its own limit.
    config.read_timeout = None;
    Ok(impersonated(config, args))
}

fn impersonated(mut config: Config, args: &SourceArgs) -> Config {
    if let Some(user) = &args.impersonate {
        config.auth_info.impersonate = Some(user.clone());
    }
    if !args.impersonate_group.is_empty() {
        config.auth_info.impersonate_groups = Some(args.impersonate_group.clone());
    }
    config
}
