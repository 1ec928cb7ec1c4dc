//! Objects that lead connections to pods from outside of their namespace, and whose backends
//! policies close: Ingresses, routes of Gateways, webhooks, and Services for external clients.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::evaluate::evaluate;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::labels::Str;
use policy_engine::model::{Pod, PodKey};
use policy_engine::object::{Kind, ObjectRef};
use policy_engine::policy::{Peer, Peers, Policy};
use policy_engine::reach::ClassId;
use policy_engine::words;
use portcullis_crds::convert::frontend::{Backend, BackendPort, Frontend};
use portcullis_crds::convert::service::{Service, ServicePort};
use portcullis_crds::path::FieldPath;

use crate::pods::Group;
use crate::{Code, Context, Finding, few, finding, pairs, peers, places, sides, spec};

/// The labels by which charts name the pods of an ingress controller or gateway.
const NAME_LABELS: [&str; 3] = ["app.kubernetes.io/name", "app.kubernetes.io/component", "app"];

/// The names of ingress controllers and gateways in these labels.
const CONTROLLERS: [&str; 14] = [
    "cilium-ingress",
    "contour",
    "envoy",
    "envoy-gateway",
    "haproxy-ingress",
    "ingress-nginx",
    "istio-ingressgateway",
    "kong",
    "kubernetes-ingress",
    "nginx-gateway-fabric",
    "nginx-ingress",
    "skipper",
    "traefik",
    "voyager",
];

/// The label with the name of their Gateway that its pods have, by Gateway API.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The clients of the pods behind a frontend.
enum Clients<'c> {
    /// External clients, or nodes that replace their addresses.
    External,
    /// The API server, which is on a node or external.
    ApiServer,
    /// The pods of the Gateways of a route if they are known, else those of ingress controllers; if
    /// the source has none of these, any client may be one.
    Proxies(&'c [&'c Pod]),
}

/// A port of a Service that an object leads connections to, and that policies close to all of its
/// clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClosedBackend {
    /// The Ingress, route or configuration of webhooks; or the Service of type LoadBalancer itself.
    pub object: ObjectRef,
    /// The field that names the Service, or the port.
    pub field: FieldPath,
    /// The namespace and name of the Service.
    pub service: (Str, Str),
    /// The port of the pods.
    pub traffic: Traffic,
    /// The pods behind the Service.
    pub pods: BTreeSet<PodKey>,
    /// The clients that cannot connect, and the reason, as the end of a sentence.
    denied: String,
}

/// One finding for each backend that policies close to all clients of a frontend.
pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let finding = |closed: ClosedBackend| {
        let ClosedBackend { object, field, service: (namespace, name), traffic, pods, denied } =
            closed;
        let names = pods.iter().filter_map(|key| context.world.pods().get(key));
        let names = few(&names.map(|pod| context.name(pod)).collect());
        let message = format!(
            "Service {namespace}/{name} sends connections to {traffic} of {names}, and policies do \
             {denied}; add an ingress rule for it"
        );
        finding(Code::BackendClosed, &object, field, message)
    };
    all(context).into_iter().map(finding).collect()
}

/// All backends that are closed.
pub(super) fn all(context: &Context<'_>) -> Vec<ClosedBackend> {
    let mut found = Vec::new();
    each_backend(context, &mut |frontend, backend, (service, port), clients| {
        let place = (&frontend.object, backend.field.clone());
        found.extend(closed(context, service, port, clients, place));
    });
    for service in context.input.services.values() {
        if service.exposure.is_some_and(|exposure| exposure.load_balancer) {
            let (namespace, name) = (service.namespace.clone(), service.name.clone());
            let object = ObjectRef::new(Kind::Service, namespace, name);
            for (at, port) in service.ports.iter().enumerate() {
                let place = (&object, spec("ports").index(at).key("port"));
                found.extend(closed(context, service, port, &Clients::External, place));
            }
        }
    }
    found
}

