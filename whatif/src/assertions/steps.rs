//! Steps: worlds of their own on top of the sources, asked connection by connection as a lab does.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use policy_engine::reach::{PortSet, Reach};
use policy_engine::tier::View;
use policy_engine::world::Options;
use portcullis_crds::path::FieldPath;

use super::lines::failure;
use super::{Outcome, Suite, in_view};
use crate::cases::{Case, Families, Stage, Verdict, World};
use crate::model::{Cluster, Inventory};

/// One outcome per line of every step, and one for its default.
///
/// # Errors
/// When the sources hold what a step cannot start from.
pub fn run(suite: &Suite, inventory: &Inventory) -> Result<Vec<Outcome>> {
    let place = suite.document.origin();
    let case = Case::of(&place.to_string(), suite.file.clone())?;
    let families = match case.families() {
        [policy_engine::cidr::Family::V4] => Families::V4,
        [policy_engine::cidr::Family::V6] => Families::V6,
        _ => Families::Dual,
    };
    let documents = inventory.objects().filter_map(|(_, object)| object.document.as_ref());
    let values: Vec<_> = documents.map(|document| document.value().clone()).collect();
    ensure!(!values.is_empty(), "{place}: steps need a world: name its manifests with -f");
    let world = World::of(values, families)?;
    let stages = match case.run(world) {
        Ok(stages) => stages,
        // A word that matches nothing: the test is wrong, not the tool.
        Err(error) => {
            let mut outcome = Outcome::new(case.about.clone(), place);
            outcome.problem = Some(format!("{error:#}"));
            return Ok(vec![outcome]);
        }
    };
    Ok(stages.iter().flat_map(|stage| step(suite, stage, case.options.clone())).collect())
}

fn step(suite: &Suite, stage: &Stage, options: Options) -> Vec<Outcome> {
    let mut outcomes = outcomes(suite, stage);
    let mut inventory = Inventory::default();
    for manifest in stage.world.manifests() {
        inventory.add_value(&manifest.value, "default");
    }
    let cluster = Cluster::new(&inventory, options);
    for view in [View::Enforced, View::Audited] {
        let reach = Reach::new_as(&cluster.world, view);
        for expectation in &stage.expectations {
            let (probe, judged) = (&expectation.probe, expectation.probe.judged);
            let (verdict, line) = match view {
                View::Enforced => (expectation.verdict, expectation.line),
                View::Audited => (expectation.audited, expectation.audited_line),
            };
            let Some(outcome) = outcomes.get_mut(&(view == View::Audited, line)) else { continue };
            outcome.connections += 1;
            let flow = cluster.world.flow(judged.source, judged.destination, judged.traffic);
            let allowed = reach.between(&flow.source, &flow.destination).contains(judged.traffic);
            if allowed != (verdict == Verdict::Allowed) {
                let names = (probe.source.place.to_string(), probe.destination.place.to_string());
                let sides = (&flow.source, &flow.destination);
                let ports = PortSet::of(judged.traffic);
                outcome.fail(|| failure((&cluster, view), sides, &names, verdict, ports));
            }
        }
    }
    outcomes.into_values().collect()
}

/// An outcome for each line and default, those of `audit` last; by whether they are of `audit`.
fn outcomes(suite: &Suite, stage: &Stage) -> BTreeMap<(bool, Option<usize>), Outcome> {
    let at = stage.number - 1;
    let mut outcomes = BTreeMap::new();
    let Some(step) = suite.file.steps.get(at) else { return outcomes };
    let audit = step.audit.as_ref();
    let here = FieldPath::new(["steps"]).index(at);
    let audit = audit.map(|audit| {
        (View::Audited, here.clone().key("audit"), audit.default, &audit.tests)
    });
    let enforced = (View::Enforced, here.clone(), step.default, &step.tests);
    for (view, field, default, tests) in [Some(enforced), audit].into_iter().flatten() {
        let name = |stated: String| in_view(view, format!("step {}, {stated}", stage.number));
        let origin = |field: FieldPath| suite.document.origin_at(&field);
        let is_audit = view == View::Audited;
        let outcome = Outcome::new(name(format!("default: {default}")), origin(field.clone().key("default")));
        outcomes.insert((is_audit, None), outcome);
        for (index, line) in tests.iter().enumerate() {
            let origin = origin(field.clone().key("tests").index(index));
            let outcome = Outcome::new(name(line.to_string()), origin);
            outcomes.insert((is_audit, Some(index + 1)), outcome);
        }
    }
    outcomes
}
