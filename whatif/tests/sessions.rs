//! Golden sessions of the real binary: what a user types, what comes back, the exit code.
//!
//! `INSTA_UPDATE=always cargo test -p portcullis-whatif --test sessions` writes them anew; read the
//! difference.

mod session;

use std::process::Output;

use serde_json::Value;
use session::{run, session, text};

macro_rules! golden {
    ($name:ident, $($line:expr),+ $(,)?) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(session(&[$($line),+]));
        }
    };
}

mod answers;
mod shapes;

golden!(
    check_says_yes_no_or_mixed_and_why,
    "check shop/web-1 shop/api-1:8080 -f examples/shop",
    "check jobs/cleanup shop/db-1:5432 -f examples/shop",
    "check monitoring/prometheus shop/web-1:9091 -f examples/shop",
    "check default/shell shop/api-1 -f examples/shop",
    "check shop/web-1 shop/api-1 -f examples/shop",
    "check jobs/* shop/db-1:postgres -f examples/shop",
    "check shop/web-1 shop/web-1:1 -f examples/shop",
);

golden!(
    check_knows_outside_and_nodes,
    "check external shop/web-1:http -f examples/shop",
    "check jobs/report external:443 -f examples/shop",
    "check jobs/report 203.0.113.0/24:443 -f examples/shop",
    "check node/n2 shop/db-1:5432 -f examples/shop",
    "check node/n1 shop/db-1:5432 -f examples/shop",
    "check external shop/db -f whatif/tests/sources/running.yaml",
    "check 192.168.1.1 shop/db:5432 -f whatif/tests/sources/running.yaml",
    "check 10.1.0.1 10.1.0.3:5432 -f whatif/tests/sources/running.yaml",
);

golden!(
    check_explains_rules_with_their_lines,
    "check jobs/cleanup shop/db-1:5432 --explain -f examples/shop",
    "check shop/web-1 shop/api-1:8080 --explain -f examples/shop",
    "check jobs/report external:443 --explain -f examples/shop",
);

golden!(
    check_answers_in_json_and_yaml,
    "check jobs/cleanup shop/db-1:5432 -o json -f examples/shop",
    "check jobs/* shop/db-1 -o yaml -f examples/shop",
);

golden!(
    policies_lists_what_applies_in_order,
    "policies shop/api-1 -f examples/shop",
    "policies jobs/report -o yaml -f examples/shop",
    "policies shop/db-1:5432 -f examples/shop",
    "policies node/n1 -f examples/shop",
    "policies external -f examples/shop",
    "policies red/* -f examples/cluster/world.yaml -f examples/cluster/guardrails -f examples/cluster/default-deny",
);

golden!(
    workloads_of_every_kind_stand_for_their_pods,
    "check -n shop nightly svc/api -f whatif/tests/sources/kinds.yaml",
    "check -n shop nightly svc/front:80 -f whatif/tests/sources/kinds.yaml",
    "check shop/deploy/api shop/sts/db:postgres -f whatif/tests/sources/kinds.yaml",
    "check shop/db shop/db:5432 -f whatif/tests/sources/kinds.yaml",
    "check infra/ds/logs shop/db:5432 -f whatif/tests/sources/kinds.yaml",
    "map -f whatif/tests/sources/kinds.yaml",
);

golden!(
    replicas_with_different_labels_are_kept_apart,
    "check shop/web shop/db -f whatif/tests/sources/running.yaml",
    "who shop/db -f whatif/tests/sources/running.yaml",
    "check shop/done shop/db -f whatif/tests/sources/running.yaml",
);

golden!(
    map_is_short_and_grouped,
    "map -f examples/shop",
    "map -o wide -f examples/shop",
    "map --by namespace -f examples/shop",
);

golden!(
    map_has_many_formats,
    "map -o json --by namespace -f examples/shop",
    "map -o yaml --by namespace -f whatif/tests/sources/running.yaml",
    "map -o csv -f examples/shop/world.yaml -f examples/shop/policies/4-stores.yaml --by namespace",
    "who shop/db-1 -o json -f examples/shop",
    "who shop/db-1 -o md -f examples/shop",
    "who shop/db-1 -o dot -f examples/shop",
    "who shop/db-1 -o mermaid -f examples/shop",
    "who shop/db -o csv --by pod -f whatif/tests/sources/running.yaml",
);