/// A port of a Service that an Ingress or a route leads connections to, with the pods behind the
/// Service that its clients can connect to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpenBackend {
    /// The Ingress or route.
    pub object: ObjectRef,
    /// The namespaces and names of the Gateways of a route.
    pub gateways: Vec<(Str, Str)>,
    /// The namespace and name of the Service.
    pub service: (Str, Str),
    /// The port of the pods.
    pub traffic: Traffic,
    /// The pods, at least one.
    pub pods: BTreeSet<PodKey>,
}

/// All backends of Ingresses and routes that are open, each once.
pub(super) fn open(context: &Context<'_>) -> BTreeSet<OpenBackend> {
    let mut found = BTreeSet::new();
    each_backend(context, &mut |frontend, _, (service, port), clients| {
        if !matches!(clients, Clients::Proxies(_)) {
            return;
        }
        let groups = behind(context, service);
        let own: BTreeSet<ClassId> =
            groups.iter().flat_map(|group| context.classes_of(group)).collect();
        let mut pods: BTreeMap<Traffic, BTreeSet<PodKey>> = BTreeMap::new();
        for group in groups {
            for number in port.resolve(group.first()) {
                let traffic = Traffic::Port(port.protocol, number);
                let mut open = context.classes_of(group);
                open.retain(|class| is_open(context, *class, traffic, clients, &own));
                let keys = group.pods().iter().map(|pod| &pod.key).filter(|pod| {
                    context.reach.class_of(pod).is_some_and(|class| open.contains(&class))
                });
                let keys: BTreeSet<PodKey> = keys.cloned().collect();
                if !keys.is_empty() {
                    pods.entry(traffic).or_default().extend(keys);
                }
            }
        }
        found.extend(pods.into_iter().map(|(traffic, pods)| OpenBackend {
            object: frontend.object.clone(),
            gateways: frontend.gateways.clone(),
            service: (service.namespace.clone(), service.name.clone()),
            traffic,
            pods,
        }));
    });
    found
}

/// What is done with a frontend, one of its backends, the port of the Service, and the clients.
type Visit<'c, 'v> = dyn FnMut(&Frontend, &Backend, (&'c Service, &ServicePort), &Clients<'_>) + 'v;

/// Calls `visit` for each port of a Service that a frontend leads to, with the clients of the frontend.
fn each_backend<'c>(context: &Context<'c>, visit: &mut Visit<'c, '_>) {
    let (controllers, gateways) = (controllers(context), gateways(context));
    for frontend in context.input.frontends {
        let of_gateways: Vec<&Pod> = frontend
            .gateways
            .iter()
            .filter_map(|name| gateways.get(name))
            .flatten()
            .copied()
            .collect();
        let clients = match frontend.object.kind {
            _ if !of_gateways.is_empty() => Clients::Proxies(&of_gateways),
            Kind::Ingress => Clients::Proxies(&controllers),
            kind if kind.is_route() => Clients::Proxies(&controllers),
            _ => Clients::ApiServer,
        };
        for backend in &frontend.backends {
            let key = (backend.namespace.clone(), backend.service.clone());
            let Some(service) = context.input.services.get(&key) else { continue };
            for port in service.ports.iter().filter(|port| is_for(backend, port)) {
                visit(frontend, backend, (service, port), &clients);
            }
        }
    }
}

fn is_for(backend: &Backend, port: &ServicePort) -> bool {
    match &backend.port {
        BackendPort::Number(number) => port.number == *number,
        BackendPort::Name(name) => port.name.as_ref() == Some(name),
    }
}

fn controllers<'c>(context: &Context<'c>) -> Vec<&'c Pod> {
    let is_controller = |pod: &&Pod| {
        let mut names = NAME_LABELS.iter().filter_map(|key| pod.labels.get(key));
        names.any(|name| CONTROLLERS.contains(&name.as_ref()))
    };
    running(context).filter(is_controller).collect()
}

/// The pods of each Gateway, by its namespace and name.
fn gateways<'c>(context: &Context<'c>) -> BTreeMap<(Str, Str), Vec<&'c Pod>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for pod in running(context) {
        if let Some(name) = pod.labels.get(GATEWAY_LABEL) {
            found.entry((pod.key.namespace.clone(), name.clone())).or_default().push(pod);
        }
    }
    found
}

