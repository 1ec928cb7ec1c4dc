//! Steps: worlds of their own on top of the sources, asked connection by connection as a lab does.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use policy_engine::reach::{PortSet, Reach};
use policy_engine::world::Options;

use super::lines::failure;
use super::{Outcome, Suite};
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
    let at = stage.number - 1;
    let file = suite.file.steps.get(at);
    let origin = |below: &str| suite.document.origin_at(&format!("/steps/{at}{below}"));
    let mut outcomes: BTreeMap<Option<usize>, Outcome> = BTreeMap::new();
    if let Some(step) = file {
        let name = format!("step {}, default: {}", stage.number, step.default);
        outcomes.insert(None, Outcome::new(name, origin("/default")));
        for (index, line) in step.tests.iter().enumerate() {
            let name = format!("step {}, {line}", stage.number);
            let outcome = Outcome::new(name, origin(&format!("/tests/{index}")));
            outcomes.insert(Some(index + 1), outcome);
        }
    }
    let mut inventory = Inventory::default();
    for manifest in stage.world.manifests() {
        inventory.add_value(&manifest.value, "default");
    }
    let cluster = Cluster::new(&inventory, options);
    let reach = Reach::new(&cluster.world);
    for expectation in &stage.expectations {
        let (probe, judged) = (&expectation.probe, expectation.probe.judged);
        let Some(outcome) = outcomes.get_mut(&expectation.line) else { continue };
        outcome.connections += 1;
        let flow = cluster.world.flow(judged.source, judged.destination, judged.traffic);
        let allowed = reach.between(&flow.source, &flow.destination).contains(judged.traffic);
        if allowed != (expectation.verdict == Verdict::Allowed) {
            let names = (probe.source.place.to_string(), probe.destination.place.to_string());
            let sides = (&flow.source, &flow.destination);
            let ports = PortSet::of(judged.traffic);
            outcome.fail(|| failure(&cluster, sides, &names, expectation.verdict, ports));
        }
    }
    outcomes.into_values().collect()
}
