//! A live cluster, read once: every object that answers depend on, page by page.
//!
//! ```text
//! kubeconfig ─► Config ─► Client ─► pages of 500 ─► trim ─► objects
//!                                   403: only the namespace at hand, and a Gap
//!                                   404 of a kind that a cluster may lack: it has none
//! ```

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Deserialize;
use serde_json::Value;

use super::gap::Gap;
use super::trim::trim;
use crate::args::SourceArgs;

/// How many objects an API server is asked for at once; what kubectl asks for.
const PAGE: usize = 500;

/// How often one kind is read anew when its pages went out of date on the way.
const ATTEMPTS: usize = 3;

/// How long the server may take to be connected to.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// The resources that answers depend on: path, group, resource, kind.
const RESOURCES: [(&str, &str, &str, &str); 14] = [
    ("/api/v1", "", "namespaces", "Namespace"),
    ("/api/v1", "", "nodes", "Node"),
    ("/apis/networking.k8s.io/v1", "networking.k8s.io", "networkpolicies", "NetworkPolicy"),
    (
        "/apis/policy.networking.k8s.io/v1alpha2",
        "policy.networking.k8s.io",
        "clusternetworkpolicies",
        "ClusterNetworkPolicy",
    ),
    (
        "/apis/portcullis.dev/v1alpha1",
        "portcullis.dev",
        "clusterdefaultnetworkpolicies",
        "ClusterDefaultNetworkPolicy",
    ),
    ("/api/v1", "", "services", "Service"),
    ("/apis/apps/v1", "apps", "deployments", "Deployment"),
    ("/apis/apps/v1", "apps", "statefulsets", "StatefulSet"),
    ("/apis/apps/v1", "apps", "daemonsets", "DaemonSet"),
    ("/apis/apps/v1", "apps", "replicasets", "ReplicaSet"),
    ("/api/v1", "", "replicationcontrollers", "ReplicationController"),
    ("/apis/batch/v1", "batch", "jobs", "Job"),
    ("/apis/batch/v1", "batch", "cronjobs", "CronJob"),
    // Last: what made a pod is there before it is.
    ("/api/v1", "", "pods", "Pod"),
];

/// Whether a cluster may do without a kind.
fn is_optional(kind: &str) -> bool {
    ["ClusterNetworkPolicy", "ClusterDefaultNetworkPolicy"].contains(&kind)
}

/// What was read.
pub struct Live {
    /// The objects, cut down.
    pub objects: Vec<Value>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
    /// The namespace of endpoints that name none.
    pub namespace: String,
}

/// Reads the cluster that the arguments name.
///
/// # Errors
/// When there is no way to it, or it answers with anything but objects or a refusal.
pub fn read(args: &SourceArgs) -> Result<Live> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start")?;
    runtime.block_on(async {
        let config = config(args).await?;
        let namespace = match &args.namespace {
            Some(namespace) => namespace.clone(),
            None => config.default_namespace.clone(),
        };
        let client = Client::try_from(config).context("failed to prepare a client")?;
        let mut reader = Reader { client, objects: Vec::new(), progress: Progress::new() };
        let mut gaps = Vec::new();
        for resource in RESOURCES {
            gaps.extend(reader.kind(resource, &namespace).await?);
        }
        reader.progress.clear();
        Ok(Live { objects: reader.objects, gaps, namespace })
    })
}

/// Which server, as whom: the files of `--kubeconfig` or `KUBECONFIG`, else `~/.kube/config`, else
/// the pod's ServiceAccount; as kubectl does it.
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

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// What a server has of one group and version.
#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

struct Reader {
    client: Client,
    objects: Vec<Value>,
    progress: Progress,
}

