//! What `-f` reads: nothing that is missing, misspelled or given twice looks like a good answer.

mod session;

use std::fs;
use std::path::Path;
use std::process::Output;

use session::{run, text};

const WORLD: &str = "whatif/tests/lint/world.yaml";

const POLICY: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, \
                      namespace: shop}, spec: {podSelector: {}}}\n";

/// Runs a command; its exit code, and everything that it writes.
fn answer(line: &str, input: &str) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = run(line, input);
    (status.code(), text(&stderr) + &text(&stdout))
}

/// The exit code of a command, and a part of what it writes.
#[track_caller]
fn check(line: &str, input: &str, code: i32, part: &str) {
    let (found, written) = answer(line, input);
    assert!(written.contains(part), "{line}: {written}");
    assert_eq!(found, Some(code), "{line}: {written}");
}

fn file(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().expect("a directory")).expect("created");
    fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_source_without_any_object_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().display();
    let none = "contains no Kubernetes object";
    let allow = "--fail-on-empty=false";
    check("lint -f -", "", 2, "standard input contains no Kubernetes object");
    check("lint -f -", "", 2, allow);
    check(&format!("plan -f {WORLD} --with -"), "# nothing\n---\n", 2, none);
    check(&format!("plan -f {WORLD} --with -"), "Error: chart not found\n", 2, none);
    check(&format!("lint -f {dir}"), "", 2, "contains no file that ends in");
    file(directory.path(), "values.yaml", "replicas: 2\n");
    check(&format!("map -f {WORLD} -f {dir}"), "", 2, none);
    // On purpose.
    check(&format!("lint -f - {allow}"), "", 0, "Nothing found");
    check(&format!("plan -f {WORLD} --with - {allow}"), "", 0, "Nothing changes");
    check(&format!("lint --fail-on-empty=true -f {WORLD} -f {dir}"), "", 2, none);
}

#[test]
fn a_file_that_cannot_be_read_makes_an_answer_about_the_cluster_incomplete() {
    let broken = "{apiVersion: v1, kind: Pod";
    check(&format!("plan -f {WORLD} --with -"), broken, 3, "<stdin>:2:1");
    check("lint -f - --fail-on never", broken, 0, "PCL001");
    check("lint -f -", broken, 1, "PCL001");
    // The object that a question names may be in it.
    let missing = "Undetermined: there is no namespace";
    check(&format!("check else/a shop/db -f {WORLD} -f -"), broken, 3, missing);
    check(&format!("who else/a -f {WORLD} -f -"), broken, 3, "<stdin>:2:1");
    check(&format!("who else/a -f {WORLD}"), "", 2, "error: there is no namespace");
    // A policy that denies it may be in it.
    let allowed = "check shop/web shop/db";
    check(&format!("{allowed} -f {WORLD}"), "", 0, "Allowed");
    check(&format!("{allowed} -f {WORLD} -f -"), broken, 3, "Allowed");
}

#[test]
fn a_kind_that_is_nearly_one_of_ours_is_an_error() {
    for kind in ["networkPolicy", "NetworkPolicies", "networkpolicies", "netpol"] {
        let policy = POLICY.replace("NetworkPolicy", kind);
        let message = format!("<stdin>:1:36: error: {kind} db: kind: `{kind}` is not a kind");
        check(&format!("map -f {WORLD} -f -"), &policy, 3, &message);
        check(&format!("map --strict -f {WORLD} -f -"), &policy, 2, "write NetworkPolicy");
        check(&format!("lint -f {WORLD} -f -"), &policy, 1, "error[PCL001]");
    }
    // The kind of another API.
    let other = "{apiVersion: example.com/v1, kind: Networkpolicy, metadata: {name: a}}";
    check(&format!("map --strict -f {WORLD} -f -"), other, 0, "");
}

#[test]
fn an_object_without_a_name_that_can_be_read_makes_an_answer_incomplete() {
    // YAML 1.1 reads `y` as true.
    let policy = POLICY.replace("namespace: shop", "namespace: y");
    let message = "metadata.namespace: must be text, not a boolean";
    let nameless = POLICY.replace("name: db, ", "");
    for (policy, message) in [(&policy, message), (&nameless, "metadata.name: is missing")] {
        for line in ["map", "check shop/web shop/db", "policies shop/db", "exposure shop/db"] {
            check(&format!("{line} -f {WORLD} -f -"), policy, 3, message);
        }
        check(&format!("plan -f {WORLD} --with -"), policy, 3, message);
        check(&format!("lint -f {WORLD} -f -"), policy, 1, "PCL001");
    }
}

