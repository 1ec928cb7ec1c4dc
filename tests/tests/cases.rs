//! The policy cases against the engine: what their authors state, what `evaluate` reads from the
//! policies, and what the compiled sets look up must be one and the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use policy_engine::direction::Direction;
use policy_engine::engine::{Engine, Scope};
use policy_engine::evaluate::{Verdict as Evaluated, evaluate, evaluate_as};
use policy_engine::model::Change;
use policy_engine::tier::View;
use policy_engine::world::Options;
use portcullis_tests::cases::{
    self, Case, Expectation, Families, Judged, Probe, Stage, Verdict, World,
};

/// An engine for the whole cluster and one for each node, flushed after every change; and one that
/// gets the changes of a step at once.
struct Engines {
    cluster: Engine,
    batch: Engine,
    nodes: BTreeMap<String, Engine>,
}

impl Engines {
    fn new(world: &World, options: &Options) -> Self {
        let engine = |scope| Engine::new(scope, options.clone());
        let names = world.nodes().into_iter().filter_map(|node| node.node);
        let nodes = names.map(|name| (name.clone(), engine(Scope::Node(name.as_str().into()))));
        let nodes = nodes.collect();
        let [cluster, batch] = [Scope::Cluster, Scope::Cluster].map(engine);
        let mut engines = Self { cluster, batch, nodes };
        for manifest in world.manifests() {
            let (changes, diagnostics) = manifest.changes();
            assert_eq!(diagnostics, [], "the world itself is without fault");
            engines.apply(&changes);
        }
        engines
    }

    fn apply(&mut self, changes: &[Change]) {
        for engine in self.nodes.values_mut().chain([&mut self.cluster]) {
            changes.iter().for_each(|change| engine.apply(change.clone()));
            engine.flush();
        }
        changes.iter().for_each(|change| self.batch.apply(change.clone()));
    }

    /// Brings the engines to a stage. Returns what was said about its objects.
    fn advance(&mut self, stage: &Stage) -> Vec<String> {
        let deletions: Vec<_> = stage.deleted.iter().cloned().filter_map(Change::removal).collect();
        self.apply(&deletions);
        let mut said = Vec::new();
        for manifest in &stage.applied {
            let (changes, diagnostics) = manifest.changes();
            self.apply(&changes);
            said.extend(diagnostics.iter().map(ToString::to_string));
        }
        self.batch.flush();
        said
    }

    /// Every opinion on a probe that differs from what is expected, by the name of its holder.
    fn dissenters(&self, expectation: &Expectation) -> Vec<&'static str> {
        let Expectation { probe, verdict, audited, .. } = expectation;
        let (judged, world) = (probe.judged, self.cluster.world());
        let flow = world.flow(judged.source, judged.destination, judged.traffic);
        // What a node sends to its own pods is not forwarded and meets no ruleset.
        // With the option, so is what a pod sends to its node: the dataplane has no hook there.
        let exempt = probe.is_from_own_node()
            || (world.options.allow_egress_to_own_node && probe.is_to_own_node());
        let compiled = self.cluster.compiled();
        let in_audit = evaluate_as(world, &flow, View::Audited);
        let opinions = [
            ("evaluate", *verdict, evaluate(world, &flow).is_allowed()),
            (
                "compiled for the cluster",
                *verdict,
                exempt || compiled.allows(judged.source, judged.destination, judged.traffic),
            ),
            ("compiled for the nodes", *verdict, exempt || self.nodes_allow(probe)),
            ("evaluate as audited", *audited, in_audit.is_allowed()),
            (
                "compiled for audit",
                Verdict::Allowed,
                exempt || self.audits_agree(probe, &evaluate(world, &flow), &in_audit),
            ),
        ];
        let differ = opinions
            .into_iter()
            .filter(|(_, expected, allowed)| *allowed != (*expected == Verdict::Allowed));
        differ.map(|(name, ..)| name).collect()
    }

    /// Whether what the compiled sets would deny is what policies in audit deny and those enforced
    /// allow, tier by tier.
    fn audits_agree(&self, probe: &Probe, enforced: &Evaluated, in_audit: &Evaluated) -> bool {
        let Judged { source, destination, traffic } = probe.judged;
        let compiled = self.cluster.compiled();
        let sides =
            [(Direction::Egress, source, destination), (Direction::Ingress, destination, source)];
        source == destination
            || sides.into_iter().all(|(direction, subject, peer)| {
                let would = in_audit.decision(direction);
                let denies = enforced.decision(direction).is_allowed() && !would.is_allowed();
                let tier = would.tier.filter(|_| denies);
                compiled.would_deny(direction, subject, peer, traffic) == tier
            })
    }

    /// Whether the node of each side lets the probe pass.
    fn nodes_allow(&self, probe: &Probe) -> bool {
        let judged = probe.judged;
        let allows = |node: Option<&String>, direction, subject, peer| {
            node.is_none_or(|node| {
                let compiled = self.nodes[node].compiled();
                compiled.allows_in(direction, subject, peer, judged.traffic)
            })
        };
        judged.source == judged.destination
            || allows(
                probe.source.node.as_ref(),
                Direction::Egress,
                judged.source,
                judged.destination,
            ) && allows(
                probe.destination.node.as_ref(),
                Direction::Ingress,
                judged.destination,
                judged.source,
            )
    }
}