impl Reader {
    /// Reads one kind; what may not be listed everywhere is listed in `namespace` alone.
    async fn kind(
        &mut self,
        (base, group, plural, kind): (&str, &str, &str, &str),
        namespace: &str,
    ) -> Result<Option<Gap>> {
        let api_version = base.trim_start_matches("/apis/").trim_start_matches("/api/");
        let everywhere = format!("{base}/{plural}");
        let Err(refused) = self.list(&everywhere, api_version, kind).await else {
            return Ok(None);
        };
        if is_optional(kind) && !self.is_served(&refused, base, plural).await {
            return Ok(None);
        }
        if !has_code(&refused, 403) {
            let failed = format!("failed to list {plural}; -f asks manifests instead");
            return Err(refused).context(failed);
        }
        let one = match kind {
            "Namespace" | "Node" => None,
            _ if is_optional(kind) => None,
            _ => {
                let path = format!("{base}/namespaces/{namespace}/{plural}");
                match self.list(&path, api_version, kind).await {
                    Ok(()) => Some(namespace.into()),
                    Err(error) if has_code(&error, 403) => None,
                    Err(error) => return Err(error).context(format!("failed to list {plural}")),
                }
            }
        };
        let (kind, group) = (kind.to_lowercase(), group.to_owned());
        Ok(Some(Gap { kind, resource: plural.to_owned(), group, except: one }))
    }

    /// Whether the server knows a resource whose list it refused. Who may not list is told so of
    /// resources that there are not; what there is anyone may ask.
    async fn is_served(&self, refused: &kube::Error, base: &str, plural: &str) -> bool {
        if has_code(refused, 404) {
            return false;
        }
        let Ok(request) = http::Request::get(base).body(Vec::new()) else { return true };
        match self.client.request::<Resources>(request).await {
            Ok(known) => known.resources.iter().any(|resource| resource.name == plural),
            Err(error) => !has_code(&error, 404),
        }
    }

    async fn list(&mut self, path: &str, api_version: &str, kind: &str) -> Result<(), kube::Error> {
        let mut attempts = 1;
        loop {
            match self.pages(path, api_version, kind).await {
                Ok(objects) => {
                    self.objects.extend(objects);
                    return Ok(());
                }
                // The pages are of one moment, and it is too long ago.
                Err(kube::Error::Api(status)) if status.code == 410 && attempts < ATTEMPTS => {
                    attempts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn pages(
        &mut self,
        path: &str,
        api_version: &str,
        kind: &str,
    ) -> Result<Vec<Value>, kube::Error> {
        let (mut objects, mut next) = (Vec::new(), String::new());
        loop {
            self.progress.show(kind, objects.len());
            let uri = format!("{path}?limit={PAGE}{next}");
            let request = http::Request::get(uri).body(Vec::new());
            let request = request.map_err(kube::Error::HttpError)?;
            let page: Page = self.client.request(request).await?;
            for mut item in page.items {
                if let Value::Object(fields) = &mut item {
                    fields.insert("apiVersion".to_owned(), api_version.into());
                    fields.insert("kind".to_owned(), kind.into());
                }
                objects.extend(trim(&item));
            }
            match page.metadata.next.filter(|token| !token.is_empty()) {
                Some(token) => next = format!("&continue={}", escaped(&token)),
                None => return Ok(objects),
            }
        }
    }
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// A continue token within a query: base64, which has `+`, `/` and `=`.
fn escaped(token: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    token.bytes().map(escape).collect()
}

/// A line on standard error that says what is being read, when someone looks.
struct Progress {
    shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal() }
    }

    fn show(&self, kind: &str, read: usize) {
        if self.shown {
            let count = if read > 0 { format!(" ({read})") } else { String::new() };
            let _ = write!(std::io::stderr(), "\r\x1b[Kreading {kind} objects{count} …");
        }
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// What a kubeconfig can be missing is told by [`read`]; this only says that there must be one.
pub(super) fn needs_cluster(args: &SourceArgs) -> Result<()> {
    if args.filename.is_empty() {
        return Ok(());
    }
    let live_only = [
        ("--context", args.context.is_some()),
        ("--kubeconfig", args.kubeconfig.is_some()),
        ("--as", args.impersonate.is_some()),
        ("--as-group", !args.impersonate_group.is_empty()),
    ];
    if let Some((flag, _)) = live_only.into_iter().find(|(_, given)| *given) {
        bail!("{flag} is about a live cluster, and -f reads manifests instead");
    }
    Ok(())
}
