//! The findings about mistakes in policies, one test each, over small worlds.

use std::fmt::Write as _;

use policy_engine::world::Options;
use portcullis_crds::convert::{Converted, document};
use portcullis_crds::manifest::Manifest;

use super::*;

/// A world of two namespaces: `shop` with web and api pods, `infra` with a DNS server.
const WORLD: &str = "
- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: shop}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: infra}}
- {apiVersion: v1, kind: Namespace, metadata: {name: empty}}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-1, namespace: shop, labels: {app: web}}
  spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
  status: {podIPs: [{ip: 10.0.0.1}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: api-1, namespace: shop, labels: {app: api}}
  spec: {containers: [{name: c}]}
  status: {podIPs: [{ip: 10.0.0.2}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: dns-1, namespace: infra, labels: {app: dns}}
  spec: {containers: [{name: c, ports: [{name: dns, containerPort: 53, protocol: UDP}]}]}
  status: {podIPs: [{ip: 10.0.9.53}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: probe, namespace: infra, labels: {app: probe}}
  spec: {hostNetwork: true, containers: [{name: c, ports: [{name: metrics, containerPort: 9100}]}]}
  status: {podIPs: [{ip: 192.168.0.1}]}
";

fn load(analyst: &mut Analyst, world: &mut World, text: &str) {
    let text = format!("apiVersion: v1\nkind: List\nitems:\n{}", text.trim_start_matches('\n'));
    let manifest = Manifest::parse("test.yaml", &text);
    for found in &manifest.documents {
        let (converted, diagnostics) = document(found);
        let Converted::Object(change) = converted else { panic!("{diagnostics:?}") };
        analyst.note(&change);
        world.apply(change);
        if let Some(first) = diagnostics.first() {
            analyst.diagnose(first.about.to_string().into(), diagnostics);
        }
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "- {{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
         metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}

/// The findings about one policy beside [`WORLD`], as `Reason field: message` lines.
fn check(spec: &str, expected: &[&str]) {
    let (mut analyst, mut world) = (Analyst::default(), World::new(Options::default()));
    load(&mut analyst, &mut world, WORLD);
    load(&mut analyst, &mut world, &policy("p", spec));
    let found = analyst.findings(&world);
    let lines: Vec<String> = found.values().flatten().map(line).collect();
    assert_eq!(lines.len(), expected.len(), "{spec}\n{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{spec}\n{line}\n{expected}");
    }
}

fn line(finding: &Finding) -> String {
    format!("{} {}: {}", finding.reason.as_str(), finding.field, finding.message)
}

#[test]
fn a_policy_without_a_mistake_has_no_finding() {
    check("{podSelector: {}}", &[]);
    check("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: http}]}]}", &[]);
    check("{podSelector: {matchExpressions: [{key: app, operator: Exists}]}}", &[]);
}

#[test]
fn a_pod_selector_that_selects_nothing_is_reported() {
    let found = "SelectsNothing spec.podSelector: selects no pod";
    check("{podSelector: {matchLabels: {app: wbe}}}", &[found]);
    check("{podSelector: {matchLabels: {app: dns}}}", &[found]);
    check("{podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}", &[found]);
}

#[test]
fn an_ingress_port_name_is_looked_up_on_the_selected_pods() {
    let ingress = |app: &str, port: &str| {
        format!(
            "{{podSelector: {{matchLabels: {{app: {app}}}}}, ingress: [{{}}, {{ports: [{{port: 1}}, {port}]}}]}}"
        )
    };
    check(&ingress("web", "{port: http}"), &[]);
    check(
        &ingress("api", "{port: http}"),
        &[
            "NamedPortUnresolved spec.ingress[1].ports[1].port: no pod that the policy selects has a \
           TCP container port named `http`, so this port allows nothing; name it in",
        ],
    );
    check(
        &ingress("web", "{port: http, protocol: UDP}"),
        &[
            "NamedPortUnresolved spec.ingress[1].ports[1].port: no pod that the policy selects has a \
           UDP container port named `http`, so this port allows nothing; there is one for TCP: set",
        ],
    );
}

#[test]
fn a_port_name_is_not_reported_where_there_is_no_pod_to_have_it() {
    check(
        "{podSelector: {matchLabels: {app: later}}, ingress: [{ports: [{port: http}]}]}",
        &["SelectsNothing spec.podSelector:"],
    );
    check(
        "{podSelector: {}, egress: [{to: [{podSelector: {matchLabels: {app: later}}}], \
         ports: [{port: http}]}]}",
        &["PeerMatchesNothing spec.egress[0].to[0].podSelector:"],
    );
}

#[test]
fn an_egress_port_name_is_looked_up_on_the_peers() {
    let egress = |rest: &str| format!("{{podSelector: {{}}, egress: [{{{rest}}}]}}");
    let unresolved =
        "NamedPortUnresolved spec.egress[0].ports[0].port: no pod that this rule's `to`";
    let dns = "ports: [{port: dns, protocol: UDP}]";
    check(&egress(dns), &[]);
    check(&egress(&format!("to: [{{namespaceSelector: {{}}}}], {dns}")), &[]);
    check(&egress(&format!("to: [{{podSelector: {{}}}}], {dns}")), &[unresolved]);
    check(&egress(&format!("to: [{{ipBlock: {{cidr: 10.0.9.0/24}}}}], {dns}")), &[]);
    check(
        &egress(&format!(
            "to: [{{ipBlock: {{cidr: 10.0.9.0/24, except: [10.0.9.53/32]}}}}], {dns}"
        )),
        &[unresolved],
    );
    check(&egress(&format!("to: [{{ipBlock: {{cidr: 8.8.8.8/32}}}}], {dns}")), &[unresolved]);
    // A hostNetwork pod is no peer: its port is its node's.
    check(&egress("ports: [{port: metrics}]"), &[unresolved]);
}

#[test]
fn a_peer_that_matches_nothing_is_reported_with_the_half_that_does_not() {
    let from = |peer: &str| format!("{{podSelector: {{}}, ingress: [{{from: [{peer}]}}]}}");
    check(&from("{namespaceSelector: {matchLabels: {team: shop}}}"), &[]);
    check(
        &from("{namespaceSelector: {matchLabels: {name: infra}}}"),
        &["PeerMatchesNothing spec.ingress[0].from[0].namespaceSelector: matches no namespace, so"],
    );
    check(
        &from(
            "{namespaceSelector: {matchLabels: {team: shop}}, podSelector: {matchLabels: {a: b}}}",
        ),
        &[
            "PeerMatchesNothing spec.ingress[0].from[0].podSelector: matches no pod of the namespaces",
        ],
    );
    check(
        &from("{podSelector: {matchLabels: {app: dns}}}"),
        &[
            "PeerMatchesNothing spec.ingress[0].from[0].podSelector: matches no pod of namespace shop, so",
        ],
    );
    // The namespace is empty, and the peer applies to the pods that it will have.
    check(&from("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: empty}}}"), &[]);
}

#[test]
fn what_failed_closed_is_reported_with_its_field() {
    check(
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.300/8}}]}]}",
        &["FailedClosed spec.ingress[0].from[0].ipBlock.cidr: `10.0.0.300/8` is no network"],
    );
    check(
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]}",
        &["Suspicious spec.ingress[0].from[0].ipBlock.cidr: `10.1.2.3/8` is read as 10.0.0.0/8"],
    );
}

