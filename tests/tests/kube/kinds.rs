//! Policies of the whole cluster at a real API server: what it takes, and what it refuses with
//! words that say what to write instead.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use portcullis_tests::kube::{ApiServer, Shared};
use serde_json::json;

/// A server with all kinds and the namespaces of `examples/`. Tests ask it what it would take.
fn server() -> Result<&'static ApiServer> {
    static SERVER: Shared = Shared::new();
    SERVER.get(|server| {
        server.install_crds()?;
        server.install_cluster_network_policy()?;
        for namespace in ["red", "monitoring", "shop", "jobs", "agents", "training"] {
            server.kubectl(&["create", "namespace", namespace], None)?;
        }
        Ok(())
    })
}

fn apply(server: &ApiServer, api_version: &str, kind: &str, spec: &str) -> Result<String> {
    let text =
        format!("{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: a}}, spec: {spec}}}");
    server.kubectl(&["apply", "--dry-run=server", "-o", "json", "-f", "-"], Some(&text))
}

fn default_policy(server: &ApiServer, spec: &str) -> Result<String> {
    apply(server, "portcullis.dev/v1alpha1", "ClusterDefaultNetworkPolicy", spec)
}

/// The same in both versions, which have one schema.
fn cluster_policy(server: &ApiServer, spec: &str) -> Result<String> {
    let answers = ["v1alpha2", "v1beta1"].map(|version| {
        apply(server, &format!("policy.networking.k8s.io/{version}"), "ClusterNetworkPolicy", spec)
    });
    let [old, new] = answers;
    ensure!(old.is_ok() == new.is_ok(), "the versions differ: {spec}: {old:?}, {new:?}");
    new
}

/// Checks that what is refused is refused for what it has been refused for.
fn refused(answer: Result<String>, spec: &str, why: &str) -> Result<()> {
    let error = answer.err().with_context(|| format!("accepted, in spite of {why}: {spec}"))?;
    ensure!(format!("{error:#}").contains(why), "{spec}: wanted {why}: {error:#}");
    Ok(())
}

const GOOD_DEFAULTS: [&str; 7] = [
    "{policyTypes: [Ingress]}",
    "{policyTypes: [Egress], allowDNS: false, mode: Audit}",
    "{policyTypes: [Ingress, Egress], namespaceSelector: {}, podSelector: null}",
    "{policyTypes: [Egress], includeSystemNamespaces: true, egress: [{}, {to: [], ports: []}]}",
    "{policyTypes: [Ingress], ingress: [{from: [{sameNamespace: true}, {podSelector: {}},
      {namespaceSelector: {matchExpressions: [{key: a, operator: Exists}]}, podSelector: {}},
      {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}, {ipBlock: {cidr: 'fd00::/8'}}]}]}",
    "{policyTypes: [Ingress], namespaceSelector: {matchLabels: {a: '', example.com/B_b.c: x.Y_z-1}},
      podSelector: {matchExpressions: [{key: k8s.io/A, operator: NotIn, values: ['', v1.2]}]}}",
    "{policyTypes: [Egress], egress: [{ports: [{}, {port: 80}, {protocol: UDP, port: dns-udp},
      {protocol: SCTP, port: 80, endPort: 80}, {port: 1, endPort: 65535}]}]}",
];

/// What no label can match. Taken as it stands, each would select nothing or everything, and a
/// default that selects everything cuts a cluster off.
const BAD_SELECTORS: [(&str, &str); 10] = [
    // `kubectl apply` takes away what is null.
    ("{matchLabels: {team: null}}", "should have at least 1 properties"),
    ("{matchLabels: {team: 'a b'}}", "should match"),
    ("{matchLabels: {team: -a}}", "should match"),
    ("{matchLabels: {'my team': a}}", "the key of a label"),
    ("{matchLabels: {'example.com/': a}}", "the key of a label"),
    ("{matchExpressions: [{key: '', operator: Exists}]}", "should match"),
    ("{matchExpressions: [{key: a, operator: In}]}", "In and NotIn want values"),
    ("{matchExpressions: [{key: a, operator: In, values: ['b,c']}]}", "should match"),
    (
        "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
        "Exists and DoesNotExist want none",
    ),
    ("{matchExpressions: [{key: a, operator: exists}]}", "Unsupported value"),
];

