//! `lint` by its documentation: each bad example has its finding and no other, each good one none;
//! and golden sessions of every format.

mod frontends;
mod linted;
mod session;

use std::path::{Path, PathBuf};
use std::process::Output;

use linted::{WORLD, check, check_all, egress, json};
use portcullis_lint::Code;
use serde_json::Value;
use session::{run, text};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A section of `docs/lint.md`: its code, the bad example and the good one.
struct Section {
    code: Code,
    bad: String,
    good: String,
}

fn sections() -> Vec<Section> {
    let docs = std::fs::read_to_string(root().join("docs/lint.md")).expect("the documentation");
    let all = docs.split("\n## ").skip(1).map(|section| {
        let (title, body) = section.split_once('\n').expect("a title");
        let (code, name) = title.split_once(' ').expect("a code and a name");
        let code: Code = code.parse().expect("a code");
        assert_eq!(code.name(), name);
        let mut examples = body.split("```yaml\n").skip(1);
        let mut example = || {
            let (text, _) = examples.next().expect("an example").split_once("```").expect("an end");
            text.to_owned()
        };
        Section { code, bad: example(), good: example() }
    });
    all.collect()
}

/// The codes that an example has in the cluster of the examples, with how often.
fn codes(section: &Section, example: &str) -> Vec<String> {
    // Whom no policy selects is about whole clusters; the example for it is one.
    let source = match section.code {
        Code::NoPolicy => "-f -".to_owned(),
        _ => format!("-f {WORLD} -f - --disable PCL103"),
    };
    let answer = json(&format!("lint -o json {source}"), example);
    let findings = answer["findings"].as_array().expect("findings");
    findings.iter().map(|one| one["code"].as_str().expect("a code").to_owned()).collect()
}

#[test]
fn every_code_has_a_section_and_every_section_a_code() {
    let documented: Vec<Code> = sections().iter().map(|section| section.code).collect();
    assert_eq!(documented, Code::ALL);
    let docs = std::fs::read_to_string(root().join("docs/lint.md")).expect("the documentation");
    for code in Code::ALL {
        let anchor = code.docs();
        let anchor = anchor.strip_prefix("docs/lint.md#").expect("a section");
        assert!(docs.contains(&format!("](#{anchor})")), "{anchor}");
        let row = format!("| {} | {} |", code.name(), code.severity().as_str());
        assert!(docs.contains(&row), "{row}");
    }
}

#[test]
fn bad_examples_have_exactly_their_finding() {
    for section in sections() {
        assert_eq!(codes(&section, &section.bad), [section.code.as_str()], "{}", section.bad);
    }
}

#[test]
fn good_examples_have_no_finding() {
    for section in sections() {
        assert_eq!(codes(&section, &section.good), Vec::<String>::new(), "{}", section.good);
    }
}

#[test]
fn blocks_are_judged_by_who_is_in_them() {
    let to = |block: &str| egress(&format!("{{to: [{{ipBlock: {block}}}]}}"));
    check(&to("{cidr: 0.0.0.0/0}"), &[]);
    check(&to("{cidr: 0.0.0.0/0, except: [169.254.169.254/32]}"), &[]);
    check(&to("{cidr: 0.0.0.0/0, except: [10.1.0.4/30]}"), &["PCL203"]);
    check(&to("{cidr: 203.0.113.0/24}"), &[]);
    check(&to("{cidr: 10.0.0.0/8}"), &["PCL203"]);
    check(&to("{cidr: 10.96.0.20/32}"), &["PCL204"]);
    // The nodes, hostNetwork pods among them.
    check(&to("{cidr: 192.168.1.0/24}"), &[]);
}

#[test]
fn a_port_that_somebody_has_is_not_a_services() {
    let to = |peer: &str, port: u16| {
        egress(&format!(
            "{{ports: [{{port: 53, protocol: UDP}}, {{port: 53}}]}}, {{to: [{peer}], ports: [{{port: {port}}}]}}"
        ))
    };
    check(&to("{podSelector: {matchLabels: {app: api}}}", 80), &["PCL302"]);
    check(&to("{podSelector: {matchLabels: {app: api}}}", 8080), &[]);
    check(&to("{podSelector: {matchLabels: {app: db}}}", 80), &[]);
    // Outside 80 is 80.
    check(&to("{ipBlock: {cidr: 203.0.113.0/24}}", 80), &[]);
}

/// A NetworkPolicy that lets the API reach the database.
fn db(name: &str, mode: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
         namespace: shop, annotations: {{portcullis.dev/mode: {mode}}}}}, spec: {{podSelector: \
         {{matchLabels: {{app: db}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: \
         api}}}}}}]}}]}}}}"
    )
}