#[test]
fn an_api_version_that_no_server_has_is_an_error_for_every_kind() {
    let cases = [
        ("apps/v1beta2", "Deployment", "is not apps/v1"),
        ("extensions/v1beta1", "DaemonSet", "is not apps/v1"),
        ("v1", "StatefulSet", "is not apps/v1"),
        ("batch/v1beta1", "CronJob", "is not batch/v1"),
        ("v2", "Service", "is not v1"),
        ("v1beta1", "Pod", "is not v1"),
        ("networking.k8s.io/v1beta1", "NetworkPolicy", "is not understood"),
        ("extensions/v1beta1", "NetworkPolicy", "is not understood"),
    ];
    for (version, kind, message) in cases {
        let object = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: a}}}}");
        let (_, written) = answer(&format!("map -f {WORLD} -f -"), &object);
        let start = format!("<stdin>:1:2: error: {kind} default/a: apiVersion: ");
        assert!(written.contains(&start) && written.contains(message), "{written}");
    }
    let other = "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}";
    check(&format!("map --strict -f {WORLD} -f -"), other, 0, "");
}

#[test]
fn a_policy_in_a_namespace_that_nothing_is_in_is_a_warning() {
    let misplaced = POLICY.replace("shop", "shpo");
    let message = "<stdin>:1:78: warning: NetworkPolicy shpo/db: metadata.namespace: the source has \
                   no Namespace shpo";
    check(&format!("map -f {WORLD} -f -"), &misplaced, 0, message);
    check(&format!("map -f {WORLD} -f -"), &misplaced, 0, "did you mean shop?");
    check(&format!("map --strict -f {WORLD} -f -"), &misplaced, 2, "no Namespace shpo");
    check(&format!("lint -f {WORLD} -f -"), &misplaced, 1, "warning[PCL105]");
    // Policies alone show no namespace.
    check("lint -f -", &misplaced, 0, "Nothing found");
    let selector = misplaced.replace("podSelector: {}", "podSelector: {matchLabels: {app: db}}");
    let (_, written) = answer(&format!("lint -f {WORLD} -f -"), &selector);
    assert!(!written.contains("PCL101"), "{written}");
}

#[test]
fn an_object_that_one_path_gives_twice_is_a_warning() {
    let directory = tempfile::tempdir().expect("a directory");
    let (dir, world) = (directory.path().display(), format!("-f {WORLD}"));
    let first = file(directory.path(), "a.yaml", POLICY);
    let second = file(directory.path(), "b/b.yaml", POLICY);
    let message =
        format!("{second}:1:1: warning: networkpolicy/shop/db: is given before, at {first}");
    check(&format!("map {world} -f {dir}"), "", 0, &message);
    check(&format!("map {world} --with {dir} --strict"), "", 2, "is given before");
    check(&format!("lint {world} -f {dir}"), "", 1, "PCL003");
    // From path to path, objects are replaced on purpose.
    check(&format!("map {world} -f {first} -f {second} --strict"), "", 0, "");
}

#[test]
fn input_of_other_programs_is_one_note() {
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().display();
    file(directory.path(), "policy.yaml", POLICY);
    file(directory.path(), "values.yaml", "kind: DaemonSet\nimage: {tag: a}\n---\na: 1\n");
    file(directory.path(), "Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n");
    file(directory.path(), "compose.yaml", "services: {web: {image: nginx}}\n");
    file(directory.path(), "patch.json", "[{\"op\": \"remove\", \"path\": \"/spec\"}]");
    let (code, written) = answer(&format!("lint -f {WORLD} -f {dir} --strict"), "");
    let note = format!(
        "note: 5 documents are not Kubernetes objects (such as Helm values, Chart.yaml and \
         kustomization.yaml) and are left out: {dir}/Chart.yaml:1:1, {dir}/compose.yaml:1:1, \
         {dir}/patch.json:1:1 and 2 more\n"
    );
    assert!(written.contains(&note), "{written}");
    assert_eq!(code, Some(0), "{written}");
    // What lacks only one of the two is a mistake, not another program's.
    let policy = POLICY.replace("kind: NetworkPolicy, ", "");
    check(&format!("lint -f {WORLD} -f -"), &policy, 1, "it has no `kind`");
}

