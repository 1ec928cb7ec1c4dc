//! The rules of the state, without a file system.

use super::*;

/// A policy in YAML whose one ingress rule allows `port`.
fn policy(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{ingress: [{{ports: [{{port: {port}}}]}}]}}\n"
    )
}

const NAMESPACE: &str =
    "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n";

/// A step, and its expected batch.
struct Step {
    file: &'static str,
    text: Option<String>,
    changes: &'static [&'static str],
    /// The number of diagnostics of each file whose diagnostics changed.
    reported: &'static [(&'static str, usize)],
}

fn step(
    file: &'static str,
    text: impl Into<String>,
    changes: &'static [&'static str],
    reported: &'static [(&'static str, usize)],
) -> Step {
    Step { file, text: Some(text.into()), changes, reported }
}

fn remove(
    file: &'static str,
    changes: &'static [&'static str],
    reported: &'static [(&'static str, usize)],
) -> Step {
    Step { file, text: None, changes, reported }
}

/// `+shop/a:80` for a policy that is enforced, `-shop/a` for one that is removed.
fn shown(change: &Change) -> String {
    match change {
        Change::Policy(name, None) => format!("-{}", name.short()),
        Change::Policy(name, Some(policy)) => {
            let text = format!("{policy:?}");
            let port = text.split("first: ").nth(1).and_then(|rest| rest.split(',').next());
            format!("+{}:{}", name.short(), port.unwrap_or("none"))
        }
        Change::Namespace(name, None) => format!("-{name}"),
        Change::Namespace(name, Some(namespace)) => {
            format!("+{name}/{}", namespace.labels.iter().count())
        }
        other => format!("{other:?}"),
    }
}

fn check(steps: &[Step]) {
    let mut state = DirState::default();
    for (at, step) in steps.iter().enumerate() {
        match &step.text {
            Some(text) => state.load(Path::new(step.file), text),
            None => state.remove(Path::new(step.file)),
        }
        let batch = state.flush();
        let changes: Vec<_> = batch.changes.iter().map(|object| shown(&object.change)).collect();
        assert_eq!(changes, step.changes, "step {at}: {:#?}", batch.diagnostics);
        let reported: Vec<_> = batch
            .diagnostics
            .iter()
            .map(|(file, reported)| (file.as_ref(), reported.len()))
            .collect();
        assert_eq!(reported, step.reported, "step {at}: {:#?}", batch.diagnostics);
        assert_eq!(state.flush(), Batch::default(), "step {at}: a second flush is empty");
    }
}

#[test]
fn only_what_changed_is_sent() {
    let two = |port| policy("a", 80) + &policy("b", port);
    check(&[
        step("x", two(1), &["+shop/1", "+shop/a:80", "+shop/b:1"], &[]),
        step("x", two(1), &[], &[]),
        step("x", format!("# a comment\n{}", two(1)), &[], &[]),
        step("x", two(2), &["+shop/b:2"], &[]),
        step("x", policy("a", 80), &["-shop/b"], &[]),
        remove("x", &["-shop", "-shop/a"], &[]),
        remove("x", &[], &[]),
    ]);
}

#[test]
fn a_namespace_is_assumed_until_it_is_defined_and_while_it_is_inhabited() {
    check(&[
        step("x", policy("a", 80), &["+shop/1", "+shop/a:80"], &[]),
        step("ns", NAMESPACE, &["+shop/2"], &[]),
        remove("ns", &["+shop/1"], &[]),
        step("ns", NAMESPACE, &["+shop/2"], &[]),
        remove("x", &["-shop/a"], &[]),
        remove("ns", &["-shop"], &[]),
    ]);
}

#[test]
fn of_two_files_the_last_in_path_order_wins_and_the_other_takes_over() {
    check(&[
        step("b", policy("a", 2), &["+shop/1", "+shop/a:2"], &[]),
        step("a", policy("a", 1), &[], &[("a", 1)]),
        step("c", policy("a", 3), &["+shop/a:3"], &[("a", 1), ("b", 1)]),
        step("a", policy("a", 4), &[], &[]),
        remove("c", &["+shop/a:2"], &[("a", 1), ("b", 0)]),
        remove("b", &["+shop/a:4"], &[("a", 0)]),
    ]);
}