#[derive(Default)]
struct Summary {
    cases: usize,
    steps: usize,
    verdicts: usize,
    denied: usize,
    would_be_denied: usize,
    failures: String,
}

impl Summary {
    fn fail(&mut self, case: &Case, families: Families, stage: &Stage, what: &str) {
        let _ = writeln!(self.failures, "{} step {} {families:?}: {what}", case.name, stage.number);
    }

    fn check(&mut self, case: &Case, families: Families, world: &World) {
        self.cases += 1;
        let mut engines = Engines::new(world, &case.options);
        let stages = match case.run(world.clone()) {
            Ok(stages) => stages,
            Err(error) => {
                let _ = writeln!(self.failures, "{families:?}: {error:#}");
                return;
            }
        };
        for stage in stages {
            self.steps += 1;
            let said = engines.advance(&stage);
            self.check_diagnostics(case, families, &stage, &said);
            if engines.batch.compiled() != engines.cluster.compiled() {
                self.fail(case, families, &stage, "one flush for all changes compiles otherwise");
            }
            for expectation in &stage.expectations {
                self.verdicts += 1;
                self.denied += usize::from(expectation.verdict == Verdict::Denied);
                self.would_be_denied += usize::from(expectation.would_be_denied());
                let differ = engines.dissenters(expectation);
                if !differ.is_empty() {
                    let Expectation { probe, verdict, line, audited, audited_line } = expectation;
                    let place = |line: &Option<usize>| match line {
                        Some(line) => format!("line {line}"),
                        None => "the default".to_owned(),
                    };
                    let what = format!(
                        "{probe}: {} states {verdict:?}, as audited {} {audited:?}, {} differ",
                        place(line),
                        place(audited_line),
                        differ.join(" and ")
                    );
                    self.fail(case, families, &stage, &what);
                }
            }
        }
    }

    fn check_diagnostics(
        &mut self,
        case: &Case,
        families: Families,
        stage: &Stage,
        said: &[String],
    ) {
        for wanted in &stage.diagnostics {
            if !said.iter().any(|text| text.contains(wanted.as_str())) {
                let what = format!("no diagnostic holds {wanted:?}: {said:#?}");
                self.fail(case, families, stage, &what);
            }
        }
        let is_wanted = |text: &String| stage.diagnostics.iter().any(|part| text.contains(part));
        for text in said.iter().filter(|text| !is_wanted(text)) {
            self.fail(case, families, stage, &format!("unexpected diagnostic: {text}"));
        }
    }
}

fn check_all(families: Families) -> anyhow::Result<()> {
    let cases = cases::all()?;
    let world = cases::world(families)?;
    let mut summary = Summary::default();
    for case in cases.iter().filter(|case| case.is_about(families)) {
        summary.check(case, families, &world);
    }
    let Summary { cases, steps, verdicts, denied, would_be_denied, failures } = summary;
    println!(
        "{families:?}: {cases} cases, {steps} steps, {verdicts} verdicts, {denied} denied, \
         {would_be_denied} would be denied"
    );
    assert!(failures.is_empty(), "{} disagreements:\n{failures}", failures.lines().count());
    assert!(cases >= 70, "only {cases} cases");
    Ok(())
}

#[test]
fn the_engine_agrees_with_every_expectation_in_ipv4() -> anyhow::Result<()> {
    check_all(Families::V4)
}

#[test]
fn the_engine_agrees_with_every_expectation_in_ipv6() -> anyhow::Result<()> {
    check_all(Families::V6)
}

#[test]
fn the_engine_agrees_with_every_expectation_in_dual_stack() -> anyhow::Result<()> {
    check_all(Families::Dual)
}

