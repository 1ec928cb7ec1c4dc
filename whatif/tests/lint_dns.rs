//! `lint` about names that can no longer be looked up: which policies take DNS away.

mod linted;
mod session;

use linted::{WORLD, check, check_all, egress, json};

/// A ClusterNetworkPolicy for egress of every pod.
fn cluster_policy(tier: &str, egress: &str) -> String {
    format!(
        "{{apiVersion: policy.networking.k8s.io/v1beta1, kind: ClusterNetworkPolicy, metadata: \
         {{name: c}}, spec: {{tier: {tier}, priority: 1, subject: {{namespaces: {{matchLabels: \
         {{team: shop}}}}}}, egress: [{egress}]}}}}"
    )
}

#[test]
fn dns_may_be_anywhere_that_a_rule_opens() {
    let api = "{to: [{podSelector: {matchLabels: {app: api}}}]}";
    check(&egress(""), &[]);
    check(&egress(api), &["PCL402"]);
    check(
        &egress("{to: [{podSelector: {}}], ports: [{port: 53, protocol: UDP}, {port: 53}]}"),
        &["PCL402"],
    );
    check(&egress(&format!("{api}, {{ports: [{{port: 53, protocol: UDP}}, {{port: 53}}]}}")), &[]);
    check(&egress(&format!("{api}, {{to: [{{ipBlock: {{cidr: 169.254.20.10/32}}}}]}}")), &[]);
    check(&egress(&format!("{api}, {{to: [{{namespaceSelector: {{}}}}]}}")), &["PCL501"]);
    // A name stands for whatever port the DNS pods give it.
    let names = "{protocol: UDP, port: dns}, {protocol: TCP, port: dns-tcp}";
    check(
        &egress(&format!("{api}, {{to: [{{ipBlock: {{cidr: 10.9.0.0/16}}}}], ports: [{names}]}}")),
        &["PCL301"],
    );
    check(
        &egress(&format!(
            "{api}, {{to: [{{ipBlock: {{cidr: 10.9.0.0/16}}}}], ports: [{{port: http}}]}}"
        )),
        &["PCL402"],
    );
    // UDP alone: a note.
    check(&egress(&format!("{api}, {{ports: [{{port: 53, protocol: UDP}}]}}")), &["PCL402"]);
}

#[test]
fn dns_without_udp_is_a_warning_and_without_tcp_a_note() {
    let severities = |protocol: &str| {
        let rules = format!(
            "{{to: [{{podSelector: {{matchLabels: {{app: api}}}}}}]}}, {{ports: [{{port: 53, \
             protocol: {protocol}}}]}}"
        );
        let policy = egress(&rules);
        let policy = format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, {policy}}}");
        let answer = json(&format!("lint -o json --disable PCL103 -f {WORLD} -f -"), &policy);
        let findings = answer["findings"].as_array().expect("findings").clone();
        findings.iter().map(|one| one["severity"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(severities("TCP"), ["warning"]);
    assert_eq!(severities("UDP"), ["note"]);
}

#[test]
fn dns_that_an_admin_accepts_is_not_missing() {
    let web = egress("{to: [{podSelector: {matchLabels: {app: api}}}]}");
    let web = format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, {web}}}");
    let accepting = |tier: &str| {
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1beta1, kind: ClusterNetworkPolicy, metadata: \
             {{name: dns}}, spec: {{tier: {tier}, priority: 1, subject: {{namespaces: {{}}}}, \
             egress: [{{action: Accept, to: [{{pods: {{namespaceSelector: {{}}, podSelector: \
             {{matchLabels: {{k8s-app: kube-dns}}}}}}}}]}}]}}}}"
        )
    };
    let missing = ("PCL402", "NetworkPolicy shop/e");
    check_all(&[&web, &accepting("Admin")], "--disable PCL103", &[]);
    check_all(&[&web, &accepting("Baseline")], "--disable PCL103", &[missing]);
}

#[test]
fn an_accept_is_known_by_labels_that_nobody_else_asks_for() {
    let web = egress("{to: [{podSelector: {matchLabels: {app: api}}}]}");
    let web = format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, {web}}}");
    let resolver = "{apiVersion: v1, kind: Pod, metadata: {name: dns, namespace: infra, labels: \
                    {role: resolver}}, spec: {nodeName: n1, containers: [{name: dns, ports: [{name: \
                    dns, containerPort: 53, protocol: UDP}]}]}}";
    let accept = cluster_policy(
        "Admin",
        "{action: Accept, to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: \
         resolver}}}}]}",
    );
    check_all(&[&web, resolver, &accept], "--disable PCL103", &[]);
}