#[test]
fn a_policy_in_audit_makes_none_redundant_that_is_enforced() {
    let (tried, used) = (db("tried", "audit"), db("used", "enforce"));
    let disabled = "--disable PCL103,PCL104";
    let redundant = ("PCL502", "NetworkPolicy shop/tried");
    check_all(&[&tried, &used], disabled, &[redundant]);
    check_all(&[&tried, &db("z", "audit")], disabled, &[("PCL503", "NetworkPolicy shop/z")]);
}

#[test]
fn what_a_policy_in_audit_will_open_is_not_half_open() {
    let opened = db("opened", "enforce");
    let egress = |name: &str, mode: &str, rules: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
             namespace: shop, annotations: {{portcullis.dev/mode: {mode}}}}}, spec: {{podSelector: \
             {{matchLabels: {{app: api}}}}, policyTypes: [Egress], egress: [{rules}]}}}}"
        )
    };
    let (closed, disabled) = (egress("closed", "enforce", ""), "--disable PCL103,PCL104,PCL502");
    let half = ("PCL403", "NetworkPolicy shop/opened");
    check_all(&[&opened, &closed], disabled, &[half]);
    check_all(&[&opened, &closed, &egress("tried", "audit", "")], disabled, &[half]);
    check_all(&[&opened, &closed, &egress("tried", "audit", "{}")], disabled, &[]);
}

#[test]
fn policies_of_the_cluster_are_looked_at_for_whom_they_select() {
    let default = |spec: &str| {
        format!(
            "{{apiVersion: portcullis.dev/v1alpha1, kind: ClusterDefaultNetworkPolicy, metadata: \
             {{name: d}}, spec: {{policyTypes: [Ingress], {spec}}}}}"
        )
    };
    let nobody = ("PCL101", "ClusterDefaultNetworkPolicy d");
    let check = |spec: &str, expected: &[(&str, &str)]| {
        check_all(&[&default(spec)], "--disable PCL103", expected);
    };
    check("podSelector: {}", &[]);
    check("namespaceSelector: {matchLabels: {team: shop}}", &[]);
    check("namespaceSelector: {matchLabels: {team: shpo}}", &[nobody]);
    check("podSelector: {matchLabels: {app: wbe}}", &[nobody]);
    let system = "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}";
    check(system, &[nobody]);
    check(&format!("{system}, includeSystemNamespaces: true"), &[]);
    // Whom a default selects is not open.
    check_all(&[&default("podSelector: {}")], "", &[]);
}

#[test]
fn names_that_say_deny_are_taken_at_their_word() {
    let named = |name: &str| {
        format!(
            "metadata: {{name: {name}, namespace: shop}}, spec: {{podSelector: {{matchLabels: {{app: web}}}}}}"
        )
    };
    check(&named("deny-egress"), &["PCL401"]);
    check(&named("deny-ingress"), &[]);
    check(&named("deny-ingress-not-egress"), &[]);
    check(&named("default-deny"), &[]);
}

#[test]
fn examples_and_sources_of_other_tests_are_read_without_failing() {
    for source in ["examples", "whatif/tests/sources", "deploy"] {
        let Output { status, stderr, .. } = run(&format!("lint -f {source}"), "");
        assert!(matches!(status.code(), Some(0 | 1)), "{source}: {}", text(&stderr));
    }
    let Output { status, stdout, .. } = run("lint -f examples/shop", "");
    assert_eq!(status.code(), Some(0), "the example has no mistake: {}", text(&stdout));
}

#[test]
fn every_policy_of_the_cases_can_be_linted() {
    let world = std::fs::read_to_string(root().join("tests/cases/world.yaml")).expect("the world");
    let mut looked_at = 0;
    for entry in std::fs::read_dir(root().join("tests/cases")).expect("the cases") {
        let path = entry.expect("a case").path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let (documents, _) = steps(&path);
        for objects in documents {
            let input = format!("{world}\n---\n{objects}\n");
            let Output { status, stderr, .. } = run("lint -o json -f -", &input);
            let said = text(&stderr);
            assert!(matches!(status.code(), Some(0 | 1)), "{}: {said}", path.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > 80, "only {looked_at} steps");
}

/// What each step of a case applies, as a List; and how many steps there are.
fn steps(path: &Path) -> (Vec<Value>, usize) {
    let text = std::fs::read_to_string(path).expect("a case");
    let manifest = portcullis_crds::manifest::Manifest::parse("case", &text);
    let steps = manifest.documents.iter().filter_map(|case| case.value()["steps"].as_array());
    let applied: Vec<Value> = steps
        .flatten()
        .filter_map(|step| step.get("apply"))
        .map(|items| serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}))
        .collect();
    let count = applied.len();
    (applied, count)
}

