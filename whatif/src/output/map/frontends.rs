//! Ingresses and routes of Gateways, and the backends that their clients can connect to.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy_engine::model::PodKey;
use policy_engine::object::ObjectRef;
use policy_engine::reach::PortSet;
use portcullis_lint::{Input, Names, OpenBackend, open_backends};
use schemars::JsonSchema;
use serde::Serialize;

use super::matrix::{Matrix, Shared};
use crate::args::By;
use crate::model::{Cluster, Unit};
use crate::output::json::Ports;

/// An Ingress or route, and one Service that it leads connections to.
///
/// It is not an allowed connection itself: the pods of the ingress controller or Gateway connect to
/// the backends, and their connections are listed like those of all pods.
#[derive(Serialize, JsonSchema, Clone, PartialEq, Eq, Debug)]
pub struct FrontendEdge {
    /// `namespace/ingress/name`, `namespace/httproute/name`.
    pub frontend: Arc<str>,
    /// The Gateways of a route: `namespace/gateway/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// The Service: `namespace/service/name`.
    pub service: Arc<str>,
    /// The workloads behind the Service to which the clients of the frontend can connect; never empty.
    pub backends: Vec<Arc<str>>,
    /// The ports of the pods on which they can.
    pub allowed: Arc<[Ports]>,
    #[serde(skip)]
    set: PortSet,
}

impl FrontendEdge {
    /// The ports of the pods on which the clients can connect.
    #[must_use]
    pub fn ports(&self) -> PortSet {
        self.set.clone()
    }
}

/// All edges from frontends to the units of a matrix.
#[must_use]
pub fn edges(cluster: &Cluster, matrix: &Matrix) -> Vec<FrontendEdge> {
    let found = open_backends(Input {
        world: &cluster.world,
        services: &cluster.services,
        frontends: &cluster.frontends,
        api_server: &[],
        api_clients: &BTreeSet::new(),
        names: &Names::new(),
        documents: &cluster.documents,
    });
    if found.is_empty() {
        return Vec::new();
    }
    let units: BTreeSet<&Arc<str>> =
        matrix.everyone.of_class.iter().flatten().map(|unit: &Unit| &unit.name).collect();
    let name = |pod: &PodKey| -> Arc<str> {
        if matrix.by == By::Namespace {
            return format!("{}/*", pod.namespace).into();
        }
        let workload = cluster.workload_of(pod).map(|name| Arc::from(name.to_string()));
        let workload = workload.filter(|name| units.contains(name) && matrix.by != By::Pod);
        workload.unwrap_or_else(|| cluster.pod_ref(pod).into())
    };
    let mut shared = Shared::default();
    let edge = |backend: OpenBackend| {
        let OpenBackend { object, gateways, service: (namespace, service), traffic, pods } =
            backend;
        let set = PortSet::of(traffic);
        let backends: BTreeSet<Arc<str>> = pods.iter().map(name).collect();
        FrontendEdge {
            frontend: reference(&object).into(),
            gateways: gateways
                .iter()
                .map(|(namespace, name)| format!("{namespace}/gateway/{name}"))
                .collect(),
            service: format!("{namespace}/service/{service}").into(),
            backends: backends.into_iter().collect(),
            allowed: shared.ports(&set),
            set,
        }
    };
    found.into_iter().map(edge).collect()
}

fn reference(object: &ObjectRef) -> String {
    format!("{}/{}/{}", object.namespace, object.kind.lower(), object.name)
}