#[test]
fn an_object_that_is_defined_twice_in_a_file_is_its_last_definition() {
    let text = policy("a", 1) + &policy("a", 2);
    check(&[step("x", text, &["+shop/1", "+shop/a:2"], &[("x", 1)])]);
}

#[test]
fn a_document_that_cannot_be_parsed_keeps_what_the_file_defined() {
    let broken = "---\nb: [\n";
    let nameless = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
    check(&[
        step("x", policy("a", 1) + &policy("b", 1), &["+shop/1", "+shop/a:1", "+shop/b:1"], &[]),
        step("x", policy("a", 2) + broken, &["+shop/a:2"], &[("x", 2)]),
        step("x", policy("a", 2) + nameless, &[], &[("x", 2)]),
        step("x", "{", &[], &[("x", 2)]),
        step("x", policy("a", 2), &["-shop/b"], &[("x", 0)]),
        step("x", "# nothing\n", &["-shop", "-shop/a"], &[]),
        step("x", broken, &[], &[("x", 1)]),
    ]);
}

/// A file that is written in place is empty first, and stays so if its writer fails.
#[test]
fn an_empty_file_keeps_what_it_defined_and_is_reported() {
    check(&[
        step("x", policy("a", 1), &["+shop/1", "+shop/a:1"], &[]),
        step("x", "", &[], &[("x", 2)]),
        step("x", "\u{feff}\r\n \n", &[], &[]),
        step("x", policy("a", 2), &["+shop/a:2"], &[("x", 0)]),
        step("x", " \n", &[], &[("x", 2)]),
        remove("x", &["-shop", "-shop/a"], &[("x", 0)]),
        step("x", "", &[], &[("x", 1)]),
    ]);
}

#[test]
fn a_pod_whose_document_is_cut_is_still_known() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop}\n\
               spec: {nodeName: n}\nstatus: {podIP: 10.0.0.1}\n";
    let text = policy("a", 1) + pod;
    for cut in [3, 20, 30, 50] {
        let mut state = DirState::default();
        state.load(Path::new("x"), &text);
        assert_eq!(state.flush().changes.len(), 3);
        state.load(Path::new("x"), &text[..text.len() - cut]);
        let batch = state.flush();
        assert_eq!(batch.changes.len(), 0, "without {cut} bytes: {batch:#?}");
        assert_eq!(batch.diagnostics[0].1.len(), 2, "without {cut} bytes: {batch:#?}");
    }
}

/// The meaning of a later API version is unknown: it is reported, and the last known policy stays.
#[test]
fn a_policy_in_a_version_that_is_not_known_stays_as_it_was() {
    let later =
        |name, port| policy(name, port).replace("networking.k8s.io/v1", "networking.k8s.io/v2");
    check(&[
        step("x", later("a", 1) + &policy("b", 1), &["+shop/1", "+shop/b:1"], &[("x", 1)]),
        step("x", policy("a", 2) + &policy("b", 1), &["+shop/a:2"], &[("x", 0)]),
        // The rest of the file is applied: an object that it no longer contains is removed.
        step("x", later("a", 3), &["-shop/b"], &[("x", 1)]),
        step("x", later("a", 4), &[], &[]),
        step("x", policy("a", 5), &["+shop/a:5"], &[("x", 0)]),
        step("x", later("a", 5), &[], &[("x", 1)]),
        remove("x", &["-shop", "-shop/a"], &[("x", 0)]),
    ]);
    let kinds = [
        "policy.networking.k8s.io/v1\nkind: ClusterNetworkPolicy",
        "portcullis.dev/v9\nkind: ClusterDefaultNetworkPolicy",
    ];
    for kind in kinds {
        let mut state = DirState::default();
        state.load(Path::new("x"), &format!("apiVersion: {kind}\nmetadata: {{name: a}}\n"));
        let batch = state.flush();
        assert_eq!((batch.changes.len(), batch.diagnostics.len()), (0, 1), "{batch:?}");
    }
}