/// The pods that can be clients.
fn running<'c>(context: &Context<'c>) -> impl Iterator<Item = &'c Pod> + use<'c> {
    let pods = context.world.pods().values().map(AsRef::as_ref);
    pods.filter(|pod: &&Pod| pod.takes_part() || (pod.host_network && pod.node.is_some()))
}

/// The groups of pods that a Service sends connections to.
fn behind<'c>(context: &Context<'c>, service: &Service) -> Vec<&'c Group> {
    let groups = context.pods.of(&service.namespace);
    groups.filter(|group| !group.host_network && service.selects(group.first())).collect()
}

/// A port of a Service, if no client can connect to any of the pods behind the Service.
fn closed(
    context: &Context<'_>,
    service: &Service,
    port: &ServicePort,
    clients: &Clients<'_>,
    (object, field): (&ObjectRef, FieldPath),
) -> Option<ClosedBackend> {
    let groups = behind(context, service);
    let own: BTreeSet<ClassId> =
        groups.iter().flat_map(|group| context.classes_of(group)).collect();
    let mut denied: Option<(&Pod, Traffic)> = None;
    for group in &groups {
        for number in port.resolve(group.first()) {
            let traffic = Traffic::Port(port.protocol, number);
            for class in context.classes_of(group) {
                if is_open(context, class, traffic, clients, &own) {
                    return None;
                }
            }
            denied = denied.or(Some((group.first(), traffic)));
        }
    }
    let (pod, traffic) = denied?;
    let who = match clients {
        Clients::External => "external clients".to_owned(),
        Clients::ApiServer => "the API server".to_owned(),
        Clients::Proxies([]) => "any client".to_owned(),
        Clients::Proxies(pods) => few(&pods.iter().map(|pod| context.name(pod)).collect()),
    };
    let why = reason(context, pod, traffic, clients);
    let pods = groups.iter().flat_map(|group| group.pods()).map(|pod| pod.key.clone());
    Some(ClosedBackend {
        object: object.clone(),
        field,
        service: (service.namespace.clone(), service.name.clone()),
        traffic,
        pods: pods.collect(),
        denied: format!("not allow them from {who}{why}"),
    })
}

/// The reason why a client cannot connect to a pod.
fn reason(context: &Context<'_>, pod: &Pod, traffic: Traffic, clients: &Clients<'_>) -> String {
    let Some(destination) = sides(context.world, pod).into_iter().next() else {
        return String::new();
    };
    let outside = match destination.address().map(Family::of) {
        Some(Family::V6) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        _ => IpAddr::from([192, 0, 2, 1]),
    };
    let source = match clients {
        Clients::Proxies([first, ..]) => endpoints(context, first).into_iter().next(),
        _ => None,
    };
    let source = source.unwrap_or(Endpoint::External(outside));
    let verdict = evaluate(context.world, &Flow { source, destination, traffic });
    let decision = if verdict.ingress.is_allowed() { &verdict.egress } else { &verdict.ingress };
    match (decision.is_allowed(), decision.decided_by.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!(" ({})", words::isolated(decision)),
        (false, false) => format!(" ({})", words::decided(decision)),
    }
}

/// The endpoints of a client: for a hostNetwork pod, those of its node.
fn endpoints(context: &Context<'_>, pod: &Pod) -> Vec<Endpoint> {
    match pod.node.as_ref().filter(|_| pod.host_network) {
        Some(node) => {
            let addresses = pod.addresses.iter();
            addresses.map(|address| Endpoint::Node(node.clone(), Some(*address))).collect()
        }
        None => sides(context.world, pod),
    }
}

fn is_open(
    context: &Context<'_>,
    class: ClassId,
    traffic: Traffic,
    clients: &Clients<'_>,
    own: &BTreeSet<ClassId>,
) -> bool {
    let Some(pod) = context.pod_of(class) else { return true };
    match clients {
        Clients::Proxies(proxies) if !proxies.is_empty() => {
            let mut sources = proxies.iter().flat_map(|proxy| endpoints(context, proxy));
            sources.any(|source| meets(context, &source, pod, traffic))
        }
        Clients::Proxies(_) => {
            let classes = 0..context.reach.classes().len();
            let mut others = classes.filter(|other| !own.contains(other));
            from_outside(context, class, pod, traffic)
                || others.any(|other| {
                    let sources = context.pod_of(other).map(|pod| sides(context.world, pod));
                    let mut sources = sources.into_iter().flatten();
                    sources.any(|source| meets(context, &source, pod, traffic))
                })
        }
        Clients::External | Clients::ApiServer => from_outside(context, class, pod, traffic),
    }
}

