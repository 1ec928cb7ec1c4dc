//! What reading the manifests told already: parts that cannot be understood, repeated objects.

use portcullis_crds::diagnostic::{Diagnostic, Severity as Read};

use super::{Code, Finding};
use crate::source::Sources;

/// One finding for each diagnostic, and for each object that is given again.
pub(super) fn findings(sources: &Sources) -> Vec<Finding> {
    // What `--with` replaces is replaced on purpose.
    let repeated = sources.before.repeated();
    let others = sources.diagnostics.iter().filter(|told| !repeated.contains(told));
    let others = others.map(|told| match told.severity {
        Read::Error => finding(Code::Unreadable, told),
        Read::Warning => finding(Code::Odd, told),
    });
    // The same file named twice repeats everything in it, and means nothing.
    let itself = |told: &Diagnostic| {
        told.source.as_ref().is_some_and(|origin| told.message.contains(&format!(" {origin};")))
    };
    let twice = repeated.iter().filter(|told| !itself(told));
    let twice = twice.map(|told| {
        let mut finding = finding(Code::GivenTwice, told);
        finding.message += "; rename one of them, or remove it";
        finding
    });
    others.chain(twice).collect()
}

fn finding(code: Code, told: &Diagnostic) -> Finding {
    Finding {
        code,
        severity: code.severity(),
        about: told.about.clone(),
        field: told.field.clone(),
        message: told.message.clone(),
        origin: told.source.clone(),
        related: Vec::new(),
    }
}