#[test]
fn a_default_that_cannot_mean_anything_is_refused_with_what_to_write() -> Result<()> {
    let server = server()?;
    for spec in GOOD_DEFAULTS {
        default_policy(server, spec).with_context(|| format!("refused: {spec}"))?;
    }
    let said = default_policy(server, "{policyTypes: [Egress]}")?;
    ensure!(said.contains("\"mode\": \"Enforce\""), "defaults are shown: {said}");
    ensure!(said.contains("\"includeSystemNamespaces\": false"), "defaults are shown: {said}");
    let list_types = "policyTypes must list what the policy isolates";
    for (spec, why) in [
        ("{}", list_types),
        ("{policyTypes: []}", list_types),
        ("{namespaceSelector: {}, mode: Audit}", list_types),
        ("{policyTypes: [ingress]}", "supported values: \"Ingress\", \"Egress\""),
        ("{policyTypes: [Ingress, Ingress]}", "Duplicate value"),
        ("{policyTypes: [Egress], ingress: []}", "list Ingress in policyTypes, or delete ingress"),
        ("{policyTypes: [Ingress], egress: []}", "list Egress in policyTypes, or delete egress"),
        ("{policyTypes: [Ingress], allowDNS: true}", "or delete allowDNS"),
        ("{policyTypes: [Ingress], allowAPIServer: true}", "or delete allowAPIServer"),
        ("{policyTypes: [Ingress], mode: audit}", "supported values: \"Enforce\", \"Audit\""),
        ("{policyTypes: [Ingress], egres: []}", "unknown field \"spec.egres\""),
    ] {
        refused(default_policy(server, spec), spec, why)?;
    }
    let null = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "ClusterDefaultNetworkPolicy",
        "metadata": {"name": "a"}, "spec": {"policyTypes": ["Ingress"],
            "namespaceSelector": {"matchLabels": {"a": "b", "team": null}}}});
    let path = "/apis/portcullis.dev/v1alpha1/clusterdefaultnetworkpolicies?dryRun=All";
    let answer = server.kubectl(&["create", "--raw", path, "-f", "-"], Some(&null.to_string()));
    refused(answer, "a label that is null", "a label wants a value")?;
    for (selector, why) in BAD_SELECTORS {
        for spec in [
            format!("{{policyTypes: [Ingress], namespaceSelector: {selector}}}"),
            format!("{{policyTypes: [Ingress], podSelector: {selector}}}"),
            format!(
                "{{policyTypes: [Ingress], ingress: [{{from: [{{podSelector: {selector}}}]}}]}}"
            ),
        ] {
            refused(default_policy(server, &spec), &spec, why)?;
        }
    }
    for (peer, why) in [
        ("{}", "a peer must say who it is"),
        ("{sameNamespace: false}", "sameNamespace can only be true"),
        ("{sameNamespace: true, podSelector: {}}", "sameNamespace must stand alone"),
        ("{sameNamespace: true, namespaceSelector: {}}", "sameNamespace must stand alone"),
        ("{sameNamespace: true, ipBlock: {cidr: 10.0.0.0/8}}", "sameNamespace must stand alone"),
        ("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}", "ipBlock must stand alone"),
        ("{ipBlock: {cidr: 10.0.0.0/8}, namespaceSelector: {}}", "ipBlock must stand alone"),
        ("{ipBlock: {cidr: 10.0.0.1}}", "a single address is 10.0.0.1/32"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}", "must be inside cidr"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}", "and smaller"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.1.1]}}", "must be inside cidr"),
        ("{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}", "must be inside cidr"),
    ] {
        let spec = format!("{{policyTypes: [Egress], egress: [{{to: [{peer}]}}]}}");
        refused(default_policy(server, &spec), &spec, why)?;
    }
    for (port, why) in [
        ("{port: 80, endPort: 79}", "must not be below it"),
        ("{endPort: 79}", "endPort wants a number as port"),
        ("{port: http, endPort: 79}", "endPort wants a number as port"),
        ("{port: 0}", "greater than or equal to 1"),
        ("{port: 65536}", "less than or equal to 65535"),
        ("{port: HTTP}", "should match"),
        ("{port: a--b}", "should match"),
        ("{port: '80'}", "a number is written without quotes"),
        ("{port: a-name-that-is-too-long}", "Too long"),
        ("{protocol: ICMP}", "Unsupported value"),
    ] {
        let spec = format!("{{policyTypes: [Ingress], ingress: [{{ports: [{port}]}}]}}");
        refused(default_policy(server, &spec), &spec, why)?;
    }
    let explained = server.kubectl(&["explain", "cdnp.spec.allowDNS"], None)?;
    ensure!(explained.contains("True unless"), "{explained}");
    Ok(())
}