/// Whether some external address, or another node, can connect to a pod.
fn from_outside(context: &Context<'_>, class: ClassId, pod: &Pod, traffic: Traffic) -> bool {
    let outside = context.reach.outside(class, Direction::Ingress);
    outside.parts.iter().any(|(_, ports)| ports.contains(traffic))
        || from_node(context, pod, traffic)
}

/// Whether some other node can connect to a pod. The pod's own node always can, and does not count.
fn from_node(context: &Context<'_>, pod: &Pod, traffic: Traffic) -> bool {
    let others = context.world.nodes().iter().filter(|(name, _)| pod.node.as_ref() != Some(*name));
    let mut sources = others.flat_map(|(name, node)| {
        node.addresses.iter().map(|address| Endpoint::Node(name.clone(), Some(*address)))
    });
    sources.any(|source| meets(context, &source, pod, traffic))
}

fn meets(context: &Context<'_>, source: &Endpoint, pod: &Pod, traffic: Traffic) -> bool {
    sides(context.world, pod).iter().any(|destination| {
        let families = [source, destination].map(|side| side.address().map(Family::of));
        let are_of_two_families = matches!(families, [Some(one), Some(other)] if one != other);
        !are_of_two_families && context.reach.between(source, destination).contains(traffic)
    })
}

/// Blocks for clients whose addresses the pods of a policy never see: a Service replaces them by the
/// address of a node.
pub(super) fn hidden_clients(context: &Context<'_>, policy: &Policy) -> Vec<Finding> {
    let mut found = Vec::new();
    let own: &Str = &policy.name.namespace;
    let subject = policy.subject.any_pods();
    let is_ours = |group: &&Group| subject.matches(&group.first().labels);
    let services: Vec<(&Service, Vec<&Group>)> = context
        .input
        .services_of(own)
        .filter(|service| service.exposure.is_some_and(|exposure| !exposure.keeps_client))
        .map(|service| (service, behind(context, service).into_iter().filter(is_ours).collect()))
        .filter(|(_, groups): &(_, Vec<_>)| !groups.is_empty())
        .collect();
    if services.is_empty() {
        return found;
    }
    for place in places(policy).filter(|place| place.direction == Direction::Ingress) {
        let Peers::Listed(all) = &place.rule.peers else { continue };
        for (number, peer) in all.iter().enumerate() {
            let Peer::Block(block) = peer else { continue };
            let nodes = context.world.nodes().values();
            let mut nodes = nodes.flat_map(|node| &node.addresses);
            let is_of_cluster =
                nodes.any(|address| block.contains(*address)) || peers::holds_pods(context, block);
            if block.cidr.prefix_len() == 0 || is_of_cluster {
                continue;
            }
            let hidden = services.iter().find(|(service, groups)| {
                groups.iter().any(|group| {
                    let pod = group.first();
                    let allowed = pairs::ports(place.rule, pod);
                    let mut targets = service.ports.iter().flat_map(|port| {
                        let numbers = port.resolve(pod).into_iter();
                        numbers.map(|number| Traffic::Port(port.protocol, number))
                    });
                    targets.any(|traffic| {
                        allowed.contains(traffic) && !from_node(context, pod, traffic)
                    })
                })
            });
            if let Some((service, _)) = hidden {
                let message = format!(
                    "is for external clients, and pods behind Service {}/{} see the address of a \
                     node in place of the client's; set `externalTrafficPolicy: Local` there, unless \
                     the load balancer sends connections to the pods directly",
                    service.namespace, service.name
                );
                let field = place.peer(number).key("ipBlock").key("cidr");
                found.push(finding(Code::ClientAddressHidden, &policy.name, field, message));
            }
        }
    }
    found
}