/// An API server has no pods without their namespace, and a directory assumes one; but what a watch
/// tells first is a matter of chance.
const BEFORE_ITS_NAMESPACE: &str = r#"
apiVersion: whatif.portcullis.dev/v1alpha1
kind: PolicyTest
about: A pod that is known before its namespace may be anyone's subject, and is nobody's peer.
steps:
- apply:
  - apiVersion: policy.networking.k8s.io/v1alpha2
    kind: ClusterNetworkPolicy
    metadata: {name: admin}
    spec:
      tier: Admin
      priority: 10
      subject: {namespaces: {matchLabels: {ns: w}}}
      ingress:
      - {action: Accept, from: [{namespaces: {matchLabels: {ns: x}}}]}
      - {action: Pass, from: [{namespaces: {matchLabels: {ns: "y"}}}]}
  - apiVersion: portcullis.dev/v1alpha1
    kind: ClusterDefaultNetworkPolicy
    metadata: {name: default}
    spec:
      namespaceSelector: {matchLabels: {ns: w}}
      policyTypes: [Egress]
      egress: [{to: [{namespaceSelector: {matchLabels: {ns: z}}}]}]
  - apiVersion: v1
    kind: Pod
    metadata: {namespace: w, name: new, labels: {pod: new}}
    spec: {nodeName: n3, containers: [{name: main}]}
  default: allowed
  tests:
  - {from: w/new, expect: denied}
  - {from: y/*, to: w/new, expect: denied}
- about: It is what it might have been.
  apply:
  - {apiVersion: v1, kind: Namespace, metadata: {name: w, labels: {ns: w}}}
  default: allowed
  tests:
  - {from: w/new, onlyTo: z/*}
- about: It is another one.
  apply:
  - {apiVersion: v1, kind: Namespace, metadata: {name: w, labels: {ns: other}}}
  default: allowed
"#;

#[test]
fn a_pod_that_is_known_before_its_namespace_is_closed_by_all_that_may_select_it() {
    let case = Case::parse("before-its-namespace", BEFORE_ITS_NAMESPACE).unwrap();
    let mut summary = Summary::default();
    summary.check(&case, Families::Dual, &cases::world(Families::Dual).unwrap());
    assert_eq!(summary.failures, "");
    assert_eq!(summary.steps, 3);
}

/// The stages of a case with one step.
fn run(step: &str, families: Families) -> anyhow::Result<Vec<Stage>> {
    let text = format!(
        "apiVersion: whatif.portcullis.dev/v1alpha1\nkind: PolicyTest\nabout: a test\n\
         steps:\n- {{default: allowed, {step}}}\n"
    );
    Case::parse("test", &text)?.run(cases::world(families)?)
}

fn check_refused(step: &str, reason: &str) {
    let refused = run(step, Families::Dual).expect_err(step);
    let said = format!("{refused:#}");
    assert!(said.contains(reason), "{step}: {said}");
}

#[test]
fn a_case_that_cannot_mean_what_it_says_is_refused() {
    check_refused("test: []", "unknown field `test`");
    check_refused("tests: [{form: x/a, expect: denied}]", "unknown field `form`");
    check_refused("tests: [{from: x/a, expect: dropped}]", "unknown variant `dropped`");
    check_refused("tests: [{from: x/a}]", "a line needs expect");
    check_refused("tests: [{from: x/a, onlyFrom: x/b}]", "not both");
    check_refused("tests: [{onlyFrom: x/a, expect: denied}]", "say what is expected themselves");
    check_refused("tests: [{from: x, expect: denied}]", "\"x\" is no group");
    check_refused("tests: [{from: x/d, expect: denied}]", "\"x/d\" matches nothing");
    check_refused("tests: [{from: [x/a, w/*], expect: denied}]", "\"w/*\" matches nothing");
    check_refused("tests: [{to: node/n4, expect: denied}]", "\"node/n4\" matches nothing");
    check_refused("tests: [{to: x/svc/web, expect: denied}]", "\"x/svc/web\" matches nothing");
    check_refused("tests: [{ports: 82/tcp, expect: denied}]", "matches nothing that is probed");
    check_refused("tests: [{ports: 80/quic, expect: denied}]", "unknown protocol");
    check_refused("tests: [{from: x/a, to: x/a, expect: denied}]", "no connection matches it");
    check_refused(
        "tests: [{to: x/a, expect: denied}, {to: x/*, expect: allowed}]",
        "later lines undo all that it says",
    );
    check_refused("audit: {default: allowed}", "audit says nothing that tests do not say");
    check_refused(
        "audit: {default: denied, tests: [{to: x/d, expect: allowed}]}",
        "audit, line 1: \"x/d\" matches nothing",
    );
    check_refused("delete: [pod/x/d]", "it is not there");
    check_refused("apply: [{kind: Secret, metadata: {name: s}}]", "cannot hold a Secret");
}

#[test]
fn the_last_line_about_a_connection_wins() {
    let lines = "{to: x/*, expect: denied}, {from: x/b, to: x/a, ports: 80, expect: allowed}";
    let stages = run(&format!("tests: [{lines}]"), Families::V4).unwrap();
    let verdict = |name: &str| {
        let found = stages[0].expectations.iter().find(|item| item.probe.to_string() == name);
        found.map(|item| (item.verdict, item.line)).unwrap()
    };
    assert_eq!(verdict("x/b → x/a 80/tcp (V4)"), (Verdict::Allowed, Some(2)));
    assert_eq!(verdict("x/b → x/a 81/tcp (V4)"), (Verdict::Denied, Some(1)));
    assert_eq!(verdict("x/b → y/a 80/tcp (V4)"), (Verdict::Allowed, None));
    assert_eq!(verdict("x/a → x/a 80/tcp (V4)"), (Verdict::Allowed, None));
    assert_eq!(verdict("node/n1 → x/a 80/tcp (V4)"), (Verdict::Allowed, None));
    assert_eq!(verdict("node/n2 → x/a 80/tcp (V4)"), (Verdict::Denied, Some(1)));
}
