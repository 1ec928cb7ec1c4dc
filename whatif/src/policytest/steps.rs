//! Steps: objects are applied to the sources or deleted, and lines are evaluated after each step.

use anyhow::{Context, Result, ensure};
use policy_engine::object::ObjectRef;
use policy_engine::reach::PortSet;
use policy_engine::tier::View;
use portcullis_crds::path::FieldPath;

use super::file::StepFile;
use super::lines::{Block, run_block};
use super::member::{PORTS, Port};
use super::{Outcome, Suite};
use crate::model::{Cluster, Inventory};

/// The namespace of objects that name none.
const NAMESPACE: &str = "default";

/// One outcome per line of every step, and one for its default.
///
/// # Errors
/// When a step deletes an object that does not exist, or has an address that only a lab can set.
pub(super) fn run(suite: &Suite, inventory: &Inventory, cluster: &Cluster) -> Result<Vec<Outcome>> {
    let place = suite.document.origin();
    let is_empty = inventory.objects().next().is_none();
    ensure!(!is_empty, "{place}: steps need a world: name its manifests with -f");
    let mut ports = PortSet::default();
    let more: Vec<Port> =
        suite.file.ports.iter().map(|port| port.parse()).collect::<Result<_>>()?;
    PORTS.iter().chain(&more).for_each(|port| ports.add(&PortSet::of(port.traffic())));
    let mut inventory = inventory.clone();
    let mut outcomes = Vec::new();
    for (at, step) in suite.file.steps.iter().enumerate() {
        let number = at + 1;
        apply(step, &mut inventory).with_context(|| format!("{place}, step {number}"))?;
        let cluster = Cluster::new(&inventory, cluster.world.options.clone());
        let audit = step.audit.as_ref();
        let audit = audit.map(|audit| (View::Audited, audit.default, &audit.tests));
        let enforced = (View::Enforced, step.default, &step.tests);
        for (view, default, tests) in [Some(enforced), audit].into_iter().flatten() {
            let here = FieldPath::new(["steps"]).index(at);
            let at = if view == View::Audited { here.key("audit") } else { here };
            let prefix = format!("step {number}, ");
            let (ports, default) = (ports.clone(), Some(default));
            let block = Block { at, prefix, view, ports, tests, default };
            let mut block = run_block(suite, &cluster, &block)?;
            // The outcome of the default comes first.
            block.rotate_right(1);
            outcomes.append(&mut block);
        }
    }
    Ok(outcomes)
}

fn apply(step: &StepFile, inventory: &mut Inventory) -> Result<()> {
    for name in &step.delete {
        let object: ObjectRef = name.parse()?;
        ensure!(inventory.get(&object).is_some(), "{object} cannot be deleted: it is not there");
        inventory.put(object, None);
    }
    for manifest in &step.apply {
        let has_placeholder = manifest.to_string().contains("${");
        ensure!(!has_placeholder, "`${{…}}` is an address of a lab: write the address itself");
        inventory.add_value(manifest, NAMESPACE);
    }
    Ok(())
}
