//! Services: what a lab renders for them as kube-proxy would, and which pod answers.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use policy_engine::object::ObjectRef;
use policy_engine::port::Protocol;
use portcullis_whatif::policytest::member::Member;
use serde_json::Value;

use super::object::{items, port, text};

/// A Service with one pod behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Its virtual addresses, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The pod that its selector selects.
    pub backend: Member,
}

/// One port of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the virtual address.
    pub port: u16,
    /// The port of the pod, a named `targetPort` resolved.
    pub target: u16,
    /// The port of every node, for type NodePort.
    pub node_port: Option<u16>,
}

impl Service {
    /// Resolves a manifest among the pods of its namespace, each given with its manifest.
    pub(super) fn resolve<'w>(
        object: &ObjectRef,
        manifest: &Value,
        pods: impl Iterator<Item = (&'w Member, &'w Value)>,
    ) -> Result<Self> {
        let wanted = manifest.pointer("/spec/selector").and_then(Value::as_object);
        let wanted = wanted.context("spec.selector is missing")?;
        let selected: Vec<_> = pods
            .filter(|(_, pod)| {
                let labels = pod.pointer("/metadata/labels");
                wanted.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
            })
            .collect();
        let [(backend, pod)] = selected.as_slice() else {
            bail!("it must have one pod behind it, and has {}", selected.len());
        };
        let ips = items(manifest, "/spec/clusterIPs").iter().filter_map(Value::as_str);
        let ports = items(manifest, "/spec/ports").iter();
        Ok(Self {
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
            cluster_ips: ips.map(str::parse).collect::<Result<_, _>>()?,
            ports: ports.map(|port| service_port(port, pod)).collect::<Result<_>>()?,
            backend: (*backend).clone(),
        })
    }
}

fn service_port(manifest: &Value, pod: &Value) -> Result<ServicePort> {
    let protocol = protocol_of(manifest)?;
    let number = port(manifest, "/port").context("a port lacks its number")?;
    let target = match text(manifest, "/targetPort") {
        Some(name) => named(pod, name, protocol)
            .with_context(|| format!("the pod has no {protocol} port named {name:?}"))?,
        None => port(manifest, "/targetPort").unwrap_or(number),
    };
    Ok(ServicePort { protocol, port: number, target, node_port: port(manifest, "/nodePort") })
}

fn named(pod: &Value, name: &str, protocol: Protocol) -> Option<u16> {
    let sidecars = items(pod, "/spec/initContainers")
        .iter()
        .filter(|container| text(container, "/restartPolicy") == Some("Always"));
    let containers = items(pod, "/spec/containers").iter().chain(sidecars);
    containers
        .flat_map(|container| items(container, "/ports"))
        .filter(|port| text(port, "/name") == Some(name))
        .find(|port| protocol_of(port).is_ok_and(|found| found == protocol))
        .and_then(|found| port(found, "/containerPort"))
}

fn protocol_of(port: &Value) -> Result<Protocol> {
    let name = text(port, "/protocol").unwrap_or("TCP");
    let found = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == name);
    found.with_context(|| format!("unknown protocol {name:?}"))
}