#[test]
fn defaults_leave_dns_to_whom_they_let_connect() {
    let default = |name: &str, spec: &str| {
        format!(
            "{{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, metadata: \
             {{name: {name}}}, spec: {{policyTypes: [Egress], {spec}}}}}"
        )
    };
    let missing = ("PCL402", "ClusterDefaultNetworkPolicy d");
    let same = "egress: [{to: [{sameNamespace: true}]}]";
    let check = |objects: &[&str], expected: &[(&str, &str)]| {
        check_all(objects, "--disable PCL103,PCL104", expected);
    };
    check(&[&default("d", same)], &[]);
    check(&[&default("d", &format!("{same}, allowDNS: false"))], &[missing]);
    // Nothing is opened, so no name is needed; nothing is enforced, so none is missed.
    check(&[&default("d", "allowDNS: false")], &[]);
    check(&[&default("d", &format!("{same}, allowDNS: false, mode: Audit"))], &[]);
    // Defaults are united, and a rule may say the same.
    let closed = default("d", &format!("{same}, allowDNS: false"));
    check(&[&closed, &default("e", "allowDNS: true")], &[]);
    let by_rule = "egress: [{to: [{sameNamespace: true}]}, {to: [{namespaceSelector: {}}], ports: \
                   [{port: 53, protocol: UDP}, {port: 53}]}], allowDNS: false";
    check(&[&default("d", by_rule)], &[]);
    // Whoever is asked before may accept.
    let accept = "{action: Accept, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: \
                  kube-system}}}]}";
    let of_shop = format!("namespaceSelector: {{matchLabels: {{team: shop}}}}, {same}");
    let of_shop = default("d", &format!("{of_shop}, allowDNS: false"));
    check(&[&of_shop], &[missing]);
    check(&[&of_shop, &cluster_policy("Baseline", accept)], &[]);
}

#[test]
fn allow_dns_is_for_dns_pods_where_they_usually_are() {
    let default = "{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, \
                   metadata: {name: d}, spec: {policyTypes: [Egress], egress: [{to: \
                   [{sameNamespace: true}]}]}}";
    let pod = |namespace: &str, name: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
             {{nodeName: n1, containers: [{{name: c, ports: [{more}]}}]}}}}"
        )
    };
    let resolver = pod("dns", "d", "{name: dns, containerPort: 53, protocol: UDP}");
    let all = [pod("shop", "web", ""), resolver, default.to_owned()].join("\n---\n");
    let answer = json("lint -o json --disable PCL103 -f -", &all);
    let message = answer["findings"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("`allowDNS` is for pods of kube-system"), "{answer}");
}

#[test]
fn a_rule_that_denies_dns_is_found() {
    let pods = "{namespaces: {}}";
    let found = ("PCL402", "ClusterNetworkPolicy c");
    let check = |tier: &str, egress: &str, expected: &[(&str, &str)]| {
        check_all(&[&cluster_policy(tier, egress)], "--disable PCL103", expected);
    };
    check("Admin", &format!("{{action: Deny, to: [{pods}]}}"), &[found]);
    check("Baseline", &format!("{{action: Deny, to: [{pods}]}}"), &[found]);
    let udp = "[{udp: {destinationPort: {number: 53}}}]";
    check("Admin", &format!("{{action: Deny, to: [{pods}], protocols: {udp}}}"), &[found]);
    let dns = "{action: Accept, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: \
               kube-system}}}]}";
    check("Admin", &format!("{dns}, {{action: Deny, to: [{pods}]}}"), &[]);
    // Whoever may open nothing needs no names.
    let nowhere = format!("{{action: Deny, to: [{pods}, {{networks: [0.0.0.0/0, \"::/0\"]}}]}}");
    check("Admin", &nowhere, &[]);
    let tcp = "[{tcp: {destinationPort: {number: 443}}}]";
    check("Admin", &format!("{{action: Deny, to: [{pods}], protocols: {tcp}}}"), &[]);
}
