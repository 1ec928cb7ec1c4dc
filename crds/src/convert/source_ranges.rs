//! The networks that a pod also sends from and receives at, by its annotation. The annotation is
//! only a request: an administrator decides which networks are allowed.

use ipnet::IpNet;

use crate::cidr;
use crate::decode::Field;
use crate::lean::EXTRA_SOURCE_RANGES_ANNOTATION;
use crate::report::Report;

/// How many networks an annotation can list. Each network costs rules, and users can annotate pods.
const RANGES_MAX: usize = 16;

const IGNORED: &str = "the annotation is ignored";

/// The networks in the annotation of the pod at `root`; invalid items are left out.
pub(super) fn annotated(root: &Field<'_>, report: &mut Report<'_>) -> Vec<IpNet> {
    let Some(metadata) = root.get("metadata") else { return Vec::new() };
    let Some(annotations) = metadata.mapping("annotations", report, IGNORED) else {
        return Vec::new();
    };
    let Some(field) = annotations.get(EXTRA_SOURCE_RANGES_ANNOTATION) else { return Vec::new() };
    let Some(text) = field.text(report, IGNORED) else { return Vec::new() };
    let items: Vec<&str> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if items.len() > RANGES_MAX {
        let message =
            format!("lists {} networks; only the first {RANGES_MAX} are used", items.len());
        report.error(&field.path, message);
    }
    let mut ranges: Vec<IpNet> = Vec::new();
    for item in items.into_iter().take(RANGES_MAX) {
        let Some(read) = cidr::network(item) else {
            let message = format!("`{item}` is not a network and is ignored; write `192.0.2.1/32`");
            report.error(&field.path, message);
            continue;
        };
        if !read.canonical {
            let network = read.value;
            report
                .warning(&field.path, format!("`{item}` is read as {network}; write `{network}`"));
        }
        ranges.push(read.value);
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}