golden!(
    who_and_reach_look_from_one_side,
    "who shop/db-1 -f examples/shop",
    "who shop/web-1:9090 -f examples/shop",
    "who external:443 -f examples/shop",
    "reach jobs/report -f examples/shop",
    "reach external -f examples/shop",
    "who node/n1 -f examples/shop",
    "who node/n2 -f whatif/tests/sources/tiers.yaml",
    "who node/n1 -f whatif/tests/sources/tiers.yaml",
    "who node/n2:443 --by namespace -f whatif/tests/sources/tiers.yaml",
    "who 192.168.1.2 -o csv -f whatif/tests/sources/tiers.yaml",
    "reach node/n1 -f whatif/tests/sources/tiers.yaml",
    "reach node/n1 -o mermaid --by namespace -f whatif/tests/sources/tiers.yaml",
);

golden!(
    pods_of_a_node_are_told_from_others_where_it_is_asked_about,
    "check node/n1 web -f whatif/tests/sources/own-node.yaml",
    "check web node/n1:443 -f whatif/tests/sources/own-node.yaml --allow-egress-to-own-node",
    "check shop/agent web -f whatif/tests/sources/own-node.yaml",
    "reach node/n1 -f whatif/tests/sources/own-node.yaml",
    "reach shop/agent -f whatif/tests/sources/own-node.yaml",
    "who node/n1 -f whatif/tests/sources/own-node.yaml",
    "who node/n1 -f whatif/tests/sources/own-node.yaml --allow-egress-to-own-node",
    "plan -f whatif/tests/sources/own-node.yaml --without cnp/nodes",
    "plan -f whatif/tests/sources/own-node.yaml --without cnp/nodes --allow-egress-to-own-node",
);

golden!(
    pods_that_are_treated_alike_need_not_reach_each_other,
    "map -f whatif/tests/sources/alike.yaml",
    "map --by namespace -f whatif/tests/sources/alike.yaml",
    "reach a/* -f whatif/tests/sources/alike.yaml",
);

golden!(
    policies_do_not_apply_to_pods_with_host_network,
    "who infra/logs -f whatif/tests/sources/alike.yaml",
    "reach infra/logs -f whatif/tests/sources/alike.yaml",
    "who infra/logs -o json -f whatif/tests/sources/alike.yaml",
);

golden!(
    families_and_networks_are_named,
    "check x/b x/a -f whatif/tests/sources/alike.yaml",
    "check 10.0.0.0/24 x/a:80 -f whatif/tests/sources/alike.yaml",
    "reach 10.0.0.0/24 -f whatif/tests/sources/alike.yaml",
);

golden!(
    advice_is_policies_that_were_tried,
    "check b/client a/api:8080 -f whatif/tests/sources/advice.yaml",
    "check b/bare a/api:8080 -f whatif/tests/sources/advice.yaml",
    "check b/mig a/api:8080 -f whatif/tests/sources/advice.yaml",
    "check c/flag a/api:8080 -f whatif/tests/sources/advice.yaml",
    "check b/client external:443 -f whatif/tests/sources/advice.yaml",
);

golden!(
    policies_that_are_not_understood_are_named,
    "check shop/web shop/db:5432 -f whatif/tests/sources/tiers.yaml \
     -f whatif/tests/sources/other-apis.yaml",
    "check shop/web shop/db:5432 -f whatif/tests/sources/tiers.yaml \
     -f whatif/tests/sources/misplaced.yaml",
);

golden!(
    a_version_that_nobody_knows_leaves_the_answer_undetermined,
    "check default/shell shop/db-1:5432 -f examples/shop -f whatif/tests/sources/later-version.yaml",
    "check default/shell shop/db-1:5432 -f examples/shop --with whatif/tests/sources/later-version.yaml -o json",
    "check default/shell shop/db-1:5432 -f examples/shop -f whatif/tests/sources/later-version.yaml \
     --without cnp/later --without cdnp/later",
    "who shop/db-1:5432 -f examples/shop -f whatif/tests/sources/later-version.yaml",
);

