//! Objects that lead connections to Services, and the addresses of Services that select no pods.
//!
//! Policies do not depend on them, so a part that cannot be understood is left out without a report:
//! the API server and its controllers check them.

use std::net::IpAddr;
use std::sync::Arc;

use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::model::Change;
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::Policy;
use policy_engine::port::Protocol;
use policy_engine::world::World;
use serde_json::Value;

use crate::cidr;
use crate::diagnostic::{About, Diagnostic, Severity};
use crate::path::FieldPath;

/// The namespace and the name of the Service of the API server.
pub const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// An Ingress, a route of Gateways (HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute), or the
/// configuration of webhooks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// Its name.
    pub object: ObjectRef,
    /// The Services that it leads to, in the order in which they are written.
    pub backends: Vec<Backend>,
    /// The Gateways of a route, by namespace and name.
    pub gateways: Vec<(Str, Str)>,
}

/// A Service that a [`Frontend`] leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// The namespace of the Service.
    pub namespace: Str,
    /// The name of the Service.
    pub service: Str,
    /// The port of the Service.
    pub port: BackendPort,
    /// The field of the frontend that names the Service.
    pub field: FieldPath,
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BackendPort {
    /// A port number.
    Number(u16),
    /// A port name.
    Name(Str),
}

/// Addresses of a Service: an Endpoints object, or an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// Its name.
    pub object: ObjectRef,
    /// The name of the Service, which is in the same namespace.
    pub service: Str,
    /// Each address with each port, and the name of the port, which is empty if it has none.
    pub addresses: Vec<(IpAddr, Protocol, u16, Str)>,
}

impl Endpoints {
    /// The change for the engine, if these are addresses of the API server: of the Service
    /// `kubernetes` in `default`.
    #[must_use]
    pub fn api_server(&self) -> Option<Change> {
        let service = (&*self.object.namespace, &*self.service);
        let addresses = self.addresses.iter();
        let addresses = addresses.map(|(address, protocol, port, _)| (*address, *protocol, *port));
        (service == API_SERVER)
            .then(|| Change::ApiServer(self.object.clone(), Some(addresses.collect())))
    }
}

/// A diagnostic for each policy that allows connections to the API server, while the world has no
/// address of it.
#[must_use]
pub fn missing_api_server(world: &World) -> Vec<Diagnostic> {
    let policies = world.policies_in("");
    let empty = policies.filter(|policy| policy.api_server(Direction::Egress) == Some(&[]));
    let diagnostic = |policy: &Arc<Policy>| Diagnostic {
        severity: Severity::Error,
        source: None,
        about: About::Object(policy.name.clone()),
        field: FieldPath::new(["spec", "allowAPIServer"]),
        message: "allows nothing: there is no EndpointSlice or Endpoints object with addresses of \
                  the Service `kubernetes` in `default`"
            .to_owned(),
    };
    empty.map(diagnostic).collect()
}

/// The frontend as written in `value`.
pub(super) fn frontend(object: ObjectRef, value: &Value) -> Frontend {
    let backends = match object.kind {
        Kind::Ingress => ingress(&object.namespace, value),
        kind if kind.is_route() => route(&object.namespace, value),
        _ => webhooks(value),
    };
    let parents = value.pointer("/spec/parentRefs").filter(|_| object.kind.is_route());
    let gateways = items(parents).filter_map(|(_, parent)| {
        let text = |key: &str| parent.get(key).and_then(Value::as_str);
        let namespace = text("namespace").map_or_else(|| object.namespace.clone(), Str::from);
        let is_gateway = text("kind").unwrap_or("Gateway") == "Gateway";
        Some((namespace, text("name")?.into())).filter(|_| is_gateway)
    });
    let gateways = gateways.collect();
    Frontend { object, backends, gateways }
}

