//! A live cluster, read once: every object that answers depend on, page by page.
//!
//! ```text
//! kubeconfig ─► Config ─► Client ─► Pages ─► lean::snapshot ─► objects
//!                                   403: only the given namespace, and a Gap
//! kinds that a cluster may lack: in the version that discovery names, if any
//! ```

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::Client;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Revision;
use portcullis_apiserver::failure::has_code;
use portcullis_apiserver::pages::Pages;
use portcullis_crds::convert::revision;
use portcullis_crds::lean;
use serde_json::Value;

use super::connection::{Connection, within};
use crate::args::SourceArgs;
use crate::gap::{Cause, Gap, Place};

/// How often one kind is read again when its pages expired on the way.
const ATTEMPTS: usize = 3;

/// The resources that answers depend on, and their kinds.
const RESOURCES: [(&str, Kind); 14] = [
    ("namespaces", Kind::Namespace),
    ("nodes", Kind::Node),
    ("networkpolicies", Kind::NetworkPolicy),
    ("clusternetworkpolicies", Kind::ClusterNetworkPolicy),
    ("clusterdefaultnetworkpolicies", Kind::ClusterDefaultNetworkPolicy),
    ("services", Kind::Service),
    ("deployments", Kind::Deployment),
    ("statefulsets", Kind::StatefulSet),
    ("daemonsets", Kind::DaemonSet),
    ("replicasets", Kind::ReplicaSet),
    ("replicationcontrollers", Kind::ReplicationController),
    ("jobs", Kind::Job),
    ("cronjobs", Kind::CronJob),
    // Pods are read last, so that their owners are read before them.
    ("pods", Kind::Pod),
];

/// Kinds that few answers depend on, and no verdict between pods: the addresses of the API server,
/// objects that lead connections to Services, and bindings of roles.
const EXTRAS: [(&str, Kind); 11] = [
    ("namespaces/default/endpointslices", Kind::EndpointSlice),
    ("ingresses", Kind::Ingress),
    ("httproutes", Kind::HttpRoute),
    ("grpcroutes", Kind::GrpcRoute),
    ("tlsroutes", Kind::TlsRoute),
    ("tcproutes", Kind::TcpRoute),
    ("udproutes", Kind::UdpRoute),
    ("mutatingwebhookconfigurations", Kind::MutatingWebhookConfiguration),
    ("validatingwebhookconfigurations", Kind::ValidatingWebhookConfiguration),
    ("rolebindings", Kind::RoleBinding),
    ("clusterrolebindings", Kind::ClusterRoleBinding),
];

/// Whether a cluster may lack a kind, or serve it in several versions.
fn is_optional(kind: Kind) -> bool {
    kind.is_policy() && kind != Kind::NetworkPolicy
}

/// The objects of a live cluster.
pub struct Live {
    /// The objects, cut down.
    pub objects: Vec<Value>,
    /// The kinds of objects that could not be read.
    pub gaps: Vec<Gap>,
    /// The namespace of endpoints that name none.
    pub namespace: String,
    /// The revision of each policy. It is not a part of `objects`: no other answer depends on it.
    pub revisions: BTreeMap<ObjectRef, Revision>,
}

/// Reads the cluster that the arguments name.
///
/// # Errors
/// When the server cannot be reached, or its response is neither objects nor 403 Forbidden.
pub fn read(args: &SourceArgs) -> Result<Live> {
    Connection::new(args)?.read()
}

impl Connection {
    /// Reads all objects that answers depend on.
    ///
    /// # Errors
    /// When the server cannot be reached, or its response is neither objects nor 403 Forbidden.
    pub fn read(&self) -> Result<Live> {
        let mut reader = Reader {
            client: self.client(),
            limit: self.limit(),
            objects: Vec::new(),
            revisions: BTreeMap::new(),
            progress: Progress::new(self.shows_progress()),
        };
        let mut gaps = Vec::new();
        self.block_on(async {
            for resource in RESOURCES {
                gaps.extend(reader.kind(resource, self.namespace()).await?);
            }
            for (plural, kind) in EXTRAS {
                reader.extra(plural, kind).await?;
            }
            anyhow::Ok(())
        })?;
        reader.progress.clear();
        let Reader { objects, revisions, .. } = reader;
        Ok(Live { objects, gaps, namespace: self.namespace().to_owned(), revisions })
    }