golden!(
    a_hypothesis_adds_and_removes_objects,
    "check default/shell shop/db-1:5432 -f examples/shop/world.yaml",
    "check default/shell shop/db-1:5432 -f examples/shop/world.yaml --with examples/shop/policies",
    "check default/shell shop/cache-1:6379 -f examples/shop --without netpol/shop/default-deny \
     --without networkpolicy/shop/cache --without netpol/shop/metrics",
    "check default/shell shop/db-1:5432 -f examples/shop --without netpol/shop/dbs",
);

golden!(
    plan_tells_what_changes_and_what_did_it,
    "plan -f whatif/tests/sources/plan-before.yaml --with whatif/tests/sources/plan-change.yaml",
    "plan -f whatif/tests/sources/plan-before.yaml --without netpol/shop/db",
    "plan -f examples/shop --without netpol/shop/metrics --without netpol/jobs/egress",
    "plan -f examples/shop/world.yaml --with examples/shop/policies",
    "plan -f examples/shop --with examples/shop/policies",
    "plan -f examples/shop",
    "plan -f whatif/tests/sources/plan-before.yaml --with whatif/tests/sources/plan-labels.yaml",
);

golden!(
    every_tier_is_named_where_it_decides,
    "check shop/web shop/db:5432 -f whatif/tests/sources/tiers.yaml",
    "check jobs/report shop/db:5432 -f whatif/tests/sources/tiers.yaml",
    "check jobs/report shop/db:5432 --explain -f whatif/tests/sources/tiers.yaml",
    "check jobs/report shop/web:8080 -f whatif/tests/sources/tiers.yaml",
    "check shop/web node/n1:80 -f whatif/tests/sources/tiers.yaml",
    "check shop/web node/n2:80 -f whatif/tests/sources/tiers.yaml",
    "check kube-system/coredns node/n2:80 -f whatif/tests/sources/tiers.yaml",
    "check kube-system/coredns node/n1:80 -f whatif/tests/sources/tiers.yaml",
    "check shop/web external:443 -f whatif/tests/sources/tiers.yaml",
    "check monitoring/prometheus kube-system/coredns:53/udp -f whatif/tests/sources/tiers.yaml",
    "check other/b portcullis/a:80 -f whatif/tests/sources/tiers.yaml \
     --with whatif/tests/sources/portcullis.yaml",
    "check other/b portcullis/a:80 -f whatif/tests/sources/tiers.yaml \
     --with whatif/tests/sources/portcullis.yaml --own-namespace portcullis",
    "check jobs/report shop/db:5432 -o json -f whatif/tests/sources/tiers.yaml",
    "map -f whatif/tests/sources/tiers.yaml",
    "who shop/db -f whatif/tests/sources/tiers.yaml",
    "reach shop/web -f whatif/tests/sources/tiers.yaml",
    "lint -f whatif/tests/sources/tiers.yaml",
);

golden!(
    policies_of_the_cluster_are_added_and_removed,
    "check jobs/report shop/db:5432 -f whatif/tests/sources/tiers.yaml \
     --without clusternetworkpolicy//guard --without cdnp/default --without netpol/shop/db",
    "check jobs/report shop/db:5432 -f whatif/tests/sources/tiers.yaml --without cnp/gaurd",
    "plan -f whatif/tests/sources/tiers.yaml --without cdnp/default",
    "plan -f whatif/tests/sources/tiers.yaml --without cnp/guard --without cnp/edge",
    "plan -f whatif/tests/sources/tiers.yaml --without cnp/edge",
    "plan -f whatif/tests/sources/tiers.yaml --without cnp/edge -o json",
    "plan -f whatif/tests/sources/tiers.yaml --without netpol/shop/db -o json",
);

golden!(
    audit_tells_what_would_be,
    "check shop/web shop/db:5432 -f whatif/tests/sources/tiers.yaml \
     --with whatif/tests/sources/audit.yaml",
    "check shop/web shop/db -f whatif/tests/sources/tiers.yaml \
     --with whatif/tests/sources/audit.yaml",
    "check shop/web shop/db:8080 -f whatif/tests/sources/tiers.yaml \
     --with whatif/tests/sources/audit.yaml",
    "check shop/web shop/db:5432 -o json -f whatif/tests/sources/tiers.yaml \
     --with whatif/tests/sources/audit.yaml",
    "plan -f whatif/tests/sources/tiers.yaml --with whatif/tests/sources/audit.yaml",
    "plan --audit -f whatif/tests/sources/tiers.yaml --with whatif/tests/sources/audit.yaml",
    "plan --audit -f whatif/tests/sources/tiers.yaml -f whatif/tests/sources/audit.yaml",
    "plan --audit -o json -f whatif/tests/sources/tiers.yaml -f whatif/tests/sources/audit.yaml",
    "plan --audit -f whatif/tests/sources/tiers.yaml",
    "lint -f whatif/tests/sources/tiers.yaml -f whatif/tests/sources/audit.yaml",
);

