//! When a backend of an Ingress, HTTPRoute, LoadBalancer or webhook counts as closed, and when a block
//! is for clients whose addresses pods do not see.

use super::linted::check_all;
use super::session::{run, text};

const CONTROLLER: &str = "{apiVersion: v1, kind: Pod, metadata: {name: nginx, namespace: infra, \
    labels: {app.kubernetes.io/name: ingress-nginx}}, spec: {nodeName: n1, containers: [{name: a}]}, \
    status: {podIPs: [{ip: 10.1.0.20}]}}";

const ON_HOST: &str = "{apiVersion: v1, kind: Pod, metadata: {name: nginx, namespace: infra, labels: \
    {app.kubernetes.io/name: ingress-nginx}}, spec: {nodeName: n1, hostNetwork: true, containers: \
    [{name: a}]}, status: {podIPs: [{ip: 192.168.1.1}]}}";

const NODE: &str = "{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: \
    InternalIP, address: 192.168.1.1}]}}";

const INGRESS: &str = "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, namespace: \
    shop}, spec: {defaultBackend: {service: {name: db, port: {name: pg}}}}}";

const ROUTE: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a, \
    namespace: infra}, spec: {rules: [{backendRefs: [{name: db, namespace: shop, port: 5432}]}]}}";

const WEBHOOK: &str = "{apiVersion: admissionregistration.k8s.io/v1, kind: \
    ValidatingWebhookConfiguration, metadata: {name: a}, webhooks: [{name: a.b.c, clientConfig: \
    {service: {namespace: shop, name: db, port: 5432}}}]}";

fn service(more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: db, namespace: shop}}, spec: {{selector: \
         {{app: db}}, ports: [{{name: pg, port: 5432}}]{more}}}}}"
    )
}

/// A policy of the database with these rules.
fn policy(rules: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: db, namespace: \
         shop}}, spec: {{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{rules}]}}}}"
    )
}

#[track_caller]
fn check(objects: &[&str], expected: &[(&str, &str)]) {
    check_all(objects, "--disable PCL103,PCL203", expected);
}

const FROM_API: &str = "{from: [{podSelector: {matchLabels: {app: api}}}]}";
const FROM_NODES: &str = "{from: [{ipBlock: {cidr: 192.168.1.0/24}}]}";
const FROM_OUTSIDE: &str = "{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}";

#[test]
fn an_ingress_needs_its_controller() {
    let (service, closed) = (service(""), [("PCL601", "Ingress shop/a")]);
    let with = |controller: &str, rules: &str, expected: &[(&str, &str)]| {
        check(&[&service, INGRESS, controller, NODE, &policy(rules)], expected);
    };
    with(CONTROLLER, FROM_API, &closed);
    with(CONTROLLER, "{from: [{namespaceSelector: {}}]}", &[]);
    with(CONTROLLER, "{ports: [{port: 80}]}", &closed);
    // The traffic of a hostNetwork pod is that of its node, and the database is on another node.
    with(ON_HOST, FROM_API, &closed);
    with(ON_HOST, FROM_NODES, &[]);
    check(&[&service, INGRESS, CONTROLLER], &[]);
}

#[test]
fn without_a_known_controller_any_client_counts() {
    let service = service("");
    for (frontend, name) in [(INGRESS, "Ingress shop/a"), (ROUTE, "HTTPRoute infra/a")] {
        let with = |rules: &str, expected: &[(&str, &str)]| {
            check(&[&service, frontend, &policy(rules)], expected);
        };
        with("", &[("PCL601", name)]);
        with("{ports: [{port: 80}]}", &[("PCL601", name)]);
        with(FROM_API, &[]);
        with(FROM_OUTSIDE, &[]);
    }
}

#[test]
fn a_route_needs_the_pods_of_its_gateway() {
    let service = service("");
    let gateway = CONTROLLER.replace(
        "app.kubernetes.io/name: ingress-nginx",
        "gateway.networking.k8s.io/gateway-name: g, app: gateway",
    );
    let from_gateway =
        "{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: gateway}}}]}";
    for (version, kind) in
        [("v1", "HTTPRoute"), ("v1", "GRPCRoute"), ("v1", "TLSRoute"), ("v1alpha2", "TCPRoute")]
    {
        let route = |parent: &str| {
            let parents = format!("parentRefs: [{{name: {parent}}}], rules:");
            ROUTE
                .replace("v1, kind: HTTPRoute", &format!("{version}, kind: {kind}"))
                .replace("rules:", &parents)
        };
        let closed = [("PCL601", &*format!("{kind} infra/a"))];
        check(&[&service, &route("g"), &gateway, &policy(FROM_API)], &closed);
        check(&[&service, &route("g"), &gateway, &policy(from_gateway)], &[]);
        check(&[&service, &route("other"), &gateway, &policy(FROM_API)], &[]);
    }
}