fn ingress(namespace: &Str, value: &Value) -> Vec<Backend> {
    let backend = |value: &Value, field: FieldPath| {
        let service = value.get("service")?;
        let port = service.get("port")?;
        Some(Backend {
            namespace: namespace.clone(),
            service: service.get("name")?.as_str()?.into(),
            port: match port.get("name").and_then(Value::as_str) {
                Some(name) => BackendPort::Name(name.into()),
                None => BackendPort::Number(number(port.get("number")?)?),
            },
            field: field.key("service").key("name"),
        })
    };
    let default = value.pointer("/spec/defaultBackend");
    let field = FieldPath::new(["spec", "defaultBackend"]);
    let mut found: Vec<Backend> =
        default.and_then(|value| backend(value, field)).into_iter().collect();
    for (rule_at, rule) in items(value.pointer("/spec/rules")) {
        for (at, path) in items(rule.pointer("/http/paths")) {
            let field = FieldPath::new(["spec", "rules"]).index(rule_at);
            let field = field.key("http").key("paths").index(at).key("backend");
            found.extend(path.get("backend").and_then(|value| backend(value, field)));
        }
    }
    found
}

fn route(own: &Str, value: &Value) -> Vec<Backend> {
    let mut found = Vec::new();
    for (rule_at, rule) in items(value.pointer("/spec/rules")) {
        for (at, backend) in items(rule.get("backendRefs")) {
            let text = |key: &str| backend.get(key).and_then(Value::as_str);
            let is_service = text("kind").unwrap_or("Service") == "Service"
                && text("group").unwrap_or_default().is_empty();
            // A backend with this weight receives no requests.
            let is_used = backend.get("weight").and_then(Value::as_u64) != Some(0);
            let port = backend.get("port").and_then(number);
            let Some((service, port)) = text("name").zip(port) else { continue };
            if is_service && is_used {
                let field = FieldPath::new(["spec", "rules"]).index(rule_at);
                found.push(Backend {
                    namespace: text("namespace").map_or_else(|| own.clone(), Str::from),
                    service: service.into(),
                    port: BackendPort::Number(port),
                    field: field.key("backendRefs").index(at).key("name"),
                });
            }
        }
    }
    found
}

fn webhooks(value: &Value) -> Vec<Backend> {
    let backend = |(at, webhook): (usize, &Value)| {
        let service = webhook.pointer("/clientConfig/service")?;
        let text = |key: &str| service.get(key).and_then(Value::as_str);
        let field = FieldPath::new(["webhooks"]).index(at).key("clientConfig");
        Some(Backend {
            namespace: text("namespace")?.into(),
            service: text("name")?.into(),
            // admissionregistration.k8s.io/v1: the default is 443.
            port: BackendPort::Number(service.get("port").map_or(Some(443), number)?),
            field: field.key("service").key("name"),
        })
    };
    items(value.get("webhooks")).filter_map(backend).collect()
}

/// Whether an EndpointSlice or Endpoints object is one of the API server.
pub(super) fn lists_api_server(value: &Value, default_namespace: &str) -> bool {
    let text = |pointer: &str| {
        let found = value.pointer(pointer).and_then(Value::as_str);
        found.filter(|text| !text.is_empty())
    };
    let namespace = text("/metadata/namespace").unwrap_or(default_namespace);
    let service = text("/metadata/labels/kubernetes.io~1service-name");
    service.or(text("/metadata/name")).is_some_and(|service| (namespace, service) == API_SERVER)
}

/// The addresses as written in `value`.
pub(super) fn endpoints(object: ObjectRef, value: &Value) -> Endpoints {
    let label = value.pointer("/metadata/labels/kubernetes.io~1service-name");
    let service = label.and_then(Value::as_str).map_or_else(|| object.name.clone(), Str::from);
    let mut addresses = Vec::new();
    let mut add = |hosts: Vec<&Value>, ports: &Value| {
        for host in hosts.iter().filter_map(|host| Some(cidr::address(host.as_str()?)?.value)) {
            for (_, port) in items(Some(ports)) {
                let text = |key: &str| port.get(key).and_then(Value::as_str);
                let protocol = text("protocol").unwrap_or("TCP");
                let known = Protocol::ALL.into_iter().find(|known| known.as_str() == protocol);
                if let Some((protocol, number)) = known.zip(port.get("port").and_then(number)) {
                    let name = text("name").unwrap_or_default();
                    addresses.push((host, protocol, number, Str::from(name)));
                }
            }
        }
    };
    if object.kind == Kind::EndpointSlice {
        let hosts = items(value.get("endpoints"));
        let hosts = hosts.flat_map(|(_, one)| items(one.get("addresses"))).map(|(_, host)| host);
        add(hosts.collect(), value.get("ports").unwrap_or(&Value::Null));
    } else {
        for (_, subset) in items(value.get("subsets")) {
            let hosts = items(subset.get("addresses")).filter_map(|(_, one)| one.get("ip"));
            add(hosts.collect(), subset.get("ports").unwrap_or(&Value::Null));
        }
    }
    Endpoints { object, service, addresses }
}