golden!(
    plan_blames_only_what_it_takes,
    "plan -f examples/cluster/world.yaml --with examples/cluster/guardrails",
    "plan -f whatif/tests/sources/tiers.yaml --with whatif/tests/sources/priorities.yaml",
);

golden!(
    plan_tells_nodes_apart_by_family,
    "plan -f whatif/tests/sources/families.yaml --without cnp/nodes",
);

golden!(
    plan_fails_on_what_is_asked_for_only,
    "plan --fail-on opened -f examples/shop/world.yaml --with examples/shop/policies",
    "plan --fail-on dns,external -o md -f whatif/tests/sources/plan-before.yaml \
     --with whatif/tests/sources/plan-change.yaml",
    "plan --fail-on dns -o md -f whatif/tests/sources/plan-before.yaml --without netpol/shop/db",
);

golden!(
    plan_misses_dns_where_its_pods_are_not_known,
    "plan --fail-on dns -f examples/shop --with whatif/tests/sources/plan-no-dns.yaml",
    "plan --fail-on opened,external -o md -f examples/shop \
     --with whatif/tests/sources/plan-no-dns.yaml",
);

golden!(
    plan_answers_in_json_and_yaml,
    "plan -o json -f whatif/tests/sources/plan-before.yaml --without netpol/shop/db",
    "plan -o yaml -f whatif/tests/sources/plan-before.yaml \
     --with whatif/tests/sources/plan-change.yaml",
);

golden!(
    what_is_missing_or_ambiguous_has_candidates,
    "check shop/web-1 shop/api -f examples/shop",
    "check web-1 shop/api-1 -f examples/shop",
    "check shpo/web-1 shop/api-1 -f examples/shop",
    "check shop/web-1 shop/api-1:htp -f examples/shop",
    "check node/n9 shop/api-1 -f examples/shop",
    "check shop/web-1:80 shop/api-1 -f examples/shop",
    "check shop/web-1 shop/api-1:0 -f examples/shop",
    "check shop/web-1 shop/api-1",
    "check shop/web-1 shop/api-1 -f nowhere.yaml",
    "check -n shop nightly svc/api:81 -f whatif/tests/sources/kinds.yaml",
);

golden!(
    what_cannot_be_read_costs_the_rest_nothing,
    "check default/a default/b:80 -f whatif/tests/sources/broken.yaml",
    "check default/a default/b:80 -f whatif/tests/sources/broken.yaml --strict",
);

golden!(
    completion_offers_words,
    "completion kubectl",
    "complete-for-kubectl -- ",
    "complete-for-kubectl -- ma",
    "complete-for-kubectl -- map -o m",
    "complete-for-kubectl -- map -f x",
    "complete-for-kubectl -- check --ex",
);

#[test]
fn standard_input_is_a_source() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\n\
                {apiVersion: v1, kind: Pod, metadata: {name: b}}\n";
    let Output { status, stdout, .. } = run("check a b:80 -f -", text);
    assert_eq!(status.code(), Some(0), "{}", String::from_utf8_lossy(&stdout));
}

#[test]
fn an_address_that_pods_of_two_nodes_claim_stands_for_none_of_them() {
    let copy = "{apiVersion: v1, kind: Pod, metadata: {name: copy, namespace: shop}, spec: \
                {nodeName: n2}, status: {podIPs: [{ip: 10.1.0.2}]}}";
    let answer = run("check 10.1.0.2 shop/db:5432 -f whatif/tests/lint/world.yaml -f -", copy);
    let problem = text(&answer.stderr);
    let claimed =
        "address 10.1.0.2 is claimed by pods shop/api on node n1 and shop/copy on node n2";
    assert!(problem.contains(claimed), "{problem}");
    assert!(problem.contains("ask for one of the pods by name"), "{problem}");
    let answer = run("check shop/copy shop/db:5432 -f whatif/tests/lint/world.yaml -f -", copy);
    assert!(answer.status.success(), "by its name: {}", text(&answer.stderr));
}

