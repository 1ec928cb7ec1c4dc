//! Whether a policy is enforced or in audit, according to its annotation.

use policy_engine::tier::Mode;

use crate::decode::Field;
use crate::lean::MODE_ANNOTATION;
use crate::report::Report;

const ENFORCED: &str = "the policy is enforced";

/// The mode in the annotations of the policy at `root`. An unknown mode means enforced.
pub(super) fn annotated(root: &Field<'_>, report: &mut Report<'_>) -> Mode {
    let Some(metadata) = root.get("metadata") else { return Mode::Enforce };
    let Some(annotations) = metadata.mapping("annotations", report, ENFORCED) else {
        return Mode::Enforce;
    };
    let repeats = annotations.repeats(MODE_ANNOTATION, report, ENFORCED);
    let Some(field) = annotations.get(MODE_ANNOTATION).filter(|_| !repeats) else {
        return Mode::Enforce;
    };
    match field.text(report, ENFORCED) {
        Some("audit") => Mode::Audit,
        Some("enforce") | None => Mode::Enforce,
        Some(other) => {
            let message = format!("`{other}` is no mode (write audit or enforce); {ENFORCED}");
            report.error(&field.path, message);
            Mode::Enforce
        }
    }
}