#[test]
fn a_file_of_any_size_is_read() {
    // As `kubectl get pods -A -o json` prints 5,500 pods: more than 32 MiB.
    let padding = "x".repeat(1 << 20);
    let pod = |number: usize| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"p{number}\", \
             \"namespace\": \"shop\", \"annotations\": {{\"a\": \"{padding}\"}}}}}}"
        )
    };
    let pods: Vec<String> = (0..34).map(pod).collect();
    let list = format!(
        "{{\"apiVersion\": \"v1\", \"items\": [\n{}\n], \"kind\": \"List\"}}\n",
        pods.join(",\n")
    );
    assert!(list.len() > 32 << 20);
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(directory.path(), "pods.json", &list);
    check(&format!("check shop/p0 shop/p33:80 -f {path}"), "", 0, "Allowed");
    // An object that is too large is never skipped.
    let whole = list.replace("\"kind\": \"List\"", "\"kind\": \"Other\"");
    let path = file(directory.path(), "other.json", &whole);
    check(&format!("map -f {WORLD} -f {path}"), "", 2, "other.json:1:1: error: the object has 35");
}

const ROLLOUT: &str = "{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: cart, namespace: \
                       shop}, spec: {template: {metadata: {labels: {app: cart}}, spec: {containers: \
                       [{name: c, env: [{name: KEY, value: secret}]}]}}}}\n---\n";

#[test]
fn objects_of_other_apis_stand_for_the_pods_of_their_template() {
    let policy = POLICY.replace("podSelector: {}", "podSelector: {matchLabels: {app: cart}}");
    let both = format!("{ROLLOUT}{policy}");
    let lint = format!("lint -f {WORLD} -f - --disable PCL103");
    check(&lint, &policy, 1, "PCL101");
    check(&lint, &both, 0, "Nothing found");
    check(&format!("check shop/web shop/cart:80 -f {WORLD} -f -"), &both, 1, "isolated by shop/db");
    check(&format!("check shop/web shop/rollout/cart:80 -f {WORLD} -f -"), ROLLOUT, 0, "Allowed");
    check(&format!("map -o csv -f {WORLD} -f -"), &both, 0, "shop/rollout/cart,shop/pod/web,TCP");
    check(&format!("plan -f {WORLD} --with -"), &both, 1, "pod/shop/rollout/cart#1 added");
    // Where its pods run, or those of an object between them, these are the answer.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: cart-1, namespace: shop, labels: {app: cart}}}";
    let (_, written) = answer(&format!("map -o csv -f {WORLD} -f -"), &format!("{ROLLOUT}{pod}"));
    assert!(written.contains("shop/pod/cart-1") && !written.contains("rollout"), "{written}");
}

#[test]
fn a_snapshot_has_an_object_of_another_api_once_and_without_secrets() {
    let written = text(&run("snapshot -o - -f -", ROLLOUT).stdout);
    assert_eq!(written.matches("Rollout").count(), 1, "{written}");
    assert!(!written.contains("secret"), "{written}");
    check("policies shop/cart -f -", &written, 0, "shop/rollout/cart");
}

#[test]
fn assumed_pods_are_those_that_an_operator_will_create() {
    let policy = POLICY.replace("podSelector: {}", "podSelector: {matchLabels: {cluster: main}}");
    let lint = format!("lint -f {WORLD} -f - --disable PCL103");
    check(&lint, &policy, 1, "PCL101");
    let assume = "--assume shop/pg:cluster=main,role=primary";
    check(&format!("{lint} {assume}"), &policy, 0, "Nothing found");
    check(&format!("check shop/web shop/pg {assume} -f {WORLD} -f -"), &policy, 1, "Denied");
    check(&format!("map --assume shop/pg -f {WORLD}"), "", 2, "is not NAMESPACE/NAME:LABEL=VALUE");
}
