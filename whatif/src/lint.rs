//! Passes the objects of a question to [`portcullis_lint`], and adds what reading them reported.

use std::collections::BTreeSet;

use portcullis_crds::diagnostic::{About, Diagnostic};
use portcullis_lint::{Called, Code, Finding, Input, Names, name_field};

mod ignore;

pub use ignore::{annotated, known};

use crate::model::{Cluster, WorkloadRef};
use crate::source::Sources;

/// Finds probable mistakes in the objects of `sources`, from which `cluster` was made.
#[must_use]
pub fn lint(sources: &Sources, cluster: &Cluster) -> Vec<Finding> {
    let mut found = portcullis_lint::lint(Input {
        world: &cluster.world,
        services: &cluster.services,
        frontends: &cluster.frontends,
        api_server: &cluster.api_server(),
        api_clients: &cluster.api_clients(),
        names: &names(sources, cluster),
        documents: &cluster.documents,
    });
    // No selector matches in an empty namespace: this is reported once, for the namespace.
    let misplaced: BTreeSet<&About> = sources.misplaced.iter().map(|found| &found.about).collect();
    let selectors = [Code::SelectsNothing, Code::PeerMatchesNothing, Code::PortNameUnknown];
    found.retain(|one| !selectors.contains(&one.code) || !misplaced.contains(&one.about));
    found.extend(read(sources));
    found.sort_by(|left, right| left.order().cmp(&right.order()));
    found
}

/// The name of each pod: that of its workload.
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

/// One finding for each diagnostic, and for each object that several documents contain.
fn read(sources: &Sources) -> Vec<Finding> {
    // `--with` replaces objects on purpose.
    let repeated = sources.before.repeated();
    let others = sources.diagnostics.iter().filter(|diagnostic| !repeated.contains(diagnostic));
    // A file that is named twice repeats every object in it, which is not a mistake.
    let itself = |diagnostic: &Diagnostic| {
        diagnostic
            .source
            .as_ref()
            .is_some_and(|origin| diagnostic.message.contains(&format!(" {origin};")))
    };
    let twice =
        repeated.iter().filter(|diagnostic| !itself(diagnostic)).map(|diagnostic| Finding {
            code: Code::GivenTwice,
            severity: Code::GivenTwice.severity(),
            message: format!("{}; rename one of them, or remove it", diagnostic.message),
            ..Finding::from(diagnostic)
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
