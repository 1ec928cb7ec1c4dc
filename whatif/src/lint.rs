//! The objects of a question as [`portcullis_lint`] looks at them, and what reading them found.

use std::collections::BTreeSet;

use portcullis_crds::diagnostic::{About, Diagnostic};
use portcullis_lint::{Called, Code, Finding, Input, Names, name_field};

mod ignore;

pub use ignore::{annotated, known};

use crate::model::{Cluster, WorkloadRef};
use crate::source::Sources;

/// Finds what is probably a mistake in the objects of `sources`, which make `cluster`.
#[must_use]
pub fn lint(sources: &Sources, cluster: &Cluster) -> Vec<Finding> {
    let mut found = portcullis_lint::lint(Input {
        world: &cluster.world,
        services: &cluster.services,
        frontends: &cluster.frontends,
        names: &names(sources, cluster),
        documents: &cluster.documents,
    });
    // In a namespace that nothing is in, no selector matches: this is reported once.
    let misplaced: BTreeSet<&About> = sources.misplaced.iter().map(|found| &found.about).collect();
    let selectors = [Code::SelectsNothing, Code::PeerMatchesNothing, Code::PortNameUnknown];
    found.retain(|one| !selectors.contains(&one.code) || !misplaced.contains(&one.about));
    found.extend(read(sources));
    found.sort_by(|left, right| left.order().cmp(&right.order()));
    found
}

/// What pods are called: their workload.
fn names<'c>(sources: &Sources, cluster: &'c Cluster) -> Names<'c> {
    let called = |workload: &WorkloadRef| {
        let document = sources.after.workload(workload).and_then(|found| found.document.as_ref());
        let origin = document.map(|document| document.origin_at(&name_field()));
        Called { name: workload.to_string().into(), origin }
    };
    let workloads = cluster.workloads.iter();
    let workloads = workloads.map(|(name, workload)| (called(name), &workload.pods));
    workloads.flat_map(|(called, pods)| pods.iter().map(move |pod| (pod, called.clone()))).collect()
}

/// One finding for each diagnostic, and for each object that is given again.
fn read(sources: &Sources) -> Vec<Finding> {
    // What `--with` replaces is replaced on purpose.
    let repeated = sources.before.repeated();
    let others = sources.diagnostics.iter().filter(|told| !repeated.contains(told));
    // The same file named twice repeats everything in it, and means nothing.
    let itself = |told: &Diagnostic| {
        told.source.as_ref().is_some_and(|origin| told.message.contains(&format!(" {origin};")))
    };
    let twice = repeated.iter().filter(|told| !itself(told)).map(|told| Finding {
        code: Code::GivenTwice,
        severity: Code::GivenTwice.severity(),
        message: format!("{}; rename one of them, or remove it", told.message),
        ..Finding::from(told)
    });
    let coded = |diagnostic: &Diagnostic| {
        let finding = Finding::from(diagnostic);
        if !sources.misplaced.contains(diagnostic) {
            return finding;
        }
        let code = Code::NoSuchNamespace;
        Finding { code, severity: code.severity(), ..finding }
    };
    others.map(coded).chain(twice).collect()
}
