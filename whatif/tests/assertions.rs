//! Golden sessions of `kubectl whatif test`, and what its formats hold.

mod session;

use session::{run, session};

macro_rules! golden {
    ($name:ident, $($line:expr),+ $(,)?) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(session(&[$($line),+]));
        }
    };
}

golden!(
    tests_pass_or_fail_and_say_why,
    "test whatif/tests/sources/shop-tests.yaml -f examples/shop",
    "test whatif/tests/sources/shop-tests.yaml -f examples/shop --without netpol/shop/db",
    "test whatif/tests/sources/wrong-tests.yaml -f examples/shop",
    "test whatif/tests/sources/wrong-tests.yaml -f examples/shop --fail-fast",
);

golden!(
    tests_have_formats_for_ci,
    "test whatif/tests/sources/wrong-tests.yaml -f examples/shop -o tap",
    "test whatif/tests/sources/wrong-tests.yaml -f examples/shop -o junit",
    "test whatif/tests/sources/wrong-tests.yaml -f examples/shop -o json --fail-fast",
    "test whatif/tests/sources/shop-tests.yaml -f examples/shop -o yaml",
    "schema test-report",
);

golden!(
    steps_bring_their_own_world,
    "test tests/cases/peer-and.yaml -f tests/cases/world.yaml",
    "test tests/cases/peer-and.yaml -f examples/shop",
);

golden!(
    what_is_no_test_file_is_a_failure_of_the_tool,
    "test examples/shop/world.yaml -f examples/shop",
    "test nowhere.yaml -f examples/shop",
    "test -f examples/shop",
    "test whatif/tests/sources/shop-tests.yaml -f nowhere.yaml",
);

/// A file with these lines, asked about two pods that a policy tells apart.
fn verdict(lines: &str) -> (Option<i32>, String) {
    let pod = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}}}"
        )
    };
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: \
                  {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: \
                  {matchLabels: {app: b}}}], ports: [{port: 80}]}]}}";
    let directory = tempfile::tempdir().expect("a directory");
    let world = directory.path().join("world.yaml");
    let text = [pod("a"), pod("b"), pod("c"), policy.to_owned()].join("\n---\n");
    std::fs::write(&world, text).expect("written");
    let head = "apiVersion: whatif.portcullis.dev/v1alpha1\nkind: PolicyTest\n";
    let output = run(&format!("test - -f {}", world.display()), &format!("{head}{lines}"));
    let shown = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&shown).into_owned())
}

fn check(lines: &str, code: i32, wanted: &str) {
    let (exit, shown) = verdict(lines);
    assert_eq!(exit, Some(code), "{lines}: {shown}");
    assert!(shown.contains(wanted), "{lines}: {shown}");
}

#[test]
fn only_from_is_about_everybody_else_in_the_world() {
    check("tests: [{onlyFrom: default/b, to: default/a, ports: 80}]", 0, "All 1 tests");
    check("tests: [{onlyFrom: default/c, to: default/a, ports: 80}]", 1, "may open 80/TCP");
    check("tests: [{onlyFrom: default/b, to: default/c, ports: 80}]", 1, "anywhere may open");
    check("tests: [{from: default/a, onlyTo: default/b, ports: 80}]", 1, "may open 80/TCP");
}

#[test]
fn the_last_line_about_a_port_wins() {
    let all = "{to: default/a, expect: denied}";
    check(&format!("tests: [{all}]"), 1, "default/b may open 80/TCP at default/a");
    let but = "{from: default/b, to: default/a, ports: 80, expect: allowed}";
    check(&format!("tests: [{all}, {but}]"), 0, "All 2 tests");
    check(&format!("tests: [{but}, {all}]"), 1, "later lines undo all that it says");
    check(&format!("default: denied\ntests: [{but}]"), 1, "default: denied");
}

#[test]
fn a_test_that_matches_no_pair_fails() {
    check(
        "tests: [{from: default/d, to: default/a, expect: denied}]",
        1,
        "default/d matches nothing",
    );
    check("tests: [{from: other/*, expect: denied}]", 1, "other/* matches nothing");
    check(
        "tests: [{from: {podSelector: {matchLabels: {app: x}}}, expect: denied}]",
        1,
        "matches nothing",
    );
    check("tests: [{from: default/a, to: default/a, expect: denied}]", 1, "no connection matches");
    check("tests: [{from: external, to: external, expect: denied}]", 1, "no connection matches");
}

#[test]
fn what_cannot_be_understood_exits_2() {
    check("tests: [{from: a, expect: denied}]", 2, "is no group");
    check("tests: [{from: {podSelektor: {}}, expect: denied}]", 2, "podSelektor");
    check(
        "tests: [{from: {podSelector: {matchLabels: {app: \"no good\"}}}, expect: denied}]",
        2,
        "is no label value",
    );
    check("tests: [{to: default/a}]", 2, "a line needs expect");
    check("tests: []", 2, "there are no tests");
    check("tests: [{to: default/a, expect: denied}]\nsteps: [{default: allowed}]", 2, "not both");
}

#[test]
fn reports_are_what_their_schema_says() {
    let json = |line: &str| -> serde_json::Value {
        serde_json::from_slice(&run(line, "").stdout).expect("JSON")
    };
    let mut schema = json("schema test-report");
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("unevaluatedProperties".to_owned(), serde_json::Value::Bool(false));
    }
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for file in ["wrong-tests", "shop-tests"] {
        let line = format!("test whatif/tests/sources/{file}.yaml -f examples/shop -o json");
        let errors: Vec<String> =
            validator.iter_errors(&json(&line)).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{file}");
    }
}