#[test]
fn a_default_leaves_out_the_system_namespaces_that_a_flag_names() {
    let is_left_out = |flag: &str| {
        let world =
            "-f whatif/tests/sources/tiers.yaml --with whatif/tests/sources/portcullis.yaml";
        let answer = run(&format!("check other/b portcullis/a:80 {world} {flag}"), "");
        text(&answer.stdout).contains("no policy isolates portcullis/a")
    };
    assert!(!is_left_out("") && !is_left_out("--system-namespaces port,cullis"));
    assert!(is_left_out("--system-namespaces else,portcullis"));
    let refused = run("map -f whatif/tests/sources/tiers.yaml --system-namespaces kube-*", "");
    assert!(text(&refused.stderr).contains("the name of a namespace is at most 63"));
}

#[test]
fn every_shell_has_a_completion_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let Output { status, stdout, .. } = run(&format!("completion {shell}"), "");
        assert_eq!(status.code(), Some(0), "{shell}");
        assert!(String::from_utf8_lossy(&stdout).contains("kubectl-whatif"), "{shell}");
    }
}

fn json(line: &str) -> Value {
    serde_json::from_slice(&run(line, "").stdout).expect(line)
}

#[test]
fn outputs_are_what_their_schemas_say() {
    let lines = [
        ("verdict", "check jobs/cleanup shop/db-1:5432 -o json -f examples/shop"),
        ("verdict", "check shop/web-1 shop/api-1 -o json -f examples/shop"),
        ("verdict", "check */* shop/db-1 -o json -f examples/shop"),
        ("verdict", "check external shop/db -o json -f whatif/tests/sources/running.yaml"),
        ("verdict", "check x/b x/a -o json -f whatif/tests/sources/alike.yaml"),
        ("verdict", "check node/n1 shop/db-1 -o json -f examples/shop"),
        ("verdict", "check */* shop/db -o json -f whatif/tests/sources/tiers.yaml"),
        (
            "verdict",
            "check shop/web */* -o json -f whatif/tests/sources/tiers.yaml \
             -f whatif/tests/sources/audit.yaml",
        ),
        (
            "plan",
            "plan --audit -o json -f whatif/tests/sources/tiers.yaml \
             -f whatif/tests/sources/audit.yaml",
        ),
        ("map", "map -o json -f examples/shop"),
        ("map", "map -o json --by pod -f whatif/tests/sources/kinds.yaml"),
        ("map", "map -o json --by namespace -f examples/shop"),
        ("map", "who shop/db -o json -f whatif/tests/sources/running.yaml"),
        ("map", "reach external -o json -f examples/shop"),
        ("map", "who node/n2 -o json -f whatif/tests/sources/tiers.yaml"),
        ("plan", "plan -o json -f examples/shop/world.yaml --with examples/shop/policies"),
        ("plan", "plan -o json -f examples/shop --without netpol/shop/db"),
        ("plan", "plan -o json -f examples/shop --with examples/shop"),
        (
            "plan",
            "plan -o json -f whatif/tests/sources/frontends.yaml \
             --with whatif/tests/sources/plan-frontends.yaml",
        ),
        ("suggestion", "suggest default/shell shop/api-1 -o json -f examples/shop"),
        (
            "suggestion",
            "suggest red/web 169.254.169.254 -o json -f examples/cluster/world.yaml \
             -f examples/cluster/guardrails",
        ),
    ];
    for (kind, line) in lines {
        let mut schema = json(&format!("schema {kind}"));
        // So strict that a field which the schema does not know is found.
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
        }
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let output = json(line);
        let errors: Vec<String> =
            validator.iter_errors(&output).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{line}");
        assert_eq!(output["apiVersion"], "whatif.portcullis.dev/v1alpha1");
        assert_eq!(output["kind"].as_str().map(str::to_lowercase).as_deref(), Some(kind));
    }
}

#[test]
fn a_schema_refuses_what_is_no_output() {
    let schema = json("schema verdict");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    assert!(!validator.is_valid(&serde_json::json!({"kind": "Verdict", "verdict": "Perhaps"})));
}

golden!(schemas_are_stable, "schema verdict", "schema map", "schema plan");