#[test]
fn findings_follow_the_world() {
    let (mut analyst, mut world) = (Analyst::default(), World::new(Options::default()));
    load(&mut analyst, &mut world, WORLD);
    let spec = "{podSelector: {matchLabels: {app: new}}, ingress: [{ports: [{port: http}]}]}";
    load(&mut analyst, &mut world, &policy("p", spec));
    let mut history = String::new();
    let mut look = |analyst: &mut Analyst, world: &World| {
        let found = analyst.findings(world);
        assert_eq!(found, findings(world), "incremental and from nothing");
        let reasons: Vec<_> = found.values().flatten().map(|f| f.reason.as_str()).collect();
        writeln!(history, "{}", reasons.join(",")).expect("a string takes all");
    };
    look(&mut analyst, &world);
    let pod = |ports: &str| {
        format!(
            "- {{apiVersion: v1, kind: Pod, metadata: {{name: new-1, namespace: shop, \
             labels: {{app: new}}}}, spec: {{containers: [{{name: c, ports: [{ports}]}}]}}}}\n"
        )
    };
    load(&mut analyst, &mut world, &pod(""));
    look(&mut analyst, &world);
    load(&mut analyst, &mut world, &pod("{name: http, containerPort: 80}"));
    look(&mut analyst, &world);
    assert_eq!(history, "SelectsNothing\nNamedPortUnresolved\n\n");
}