#[test]
fn webhooks_and_load_balancers_are_for_nodes_and_external_clients() {
    let closed = [("PCL601", "ValidatingWebhookConfiguration a")];
    let plain = service("");
    check(&[&plain, WEBHOOK, NODE, &policy(FROM_API)], &closed);
    check(&[&plain, WEBHOOK, NODE, &policy(FROM_NODES)], &[]);
    check(&[&plain, WEBHOOK, NODE, &policy(FROM_OUTSIDE)], &[]);
    let local = service(", type: LoadBalancer, externalTrafficPolicy: Local");
    check(&[&local, NODE, &policy(FROM_API)], &[("PCL601", "Service shop/db")]);
    check(&[&local, NODE, &policy(FROM_OUTSIDE)], &[]);
    check(&[&service(", type: NodePort"), NODE, &policy(FROM_API)], &[]);
}

#[test]
fn blocks_for_clients_need_their_addresses() {
    let hidden = [("PCL602", "NetworkPolicy shop/db")];
    let with = |kind: &str, rules: &str, expected: &[(&str, &str)]| {
        check(&[&service(kind), NODE, &policy(rules)], expected);
    };
    with(", type: LoadBalancer", FROM_OUTSIDE, &hidden);
    with(", type: NodePort", FROM_OUTSIDE, &hidden);
    with(", type: LoadBalancer, externalTrafficPolicy: Local", FROM_OUTSIDE, &[]);
    with("", FROM_OUTSIDE, &[]);
    // The Service does not lead to this port.
    let other = "{from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 80}]}, {from: [{ipBlock: \
                 {cidr: 0.0.0.0/0}}], ports: [{port: 5432}]}";
    with(", type: LoadBalancer", other, &[]);
    // Nodes are allowed as well.
    with(", type: LoadBalancer", &format!("{FROM_OUTSIDE}, {FROM_NODES}"), &[]);
}

#[test]
fn admin_ports_are_reported_alone() {
    let check = |block: &str, port: &str, expected: &[(&str, &str)]| {
        let rule = format!("{{from: [{{ipBlock: {block}}}], ports: [{{{port}}}]}}");
        check(&[&policy(&rule)], expected);
    };
    let open = [("PCL303", "NetworkPolicy shop/db")];
    check("{cidr: '::/0'}", "port: 3389", &open);
    check("{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}", "port: 22", &open);
    check("{cidr: 0.0.0.0/0}", "port: 22, protocol: UDP", &[]);
    check("{cidr: 0.0.0.0/0}", "port: 20, endPort: 30", &[]);
    check("{cidr: 0.0.0.0/0}", "port: 443", &[]);
    check("{cidr: 203.0.113.0/24}", "port: 22", &[]);
}

/// What `map` writes in a format about objects.
fn map(format: &str, objects: &[&str]) -> String {
    text(&run(&format!("map -o {format} -f -"), &objects.join("\n---\n")).stdout)
}

#[test]
fn a_map_leads_from_frontends_to_the_backends_that_their_clients_can_connect_to() {
    let pod = |name: &str| {
        CONTROLLER
            .replace("nginx, namespace: infra", &format!("{name}, namespace: shop"))
            .replace("app.kubernetes.io/name: ingress-nginx", &format!("app: db, pod: {name}"))
    };
    let (one, two) = (pod("one"), pod("two").replace("10.1.0.20", "10.1.0.21"));
    let service = service("");
    let controller = CONTROLLER.replace("10.1.0.20", "10.1.0.22");
    let two_only = policy(FROM_API).replace("{app: db}", "{pod: one}");
    for (frontend, name) in [(INGRESS, "shop/ingress/a"), (ROUTE, "infra/httproute/a")] {
        let row = |pod: &str| format!("{name},shop/pod/{pod},TCP,5432,5432\n");
        let all = [&one, &two, &service, frontend, &controller];
        let open = map("csv", &all);
        assert!(open.contains(&row("one")) && open.contains(&row("two")), "{open}");
        let half = map("csv", &[all.as_slice(), &[&two_only]].concat());
        assert!(!half.contains(&row("one")) && half.contains(&row("two")), "{half}");
        let closed = map("csv", &[all.as_slice(), &[&policy(FROM_API)]].concat());
        assert!(!closed.contains(name), "{closed}");
        let spaces = map("csv --by namespace", &all);
        assert!(spaces.contains(&format!("{name},shop/*,TCP,5432,5432\n")), "{spaces}");
        let json = map("json", &[all.as_slice(), &[&two_only]].concat());
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["frontends"][0]["frontend"], name);
        assert_eq!(json["frontends"][0]["backends"], serde_json::json!(["shop/pod/two"]));
        let picture = map("svg", &all);
        assert!(picture.contains("class=\"arrow lead\""), "{picture}");
        assert!(
            picture.contains(&format!("{name} leads to shop/pod/one, shop/pod/two on 5432/TCP"))
        );
        assert!(map("mermaid", &all).contains(&format!("[\"{name}\"]")));
    }
    assert!(!map("json", &[&one, &service]).contains("frontends"));
    assert!(!map("svg", &[&one, &service]).contains("Ingress"));
}
