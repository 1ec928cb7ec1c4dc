//! The content of files, and that no file stops the reader.

use serde_json::{Value, json};

use super::tree::MAX_DEPTH;
use super::*;

fn values(text: &str) -> Vec<Value> {
    let manifest = Manifest::parse("a.yaml", text);
    assert_eq!(manifest.diagnostics, [], "{text}");
    manifest.documents.iter().map(|document| document.value().clone()).collect()
}

fn errors(text: &str) -> Vec<String> {
    Manifest::parse("a.yaml", text).diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn empty_documents_and_comments_are_nothing() {
    for text in ["", "\n", "---\n---\n", "# a\n---\n# b\n", "\u{feff}", "---"] {
        assert_eq!(values(text), Vec::<Value>::new(), "{text:?}");
    }
}

#[test]
fn documents_are_parted_by_separator_lines() {
    assert_eq!(values("a: 1\n---\nb: 2\n"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(values("a: 1\r\n---\r\nb: 2\r\n"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(values("--- # one\na: 1\n---\t#\n{b: 2}\n"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(values("a: |\n  x\n  ---\n  y\n"), [json!({"a": "x\n---\ny\n"})]);
    assert_eq!(values("a: 1\n...\n---\nb: 2"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(values("a: 1\n---\n\u{feff}b: 2"), [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(values("a: |\n  x"), [json!({"a": "x\n"})], "kubectl ends the last line");
}

#[test]
fn a_broken_document_costs_the_others_nothing() {
    let manifest = Manifest::parse("a.yaml", "a: 1\n---\nb: [\n---\nc: 3\n");
    assert_eq!(manifest.documents.len(), 2);
    assert_eq!(manifest.documents[1].origin().line, 5);
    assert_eq!(manifest.diagnostics.len(), 1);
    assert!(!manifest.is_whole());
}

#[test]
fn json_is_read_too() {
    assert_eq!(values("{\"a\":\n\t{\"b\": [1, \"x\\/y\"]}}"), [json!({"a": {"b": [1, "x/y"]}})]);
    assert_eq!(values("{\"a\": \"\\ud83d\\ude00\"}"), [json!({"a": "😀"})]);
    assert_eq!(values("{\"a\": 1}\n{\"b\": 2}"), [json!({"a": 1}), json!({"b": 2})]);
}

#[test]
fn lists_stand_for_their_items() {
    let text = "kind: List\nitems:\n- kind: Pod\n- kind: List\n  items: [{kind: Node}]\n";
    assert_eq!(values(text), [json!({"kind": "Pod"}), json!({"kind": "Node"})]);
    let text = "kind: PodList\napiVersion: v1\nitems: [{a: 1}]\n";
    assert_eq!(values(text), [json!({"kind": "Pod", "apiVersion": "v1", "a": 1})]);
    assert_eq!(values("kind: List\nitems:\n"), Vec::<Value>::new());
    assert_eq!(values("kind: AllowList\nspec: {}\n").len(), 1);
}

#[test]
fn files_are_decoded_as_kubectl_does() {
    let utf16 = |unit: fn(u16) -> [u8; 2]| "\u{feff}a: 😀".encode_utf16().flat_map(unit).collect();
    for bytes in [
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
        b"\xef\xbb\xbfa: \xf0\x9f\x98\x80".to_vec(),
    ] {
        assert_eq!(values(&decode(bytes)), [json!({"a": "😀"})]);
    }
    assert_eq!(decode(b"a\xe2\x82b\xff".to_vec()), "a\u{fffd}\u{fffd}b\u{fffd}");
    assert_eq!(decode(b"\xff\xfea\0b".to_vec()), "a\u{fffd}");
}

#[test]
fn what_other_parsers_refuse_is_read() {
    for (text, expected) in [
        ("a:\n  b: [\n    1\n  ]\n", json!({"a": {"b": [1]}})),
        ("a: [\n  1,\n] # c\nb: 2\n", json!({"a": [1], "b": 2})),
        ("a: '[\n1\n]'\n", json!({"a": "[ 1 ]"})),
        ("a:\tb\nc: [\n\t1]\n", json!({"a": "b", "c": [1]})),
    ] {
        assert_eq!(values(text), [expected], "{text:?}");
    }
}

#[test]
fn a_document_that_kubectl_ignores_is_reported() {
    let manifest = Manifest::parse("a.yaml", "a: 1\n...\nb: 1\n");
    assert_eq!(manifest.documents.len(), 1);
    assert!(!manifest.is_whole());
}

#[test]
fn items_of_a_list_know_their_lines() {
    let text = "kind: List\nitems:\n- kind: Pod\n- kind: Node\n  spec:\n    x: 1\n";
    let manifest = Manifest::parse("a.yaml", text);
    let origin = manifest.documents[1].origin_at(&FieldPath::new(["spec", "x"]));
    assert_eq!(origin.to_string(), "a.yaml:6:5");
}

#[test]
fn anchors_aliases_and_merge_keys_are_expanded() {
    assert_eq!(values("a: &x {b: 1}\nc: *x\n"), [json!({"a": {"b": 1}, "c": {"b": 1}})]);
    let text = "a: &x {b: 1, c: 2}\nd:\n  c: 3\n  <<: *x\n";
    assert_eq!(values(text)[0]["d"], json!({"b": 1, "c": 2}), "kubectl: it replaces keys above");
    let text = "a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n";
    assert_eq!(values(text)[0]["d"], json!({"b": 1, "c": 3}));
    let text = "a: [&x {b: 1}, &y {b: 2, c: 2}]\nd: {<<: [*x, *y]}\n";
    assert_eq!(values(text)[0]["d"], json!({"b": 1, "c": 2}));
    assert_eq!(values("'<<': 1"), [json!({"<<": 1})]);
}

#[test]
fn keys_and_tags_mean_what_they_mean_to_kubectl() {
    assert_eq!(
        values("80: a\ntrue: b\ny: c\n'y': d\n"),
        [json!({"80": "a", "true": "c", "y": "d"})]
    );
    assert_eq!(
        values("a: !!str 80\nb: !!int '80'\nc: !mine 80"),
        [json!({"a": "80", "b": 80, "c": "80"})]
    );
}

#[test]
fn text_that_is_not_yaml_is_reported_with_its_place() {
    for (text, expected) in [
        ("a: 1\n b: 2\n", "a.yaml:2:"),
        ("a: [1\n", "a.yaml:2:1: error: "),
        ("\n\na: *x\n", "a.yaml:3:4: error: "),
        ("a: !!binary YQ\n", "a.yaml:1:4: error: the value of !!binary is not base64"),
        ("a: !!int x\n", "a.yaml:1:4: error: `x` is not a !!int"),
        ("%YAML 1.1\n---\n", "a.yaml:1:1: error: did not find expected <document start>"),
        ("a: 1\n--- {b: 2}\n", "a.yaml:2:1: error: nothing but a comment can follow `---`"),
        ("a: \"\u{1}\"\n", "a.yaml:1:5: error: control characters are not allowed"),
        ("{\"a\": 1}{\"b\": 2}\nc: 3", "a.yaml:1:1: error: this is not JSON"),
        ("? [a]\n: b\n", "a.yaml:1:3: error: a key of a mapping must be text"),
        ("<<: 1\n", "a.yaml:1:5: error: `<<` wants a mapping or a list of mappings"),
        ("a: &x [*x]\n", "a.yaml:1:8: error: an alias stands inside the node that it names"),
        ("a: 1\n...\nb: 1\n", "a.yaml:3:1: error: a second document begins without a line `---`"),
        ("a: .inf\n", "a.yaml:1:4: error: the API has no value for `.inf`"),
    ] {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{text:?}: {errors:?}");
        assert!(errors[0].starts_with(expected), "{text:?}: {errors:?}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
    for text in [
        "[".repeat(1_000_000),
        "{a: ".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "- ".repeat(100_000),
        indented(3_000),
        "[".repeat(MAX_DEPTH + 2) + &"]".repeat(MAX_DEPTH + 2),
    ] {
        assert_eq!(errors(&text).len(), 1);
    }
    assert_eq!(values(&("[".repeat(MAX_DEPTH) + "1" + &"]".repeat(MAX_DEPTH))).len(), 1);
}

#[test]
fn a_billion_laughs_end_at_the_limit() {
    let mut lines = vec![String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]")];
    for level in 1..30 {
        let alias = format!("*a{}, ", level - 1).repeat(9);
        lines.push(format!("a{level}: &a{level} [{alias}]"));
    }
    let error = &errors(&lines.join("\n"))[0];
    assert!(error.contains("excessive aliasing"), "{error}");
    // Go allows it if most of a file does not come from aliases.
    lines.insert(0, format!("others: [{}]", vec!["1"; 5_000].join(", ")));
    let error = &errors(&lines.join("\n"))[0];
    assert!(error.contains("expand to more than 100000 nodes"), "{error}");
    let link = |level| format!("a{level}: &a{level} [*a{}]", level - 1);
    let chain = (1..1_000).map(link).collect::<Vec<_>>().join(
        "
",
    );
    assert!(errors(&format!("a0: &a0 [x]\n{chain}"))[0].contains("levels deep"));
}

#[test]
fn a_repeated_key_keeps_the_last_value_and_is_remembered() {
    let manifest = Manifest::parse("a.yaml", "a:\n  b: 1\n  b: 2\n");
    let document = &manifest.documents[0];
    assert_eq!(document.value(), &json!({"a": {"b": 2}}));
    let found = document.repeating().expect("YAML").repetitions();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, FieldPath::new(["a", "b"]).steps());
    assert_eq!(document.at(found[0].1).to_string(), "a.yaml:3:3");
}

#[test]
fn a_released_value_is_read_again() {
    let text = "{\"kind\": \"Pod\", \"a\": [1, \"b\"]}\n{\"a\": 1.5}\n";
    let mut manifest = Manifest::parse("a.json", text);
    let before: Vec<_> = manifest.documents.iter().map(|one| one.value().clone()).collect();
    manifest.documents.iter_mut().for_each(Document::release);
    // A number that YAML may read differently is kept.
    let kept: Vec<_> = manifest.documents.iter().map(|one| one.value.get().is_some()).collect();
    assert_eq!(kept, [false, true]);
    let after: Vec<_> = manifest.documents.iter().map(|one| one.value().clone()).collect();
    assert_eq!(after, before);
}

/// A mapping that nests `depth` levels by indentation.
fn indented(depth: usize) -> String {
    (0..depth).flat_map(|level| [" ".repeat(level), "a:\n".to_owned()]).collect()
}
