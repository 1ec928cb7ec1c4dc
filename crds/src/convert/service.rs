//! Services: the pods that they select, and their ports.

use std::net::IpAddr;

use policy_engine::labels::{Labels, Str};
use policy_engine::model::Pod;
use policy_engine::port::Protocol;
use serde_json::Value;

use crate::cidr;
use crate::decode::Field;
use crate::report::Report;

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: Str,
    /// Its name.
    pub name: Str,
    /// The labels of its pods; `None` when it selects no pods.
    pub selector: Option<Labels>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its virtual addresses; empty for a headless Service and in most files.
    pub addresses: Vec<IpAddr>,
    /// The access for external clients; `None` if only clients in the cluster can connect.
    pub exposure: Option<Exposure>,
}

/// The access for external clients to a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exposure {
    /// Whether its type is LoadBalancer, and not NodePort.
    pub load_balancer: bool,
    /// `externalTrafficPolicy: Local`: pods see the address of the client, and not of a node.
    pub keeps_client: bool,
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServicePort {
    /// Its name, if it has one.
    pub name: Option<Str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the virtual address.
    pub number: u16,
    /// The port of the pods.
    pub target: TargetPort,
}

/// A port of the pods behind a Service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name in the containers of each pod.
    Named(Str),
}

impl Service {
    /// Whether the Service sends connections to `pod`.
    #[must_use]
    pub fn selects(&self, pod: &Pod) -> bool {
        self.namespace == pod.key.namespace
            && self.selector.as_ref().is_some_and(|selector| {
                let mut wanted = selector.iter();
                wanted.all(|(key, value)| pod.labels.get(key) == Some(value))
            })
    }
}

impl ServicePort {
    /// The ports of `pod` to which this port leads.
    #[must_use]
    pub fn resolve(&self, pod: &Pod) -> Vec<u16> {
        match &self.target {
            TargetPort::Number(number) => vec![*number],
            TargetPort::Named(name) => {
                let named = pod.ports.iter();
                let named = named.filter(|p| p.name == *name && p.protocol == self.protocol);
                named.map(|port| port.number).collect()
            }
        }
    }
}

/// The Service as written at `root`.
pub(super) fn service(
    namespace: Str,
    name: Str,
    root: &Field<'_>,
    report: &mut Report<'_>,
) -> Service {
    let spec = root.get("spec");
    let selector = spec.as_ref().and_then(|spec| spec.get("selector"));
    let selector = selector.and_then(|field| {
        let pairs = field.value.as_object()?.iter();
        let pairs = pairs.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()));
        let labels: Labels = pairs.collect();
        (!labels.is_empty()).then_some(labels)
    });
    let mut ports = Vec::new();
    if let Some(field) = spec.as_ref().and_then(|spec| spec.get("ports")) {
        let effect = "the Service counts as without ports";
        for (at, value) in field.list(report, effect).into_iter().flatten().enumerate() {
            match port(value) {
                Some(port) => ports.push(port),
                None => report.error(&field.path.index(at), "is no port; it is left out"),
            }
        }
    }
    let listed = root.value.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let single = root.value.pointer("/spec/clusterIP");
    let texts = listed.into_iter().flatten().chain(single).filter_map(Value::as_str);
    let mut addresses: Vec<IpAddr> =
        texts.filter_map(|text| Some(cidr::address(text)?.value)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let text = |pointer: &str| root.value.pointer(pointer).and_then(Value::as_str);
    let load_balancer = match text("/spec/type") {
        Some("LoadBalancer") => Some(true),
        Some("NodePort") => Some(false),
        _ => None,
    };
    let keeps_client = text("/spec/externalTrafficPolicy") == Some("Local");
    let exposure = load_balancer.map(|load_balancer| Exposure { load_balancer, keeps_client });
    Service { namespace, name, selector, ports, addresses, exposure }
}

fn port(value: &Value) -> Option<ServicePort> {
    let protocol = value.get("protocol").map_or(Some("TCP"), Value::as_str)?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.as_str() == protocol)?;
    let number = u16::try_from(value.get("port")?.as_u64()?).ok().filter(|number| *number > 0)?;
    let target = match value.get("targetPort") {
        None | Some(Value::Null) => TargetPort::Number(number),
        Some(Value::String(name)) if !name.is_empty() => TargetPort::Named(name.as_str().into()),
        Some(target) => TargetPort::Number(u16::try_from(target.as_u64()?).ok()?),
    };
    let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    Some(ServicePort { name: name.map(Into::into), protocol, number, target })
}
