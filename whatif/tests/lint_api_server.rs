//! `lint` about pods that have permissions in the API, and that policies deny the API server.

mod linted;
mod session;

use linted::check_all;

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: operator, namespace: shop, labels: \
                   {app: operator}}, spec: {nodeName: n1, serviceAccountName: operator, containers: \
                   [{name: a}]}, status: {podIPs: [{ip: 10.1.0.30}]}}";

const SLICE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, \
                     namespace: default, labels: {kubernetes.io/service-name: kubernetes}}, \
                     endpoints: [{addresses: [192.168.1.10]}], ports: [{port: 6443}]}";

const DNS: &str = "{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], \
                   ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]}";

fn binding(kind: &str, account: &str) -> String {
    format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: {kind}, metadata: {{name: a, namespace: \
         shop}}, subjects: [{{kind: ServiceAccount, name: {account}, namespace: shop}}]}}"
    )
}

/// A NetworkPolicy for egress of the pod, with rules besides the one for DNS.
fn policy(rules: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: e, namespace: \
         shop}}, spec: {{podSelector: {{matchLabels: {{app: operator}}}}, policyTypes: [Egress], \
         egress: [{DNS}{rules}]}}}}"
    )
}

const FOUND: &[(&str, &str)] = &[("PCL404", "NetworkPolicy shop/e")];

const NO_NOTES: &str = "--disable PCL103";

#[test]
fn a_pod_that_may_use_the_api_and_cannot_connect_to_it_is_reported() {
    let policy = policy("");
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        check_all(&[POD, SLICE, &policy, &binding(kind, "operator")], NO_NOTES, FOUND);
        check_all(&[POD, SLICE, &policy, &binding(kind, "other")], NO_NOTES, &[]);
    }
    let bound = binding("RoleBinding", "operator");
    check_all(&[POD, &policy, &bound], NO_NOTES, &[]);
    let without_token = POD.replace("nodeName", "automountServiceAccountToken: false, nodeName");
    check_all(&[&without_token, SLICE, &policy, &bound], NO_NOTES, &[]);
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: operator, namespace: \
                      shop}, spec: {template: {metadata: {labels: {app: operator}}, spec: \
                      {serviceAccountName: operator, containers: [{name: a}]}}}}";
    check_all(&[deployment, SLICE, &policy, &bound], NO_NOTES, FOUND);
}

#[test]
fn a_rule_for_an_address_of_the_api_server_is_enough() {
    let bound = binding("RoleBinding", "operator");
    let rule = |to: &str| {
        policy(&format!(", {{to: [{{ipBlock: {{cidr: {to}}}}}], ports: [{{port: 6443}}]}}"))
    };
    check_all(&[POD, SLICE, &rule("192.168.1.0/24"), &bound], NO_NOTES, &[]);
    check_all(&[POD, SLICE, &rule("192.168.2.0/24"), &bound], NO_NOTES, FOUND);
    let default = |allows: bool| {
        format!(
            "{{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, metadata: \
             {{name: d}}, spec: {{podSelector: {{matchLabels: {{app: operator}}}}, policyTypes: \
             [Egress], allowAPIServer: {allows}}}}}"
        )
    };
    check_all(&[POD, SLICE, &default(true), &bound], NO_NOTES, &[]);
    let found = [("PCL404", "ClusterDefaultNetworkPolicy d")];
    check_all(&[POD, SLICE, &default(false), &bound], NO_NOTES, &found);
}