#[test]
fn an_unreadable_file_keeps_what_it_defined() {
    let mut state = DirState::default();
    state.load(Path::new("x"), &policy("a", 1));
    assert_eq!(state.flush().changes.len(), 2);
    state.unreadable(Path::new("x"), "it cannot be read");
    let batch = state.flush();
    assert_eq!((batch.changes.len(), batch.diagnostics.len()), (0, 1));
    let reported: Vec<_> = batch.diagnostics[0].1.iter().map(ToString::to_string).collect();
    assert_eq!(
        reported,
        [
            "x:1:1: error: it cannot be read; nothing of it is read",
            "x:1:1: warning: until the file can be read as a whole, what it last defined stays \
             enforced: NetworkPolicy shop/a",
        ]
    );
    state.load(Path::new("x"), &policy("a", 1));
    let batch = state.flush();
    assert_eq!((batch.changes.len(), batch.diagnostics), (0, vec![("x".into(), vec![])]));
}

#[test]
fn a_rename_of_a_file_is_no_change() {
    let mut state = DirState::default();
    state.load(Path::new("x"), &policy("a", 1));
    state.flush();
    state.remove(Path::new("x"));
    state.load(Path::new("y"), &policy("a", 1));
    assert_eq!(state.flush(), Batch::default());
}

#[test]
fn the_same_definition_twice_is_a_warning_that_names_both() {
    let mut state = DirState::default();
    state.load(Path::new("a"), &policy("a", 1));
    state.load(Path::new("b"), &policy("a", 1));
    let reported: Vec<_> =
        state.flush().diagnostics.into_iter().flat_map(|(_, reported)| reported).collect();
    assert_eq!(reported.len(), 1);
    assert_eq!(
        reported[0].to_string(),
        "a:2:1: warning: NetworkPolicy shop/a: this definition is the same as the one at b:2:1, \
         the last in path order; delete one"
    );
}

#[test]
fn what_cannot_be_read_is_reported_as_unread_with_its_file_and_a_mistake_in_an_object_is_not() {
    let good = policy("a", 1);
    for (text, unread) in [
        (good.clone() + "---\nkind: Pod\n metadata: {\n", 1),
        (good.clone() + "---\nkind: Pod\napiVersion: v1\nmetadata: {labels: {a: b}}\n", 1),
        (good.clone() + "---\njust text\n", 1),
        (String::new(), 1),
        (good.replace("port: 1", "port: 0"), 0),
        (good.replace("/v1", "/v9"), 0),
        (good, 0),
    ] {
        let mut state = DirState::default();
        state.load(Path::new("x.yaml"), &text);
        let reported: Vec<Diagnostic> =
            state.flush().diagnostics.into_iter().flat_map(|(_, reported)| reported).collect();
        let found = reported.iter().filter(|reported| matches!(reported.about, About::Unread(_)));
        assert_eq!(found.clone().count(), unread, "{text}: {reported:?}");
        assert!(
            found.clone().all(|found| found.to_string().starts_with("x.yaml:")),
            "{reported:?}"
        );
    }
}

#[test]
fn the_addresses_of_the_api_server_are_those_of_its_slices() {
    let slice = |namespace: &str, service: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a, \
             namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             endpoints: [{{addresses: [192.0.2.1]}}]\nports: [{{port: 6443}}]\n"
        )
    };
    let mut state = DirState::default();
    for (namespace, service, is_listed) in [
        ("default", "other", false),
        ("shop", "kubernetes", false),
        ("default", "kubernetes", true),
    ] {
        state.load(Path::new("a.yaml"), &slice(namespace, service));
        let changes = state.flush().changes;
        let listed = |object: &Object| match &object.change {
            Change::ApiServer(_, addresses) => addresses.as_ref().is_some_and(|all| all.len() == 1),
            _ => false,
        };
        assert_eq!(changes.iter().any(listed), is_listed, "{namespace}/{service}: {changes:?}");
    }
    state.remove(Path::new("a.yaml"));
    let changes = state.flush().changes;
    let is_removal = |object: &Object| matches!(object.change, Change::ApiServer(_, None));
    assert!(changes.iter().any(is_removal), "{changes:?}");
}