    /// Whether the cluster has a policy, in any of the versions that are understood.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn has(&self, policy: &ObjectRef) -> Result<bool> {
        let plural =
            RESOURCES.iter().find(|(_, kind)| *kind == policy.kind).map(|(plural, _)| plural);
        let plural = plural.context("not a kind that is read")?;
        for version in policy.kind.versions() {
            let root = format!("/apis/{}", policy.kind.api_version_of(version));
            let path = match &*policy.namespace {
                "" => format!("{root}/{plural}"),
                namespace => format!("{root}/namespaces/{namespace}/{plural}"),
            };
            let found = self.get(&path, &policy.name);
            if found.with_context(|| format!("failed to read {policy}"))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

struct Reader {
    client: Client,
    /// How long one request may take.
    limit: Duration,
    objects: Vec<Value>,
    revisions: BTreeMap<ObjectRef, Revision>,
    progress: Progress,
}

impl Reader {
    /// Reads one kind. If it may not be listed in all namespaces, only `namespace` is listed.
    async fn kind(&mut self, (plural, kind): (&str, Kind), namespace: &str) -> Result<Option<Gap>> {
        let forbidden = |place| {
            let (resource, group) = (plural.to_owned(), kind.group().to_owned());
            Some(Gap { kind, place, cause: Cause::Forbidden { resource, group } })
        };
        let optional = is_optional(kind);
        let mut refused = None;
        for version in kind.versions() {
            match self.list(kind, version, plural).await {
                Ok(()) => return Ok(None),
                Err(error) if optional && has_code(&error, 404) => {}
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let failed = || format!("failed to list {plural}; -f asks manifests instead");
        if refused.as_ref().is_some_and(|error| !has_code(error, 403)) {
            return refused.map_or(Ok(None), |error| Err(error).context(failed()));
        }
        if optional {
            // Without permission to list, the response is 403 also for a kind that does not exist.
            return match (self.version(kind, plural).await, refused) {
                (Ok(None), _) => Ok(None),
                (_, Some(_)) => Ok(forbidden(Place::Everywhere)),
                (Ok(Some(version)), None) => {
                    let listed = self.list(kind, &version, plural).await;
                    listed.map(|()| None).with_context(failed)
                }
                (Err(error), None) => Err(error).with_context(failed),
            };
        }
        if !kind.is_namespaced() {
            return Ok(forbidden(Place::Everywhere));
        }
        let one = format!("namespaces/{namespace}/{plural}");
        match self.list(kind, kind.preferred_version(), &one).await {
            Ok(()) => Ok(forbidden(Place::Except(namespace.into()))),
            Err(error) if has_code(&error, 403) => Ok(forbidden(Place::Everywhere)),
            Err(error) => Err(error).context(format!("failed to list {plural}")),
        }
    }

    /// Reads a kind that the server may lack or forbid to list: then it has no objects.
    async fn extra(&mut self, plural: &str, kind: Kind) -> Result<()> {
        for version in kind.versions() {
            match self.list(kind, version, plural).await {
                Ok(()) => break,
                Err(error) if has_code(&error, 403) || has_code(&error, 404) => {}
                Err(error) => return Err(error).context(format!("failed to list {plural}")),
            }
        }
        Ok(())
    }

    /// The version in which the server has a kind: the first one that is understood, else any
    /// other; `None` if the server lacks the kind. Discovery needs no permissions.
    async fn version(&self, kind: Kind, plural: &str) -> Result<Option<String>, kube::Error> {
        let groups = within(self.limit, self.client.list_api_groups()).await?.groups.into_iter();
        let group =
            groups.filter(|group| group.name == kind.group()).flat_map(|group| group.versions);
        let known = kind.versions();
        let mut versions: Vec<String> = group.map(|served| served.version).collect();
        let place = |version: &String| known.iter().position(|known| known == version);
        versions.sort_by_key(|version| place(version).unwrap_or(known.len()));
        for version in versions {
            let api_version = kind.api_version_of(&version);
            let request = self.client.list_api_group_resources(&api_version);
            match within(self.limit, request).await {
                Ok(found) if found.resources.iter().any(|found| found.name == plural) => {
                    return Ok(Some(version));
                }
                Ok(_) => {}
                Err(error) if has_code(&error, 404) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads the objects of a version of a kind's group at the path `resource`.
    async fn list(&mut self, kind: Kind, version: &str, resource: &str) -> Result<(), kube::Error> {
        let api_version = kind.api_version_of(version);
        let root = if kind.group().is_empty() { "api" } else { "apis" };
        let path = format!("/{root}/{api_version}/{resource}");
        let mut attempts = 1;
        loop {
            match self.pages(&path, &api_version, kind).await {
                Ok(objects) => {
                    self.objects.extend(objects);
                    return Ok(());
                }
                // All pages are from one point in time, which has expired.
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
        kind: Kind,
    ) -> Result<Vec<Value>, kube::Error> {
        let (mut objects, mut pages) = (Vec::new(), Pages::new(path, None));
        loop {
            self.progress.show(kind, objects.len());
            let page = within(self.limit, pages.next::<Value>(&self.client)).await?;
            for mut item in page.items {
                if let Value::Object(fields) = &mut item {
                    fields.insert("apiVersion".to_owned(), api_version.into());
                    fields.insert("kind".to_owned(), kind.as_str().into());
                }
                if kind.is_policy() {
                    self.revisions.extend(revision_of(kind, &item));
                }
                objects.extend(lean::snapshot(&item));
            }
            if page.last.is_some() {
                return Ok(objects);
            }
        }
    }
}

/// The name and revision of a policy of an API server.
fn revision_of(kind: Kind, policy: &Value) -> Option<(ObjectRef, Revision)> {
    let metadata = policy.get("metadata")?;
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    let name = ObjectRef::new(kind, text("namespace").unwrap_or_default(), text("name")?);
    Some((name, revision(policy)))
}

/// A line on standard error with the kind that is being read, if standard error is a terminal.
struct Progress {
    shown: bool,
}

impl Progress {
    fn new(is_wanted: bool) -> Self {
        Self { shown: is_wanted && std::io::stderr().is_terminal() }
    }

    fn show(&self, kind: Kind, read: usize) {
        if self.shown {
            let count = if read > 0 { format!(" ({read})") } else { String::new() };
            let _ = write!(std::io::stderr(), "\r\x1b[Kreading {} objects{count} …", kind.as_str());
        }
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Rejects flags for a live cluster if manifests are read. [`read`] reports errors of a kubeconfig.
pub(super) fn needs_cluster(args: &SourceArgs) -> Result<()> {
    if args.filename.is_empty() {
        return Ok(());
    }
    if let Some(flag) = args.cluster_flag() {
        bail!("{flag} is about a live cluster, and -f reads manifests instead");
    }
    Ok(())
}
