//! The objects that are checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::labels::Str;
use policy_engine::model::PodKey;
use policy_engine::object::ObjectRef;
use policy_engine::port::Protocol;
use policy_engine::world::World;
use portcullis_crds::convert::frontend::Frontend;
use portcullis_crds::convert::service::Service;
use portcullis_crds::manifest::Document;

use crate::Names;

/// All Services by namespace and name.
pub type Services = BTreeMap<(Str, Str), Service>;

/// The objects that are checked.
#[derive(Clone, Copy)]
pub struct Input<'c> {
    /// The objects that policies are evaluated for.
    pub world: &'c World,
    /// The Services; empty where they are not known.
    pub services: &'c Services,
    /// The Ingresses, routes of Gateways and webhooks; empty where they are not known.
    pub frontends: &'c [Frontend],
    /// The addresses of the API server; empty where they are not known.
    pub api_server: &'c [(IpAddr, Protocol, u16)],
    /// The pods that have permissions in the API; empty where they are not known.
    pub api_clients: &'c BTreeSet<PodKey>,
    /// The names of pods in messages.
    pub names: &'c Names<'c>,
    /// The policies, Services and frontends that are written in files.
    pub documents: &'c BTreeMap<ObjectRef, Arc<Document>>,
}

impl<'c> Input<'c> {
    /// The Services of a namespace.
    pub(crate) fn services_of(
        self,
        namespace: &Str,
    ) -> impl Iterator<Item = &'c Service> + use<'c> {
        let (first, namespace) = ((namespace.clone(), Str::from("")), namespace.clone());
        let all = self.services.range(first..);
        all.take_while(move |((of, _), _)| *of == namespace).map(|(_, service)| service)
    }
}