/// Two nodes; `shop` with an isolated pod and two others, `infra` with DNS.
fn with_defaults(defaults: &str) -> (Findings, BTreeMap<ObjectRef, Coverage>) {
    let (mut analyst, mut world) = (Analyst::default(), World::new(Options::default()));
    load(&mut analyst, &mut world, &WORLD.replace("spec: {", "spec: {nodeName: n1, "));
    load(
        &mut analyst,
        &mut world,
        "
- {apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}
- {apiVersion: v1, kind: Pod, metadata: {name: proxy, namespace: kube-system},
   spec: {nodeName: n3, containers: [{name: c}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: db-1, namespace: shop, labels: {app: db}},
   spec: {nodeName: n2, containers: [{name: c}]}}
",
    );
    load(&mut analyst, &mut world, &policy("web", "{podSelector: {matchLabels: {app: web}}}"));
    let audited = policy("all", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    let audit = "name: all, annotations: {portcullis.dev/mode: audit}";
    load(&mut analyst, &mut world, &audited.replace("name: all", audit));
    load(&mut analyst, &mut world, defaults);
    let found = analyst.findings(&world);
    (found, analyst.coverage().clone())
}

fn default(name: &str, spec: &str) -> String {
    format!(
        "- {{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, \
         metadata: {{name: {name}}}, spec: {spec}}}\n"
    )
}

#[test]
fn a_default_decides_for_pods_and_directions_that_no_enforced_network_policy_isolates() {
    let check = |spec: &str, counts: [usize; 3], nodes: &[&str]| {
        let (_, coverage) = with_defaults(&default("d", spec));
        let found = coverage.values().next().expect("it is covered");
        assert_eq!([found.namespaces, found.selected, found.decided], counts, "{spec}");
        let names: Vec<&str> = found.nodes.iter().map(AsRef::as_ref).collect();
        assert_eq!(names, nodes, "{spec}");
    };
    check("{policyTypes: [Ingress]}", [3, 4, 3], &["n1", "n2"]);
    check("{policyTypes: [Egress]}", [3, 4, 4], &["n1", "n2"]);
    check("{policyTypes: [Ingress, Egress]}", [3, 4, 4], &["n1", "n2"]);
    check("{policyTypes: [Ingress], mode: Audit}", [3, 4, 3], &["n1", "n2"]);
    let system = "includeSystemNamespaces: true";
    check(&format!("{{policyTypes: [Ingress], {system}}}"), [4, 5, 4], &["n1", "n2", "n3"]);
    let shop = "namespaceSelector: {matchLabels: {team: shop}}";
    check(&format!("{{policyTypes: [Ingress], {shop}}}"), [1, 3, 2], &["n1", "n2"]);
    let db = "podSelector: {matchLabels: {app: db}}";
    check(&format!("{{policyTypes: [Ingress], {db}}}"), [3, 1, 1], &["n2"]);
    // A part that cannot be understood may mean any pod: all traffic of all is denied.
    check("{policyTypes: [Ingress], podSelector: 7}", [3, 4, 3], &["n1", "n2"]);
}

#[test]
fn a_policy_of_the_cluster_that_selects_nothing_or_failed_closed_is_reported() {
    let check = |text: &str, expected: &str| {
        let (found, _) = with_defaults(text);
        let of_cluster = |(policy, _): &(&ObjectRef, _)| policy.namespace.is_empty();
        let found = found.iter().filter(of_cluster);
        let lines: Vec<String> = found
            .flat_map(|(policy, found)| {
                found.iter().map(move |f| format!("{} {}", policy.short(), line(f)))
            })
            .collect();
        assert_eq!(lines.len(), usize::from(!expected.is_empty()), "{text}\n{lines:#?}");
        let first = lines.first().cloned().unwrap_or_default();
        assert!(first.starts_with(expected), "{text}\n{first}\n{expected}");
    };
    let check_default = |spec: &str, expected: &str| {
        let expected = match expected {
            "" => String::new(),
            expected => format!("ClusterDefaultNetworkPolicy/d {expected}"),
        };
        check(&default("d", &format!("{{policyTypes: [Ingress], {spec}}}")), &expected);
    };
    check_default("podSelector: {}", "");
    check_default("podSelector: {matchLabels: {app: web}}", "");
    // The policy applies to the pods that the namespace will have.
    check_default("namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: empty}}", "");
    check_default(
        "podSelector: {matchLabels: {app: wbe}}",
        "SelectsNothing spec.podSelector: selects no pod",
    );
    check_default(
        "namespaceSelector: {matchLabels: {team: shpo}}",
        "SelectsNothing spec.namespaceSelector: selects no pod, so it decides nothing; compare it with \
         `kubectl get namespaces",
    );
    check_default(
        "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}",
        "SelectsNothing spec.namespaceSelector: selects no pod, so it decides nothing; the namespaces \
         that it selects are the system's",
    );
    check_default(
        "ingress: [{from: [{ipBlock: {cidr: 10.0.0.300/8}}]}]",
        "FailedClosed spec.ingress[0].from[0].ipBlock.cidr: `10.0.0.300/8` is no network",
    );
    let tier = |subject: &str, rest: &str| {
        format!(
            "- {{apiVersion: policy.networking.k8s.io/v1beta1, kind: ClusterNetworkPolicy, \
             metadata: {{name: t}}, spec: {{tier: Admin, priority: 1, subject: {subject}{rest}}}}}\n"
        )
    };
    check(&tier("{namespaces: {}}", ""), "");
    check(
        &tier("{namespaces: {matchLabels: {team: shpo}}}", ""),
        "ClusterNetworkPolicy/t SelectsNothing spec.subject: selects no pod, so it decides nothing;",
    );
    let names = ", egress: [{action: Accept, to: [{domainNames: [example.com]}]}]";
    check(
        &tier("{namespaces: {}}", names),
        "ClusterNetworkPolicy/t FailedClosed spec.egress[0].to[0].domainNames",
    );
}

#[test]
fn ten_thousand_policies_and_a_hundred_thousand_pods_cost_their_sum() {
    use policy_engine::direction::PerDirection;
    use policy_engine::model::{Pod, PodKey};
    use policy_engine::policy::{Policy, Subject};
    use policy_engine::selector::Selector;
    let mut world = World::new(Options::default());
    for number in 0..100_000 {
        let name = format!("pod-{number}");
        let labels = [("app", "a"), ("name", &*name)].into_iter().collect();
        world.apply(Pod::new(PodKey::new("big", &name), labels).into());
    }
    for number in 0..10_000 {
        let pods = Selector::label("name", &format!("gone-{number}"));
        let rules = PerDirection::default();
        let policy = Policy::network_policy("big", format!("policy-{number}"), pods, rules);
        world.apply(policy.into());
    }
    let subject = Subject { spares_system: true, ..Subject::pods(Selector::default()) };
    let rules = PerDirection { ingress: Some(Vec::new()), egress: None };
    world.apply(Policy::cluster_default("deny", subject, rules, true).into());
    let started = std::time::Instant::now();
    assert_eq!(findings(&world).len(), 10_000);
    // The product would be a thousand million comparisons.
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}