#[test]
fn the_largest_default_is_accepted() -> Result<()> {
    let server = server()?;
    let peer = "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}}";
    let rule = format!("{{from: [{}], ports: [{}]}}", [peer; 50].join(","), ["{}"; 50].join(","));
    let rules = vec![rule.as_str(); 50].join(",");
    default_policy(server, &format!("{{policyTypes: [Ingress], ingress: [{rules}]}}"))?;
    let rules = vec!["{}"; 51].join(",");
    let spec = format!("{{policyTypes: [Ingress], ingress: [{rules}]}}");
    refused(default_policy(server, &spec), "51 rules", "must have at most 50 items")
}

#[test]
fn the_kind_cluster_network_policy_is_as_upstream_has_it() -> Result<()> {
    let server = server()?;
    let head = "tier: Admin, priority: 0, subject: {namespaces: {}}";
    for spec in [
        format!("{{{head}}}"),
        "{tier: Baseline, priority: 1000, subject: {pods: {podSelector: {}}}}".to_owned(),
        format!(
            "{{{head}, ingress: [{{action: Accept, name: a, from: [{{namespaces: {{}}}},
              {{pods: {{podSelector: {{}}, namespaceSelector: {{}}}}}}],
              protocols: [{{destinationNamedPort: http}}, {{tcp: {{destinationPort: {{number: 1}}}}}}]}}]}}"
        ),
        format!(
            "{{{head}, egress: [{{action: Pass, to: [{{networks: [10.0.0.0/8, 'fd00::/8']}},
              {{nodes: {{}}}}, {{domainNames: ['*.example.com', example.com.]}}],
              protocols: [{{udp: {{destinationPort: {{range: {{start: 1, end: 2}}}}}}}}]}}]}}"
        ),
        // Upstream looks at no operator.
        "{tier: Admin, priority: 1, subject: {namespaces: {matchExpressions: [{key: a, operator: Gt}]}}}".to_owned(),
    ] {
        cluster_policy(server, &spec).with_context(|| format!("refused: {spec}"))?;
    }
    let egress = |rule: &str| format!("{{{head}, egress: [{rule}]}}");
    for (spec, why) in [
        ("{}".to_owned(), "spec.tier: Required value"),
        (format!("{{{head}}}").replace("Admin", "Default"), "Unsupported value"),
        (format!("{{{head}}}").replace('0', "1001"), "less than or equal to 1000"),
        (format!("{{{head}}}").replace("namespaces: {}", ""), "should have at least 1 properties"),
        (egress("{action: Allow, to: [{namespaces: {}}]}"), "Unsupported value"),
        (egress("{action: Deny}"), "to: Required value"),
        (egress("{action: Deny, to: []}"), "should have at least 1 items"),
        (egress("{action: Deny, to: [{}]}"), "should have at least 1 properties"),
        (egress("{action: Deny, to: [{namespaces: {}, nodes: {}}]}"), "must have at most 1"),
        (egress("{action: Deny, to: [{networks: [10.0.0.1]}]}"), "Invalid CIDR format provided"),
        (egress("{action: Deny, to: [{networks: [10.0.0.1/8]}]}"), "Invalid CIDR format provided"),
        (egress("{action: Deny, to: [{networks: ['fd00::1/8']}]}"), "Invalid CIDR format provided"),
        (egress("{action: Accept, to: [{domainNames: ['*']}]}"), "should match"),
        (
            egress("{action: Deny, to: [{nodes: {}}], protocols: [{destinationNamedPort: a}]}"),
            "cannot be set with namedPorts",
        ),
        (
            egress("{action: Deny, to: [{nodes: {}}], protocols: [{tcp: {}}]}"),
            "should have at least 1 properties",
        ),
        (
            egress(
                "{action: Deny, to: [{nodes: {}}],
                  protocols: [{tcp: {destinationPort: {range: {start: 2, end: 2}}}}]}",
            ),
            "Start port must be less than End port",
        ),
        (
            format!("{{{head}, ingress: [{{action: Deny, from: [{{networks: [10.0.0.0/8]}}]}}]}}"),
            "unknown field",
        ),
    ] {
        refused(cluster_policy(server, &spec), &spec, why)?;
    }
    Ok(())
}

/// The manifests of `examples/` that users apply: neither tests nor the worlds of tests.
fn examples(below: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            examples(&path, found)?;
        } else if name.ends_with(".yaml") && !name.ends_with("test.yaml") && name != "world.yaml" {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_example_is_accepted_without_a_warning() -> Result<()> {
    let server = server()?;
    let mut paths = Vec::new();
    examples(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"), &mut paths)?;
    ensure!(paths.len() >= 15, "{paths:?}");
    for path in paths {
        let path = path.to_string_lossy();
        let check = ["apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors"];
        server.kubectl(&[&check[..], &["-f", &path]].concat(), None)?;
    }
    Ok(())
}