fn items(list: Option<&Value>) -> impl Iterator<Item = (usize, &Value)> {
    list.and_then(Value::as_array).into_iter().flatten().enumerate()
}

fn number(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::convert::inventory::{Item, item};

    /// The backends of an object: `namespace/service:port` at a field.
    fn check(value: &Value, expected: &[&str]) {
        let (Item::Frontend(found), diagnostics) = item(value, None, "shop") else {
            panic!("{value}")
        };
        assert_eq!(diagnostics, []);
        let text = |one: &Backend| {
            let port = match &one.port {
                BackendPort::Number(number) => number.to_string(),
                BackendPort::Name(name) => name.to_string(),
            };
            format!("{}/{}:{port} at {}", one.namespace, one.service, one.field)
        };
        assert_eq!(found.backends.iter().map(text).collect::<Vec<_>>(), expected, "{value}");
    }

    #[test]
    fn backends_of_every_kind_are_read() {
        check(
            &json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": {"name": "a"}, "spec": {
                    "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
                    "rules": [{"host": "x"}, {"http": {"paths": [
                        {"backend": {"resource": {"kind": "Bucket"}}},
                        {"backend": {"service": {"name": "api", "port": {"name": "http"}}}}]}}]}}),
            &[
                "shop/web:80 at spec.defaultBackend.service.name",
                "shop/api:http at spec.rules[1].http.paths[1].backend.service.name",
            ],
        );
        check(
            &json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "HTTPRoute",
                "metadata": {"name": "a"}, "spec": {"rules": [{"backendRefs": [
                    {"name": "web", "port": 80}, {"name": "old", "port": 80, "weight": 0},
                    {"name": "api", "namespace": "x", "port": 81}, {"kind": "Bucket", "name": "b"}]}]}}),
            &[
                "shop/web:80 at spec.rules[0].backendRefs[0].name",
                "x/api:81 at spec.rules[0].backendRefs[2].name",
            ],
        );
        for (version, kind) in [
            ("v1", "GRPCRoute"),
            ("v1", "TLSRoute"),
            ("v1alpha2", "TCPRoute"),
            ("v1alpha2", "UDPRoute"),
        ] {
            let route = json!({"apiVersion": format!("gateway.networking.k8s.io/{version}"),
                "kind": kind, "metadata": {"name": "a"}, "spec": {
                    "parentRefs": [{"name": "g"}, {"name": "h", "namespace": "x"},
                        {"name": "s", "kind": "Service"}],
                    "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}});
            check(&route, &["shop/web:80 at spec.rules[0].backendRefs[0].name"]);
            let (Item::Frontend(found), _) = item(&route, None, "shop") else { panic!("{route}") };
            let gateways = [("shop", "g"), ("x", "h")];
            assert_eq!(
                found.gateways,
                gateways.map(|(namespace, name)| (namespace.into(), name.into()))
            );
        }
        check(
            &json!({"apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "a"}, "webhooks": [
                    {"clientConfig": {"url": "https://x"}},
                    {"clientConfig": {"service": {"namespace": "y", "name": "hook"}}}]}),
            &["y/hook:443 at webhooks[1].clientConfig.service.name"],
        );
    }

    #[test]
    fn addresses_of_both_kinds_are_read() {
        let of = |value: &Value| match item(value, None, "default") {
            (Item::Endpoints(found), _) => found,
            (other, _) => panic!("{other:?}"),
        };
        let slice = of(&json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["192.0.2.2"]}],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}));
        let old = of(&json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}],
                "ports": [{"name": "https", "port": 6443}]}]}));
        assert_eq!(slice.service, old.service);
        assert_eq!(slice.addresses, old.addresses);
        assert_eq!(slice.addresses.len(), 2);
        let listed =
            slice.addresses.iter().map(|(address, protocol, port, _)| (*address, *protocol, *port));
        let change = Change::ApiServer(slice.object.clone(), Some(listed.collect()));
        assert_eq!(slice.api_server(), Some(change));
    }
}