#[test]
fn fail_on_and_disable_set_the_exit_code() {
    let bad = &sections().into_iter().find(|one| one.code == Code::SelectsNothing).expect("it").bad;
    let check = |options: &str, expected: i32| {
        let Output { status, .. } = run(&format!("lint -f {WORLD} -f - {options}"), bad);
        assert_eq!(status.code(), Some(expected), "{options}");
    };
    check("", 1);
    check("--fail-on note", 1);
    check("--fail-on error", 0);
    check("--fail-on never", 0);
    check("--disable PCL101", 0);
    check("--disable selects-nothing,PCL103 --fail-on note", 0);
    check("--disable PCL999", 2);
    check("--strict", 1);
}

#[test]
fn json_is_what_its_schema_says() {
    let mut schema = json("schema lint", "");
    schema["unevaluatedProperties"] = Value::Bool(false);
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for section in sections() {
        let answer = json(&format!("lint -o json -f {WORLD} -f -"), &section.bad);
        let errors: Vec<String> =
            validator.iter_errors(&answer).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(answer["kind"], "Lint");
    }
}

/// The schema is OASIS's, <https://docs.oasis-open.org/sarif/sarif/v2.1.0/>, but for one pattern
/// with a bracket too many, which is no regular expression to a strict reader.
#[test]
fn code_hosts_get_paths_in_the_repository() {
    let root = root().canonicalize().expect("a directory");
    let lint = format!("lint --fail-on never -f {}/{WORLD}", root.display());
    let sarif = json(&format!("{lint} -o sarif"), "").to_string();
    assert!(sarif.contains(&format!("\"uri\":\"{WORLD}\"")), "{sarif}");
    let annotations = text(&run(&format!("{lint} -o github"), "").stdout);
    assert!(annotations.contains(&format!("file={WORLD},")), "{annotations}");
}

#[test]
fn sarif_is_what_the_standard_says() {
    let path = root().join("whatif/tests/lint/sarif-2.1.0.schema.json");
    let schema = std::fs::read_to_string(path).expect("the schema");
    let schema = schema.replace("[a-zA-Z]{2}]?$", "[a-zA-Z]{2}$");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for section in sections() {
        let answer = json(&format!("lint -o sarif -f {WORLD} -f -"), &section.bad);
        let errors: Vec<String> =
            validator.iter_errors(&answer).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new());
        let results = answer["runs"][0]["results"].as_array().expect("results");
        assert!(results.iter().any(|one| one["ruleId"] == section.code.as_str()), "{results:?}");
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().expect("an index")).unwrap();
            let rule = &answer["runs"][0]["tool"]["driver"]["rules"][index];
            assert_eq!(rule["id"], result["ruleId"]);
        }
    }
    assert!(!validator.is_valid(&serde_json::json!({"version": "2.1.0"})), "it refuses others");
}

/// One command with its input as one would see it in a terminal.
fn session(line: &str, input: &str) -> String {
    let Output { status, stdout, stderr } = run(line, input);
    let code = status.code().expect("it was not killed");
    format!("$ kubectl whatif {line}\n{}{}[exit {code}]\n", text(&stderr), text(&stdout))
}

/// All bad examples in one file: what people see of each code.
#[test]
fn every_finding_reads_well() {
    let mut all = String::new();
    for section in sections() {
        let world = if section.code == Code::NoPolicy {
            String::new()
        } else {
            format!("-f {WORLD} --disable PCL103")
        };
        all += &session(&format!("lint -f - {world}"), &section.bad);
        all.push('\n');
    }
    insta::assert_snapshot!(all);
}

#[test]
fn every_format_is_stable() {
    let mut all = String::new();
    let sources = "-f whatif/tests/sources/kinds.yaml -f whatif/tests/sources/broken.yaml";
    for format in ["text", "json", "yaml", "sarif", "github"] {
        let version = env!("CARGO_PKG_VERSION");
        let shown = session(&format!("lint -o {format} {sources}"), "");
        all += &shown.replace(&format!("\"{version}\""), "\"VERSION\"");
        all.push('\n');
    }
    all += &session("lint -f whatif/tests/lint/world.yaml --disable no-policy", "");
    all += &session("schema lint", "");
    insta::assert_snapshot!(all);
}
