//! Folds findings that differ only in the object into one, for people: a chart with one mistake in
//! a template has the mistake in every object.

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::words::few;
use portcullis_lint::Finding;

/// The least number of findings of one pattern that are shown as one.
const MANY: usize = 3;

/// How many of the other objects are named.
const NAMES_SHOWN: usize = 3;

/// The findings in their order; those of one pattern are together at the place of the first one.
pub(super) fn groups(findings: &[Finding]) -> Vec<Vec<&Finding>> {
    let mut alike: BTreeMap<_, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        alike.entry(pattern(finding)).or_default().push(finding);
    }
    let mut groups = Vec::new();
    for finding in findings {
        match alike.get(&pattern(finding)) {
            Some(all) if all.len() >= MANY && is_many(all) => {
                groups.extend(alike.remove(&pattern(finding)));
            }
            Some(_) => groups.push(vec![finding]),
            // The finding is part of a group that is already in the list.
            None => {}
        }
    }
    groups
}

/// The objects, or places, of the other findings of a group; `None` if there is no other.
pub(super) fn others(group: &[&Finding]) -> Option<String> {
    let (_, others) = group.split_first()?;
    let names: BTreeSet<String> = others.iter().map(|finding| name(finding)).collect();
    let are_objects = others.iter().all(|finding| !finding.about.to_string().is_empty());
    let what = if are_objects { "objects" } else { "places" };
    (!others.is_empty()).then(|| {
        format!(
            "{} more of this kind, in {} {what}: {} (-o wide shows each)",
            others.len(),
            names.len(),
            few(names.iter(), NAMES_SHOWN)
        )
    })
}

/// Whether a group is of many objects: several findings of one object are shown each.
fn is_many(group: &[&Finding]) -> bool {
    let names: BTreeSet<String> = group.iter().map(|finding| name(finding)).collect();
    names.len() >= MANY
}

fn name(finding: &Finding) -> String {
    match (finding.about.to_string(), &finding.origin) {
        (about, Some(origin)) if about.is_empty() => origin.to_string(),
        (about, _) => about,
    }
}

/// The message of a finding, without the names of its object and without numbers.
fn pattern(finding: &Finding) -> (portcullis_lint::Code, portcullis_lint::Severity, String) {
    let about = finding.about.object();
    let own = |word: &str| {
        about.is_some_and(|object| word == &*object.name || word == &*object.namespace)
    };
    // The consequence and the fix follow the first `; ` and name other objects.
    let what = finding.message.split("; ").next().unwrap_or_default();
    let is_name = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let mut text = String::new();
    let mut rest = what;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_name(c) != is_name(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        text += match word {
            word if own(word) => "*",
            word if word.chars().all(|c| c.is_ascii_digit()) => "#",
            word => word,
        };
    }
    (finding.code, finding.severity, text)
}

#[cfg(test)]
mod tests {
    use policy_engine::object::{Kind, ObjectRef};
    use portcullis_crds::diagnostic::About;
    use portcullis_crds::path::FieldPath;
    use portcullis_lint::Code;

    use super::*;

    fn finding(name: &str, code: Code, message: &str) -> Finding {
        Finding {
            code,
            severity: code.severity(),
            about: About::Object(ObjectRef::new(Kind::NetworkPolicy, "shop", name)),
            field: FieldPath::default(),
            message: message.to_owned(),
            origin: None,
            related: Vec::new(),
        }
    }

    /// Checks the sizes of the groups, and what the first of them names.
    #[track_caller]
    fn check(findings: &[Finding], sizes: &[usize], first: Option<&str>) {
        let groups = groups(findings);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        assert_eq!(others(&groups[0]).as_deref(), first);
    }

    #[test]
    fn findings_that_differ_in_the_object_are_one() {
        let odd = |name: &str, number| {
            finding(name, Code::Odd, &format!("shop/{name} has {number} ports; see {name}"))
        };
        let mut findings = vec![odd("a", 1), odd("b", 2)];
        check(&findings, &[1, 1], None);
        findings.push(finding("c", Code::SamePolicy, "shop/c has 1 ports"));
        findings.extend(["c", "d", "e", "f"].map(|name| odd(name, 80)));
        let first = "5 more of this kind, in 5 objects: NetworkPolicy shop/b, NetworkPolicy shop/c, \
                     NetworkPolicy shop/d and 2 more (-o wide shows each)";
        check(&findings, &[6, 1], Some(first));
    }

    #[test]
    fn several_findings_of_one_object_stay_apart() {
        let same = || finding("a", Code::Odd, "port 1 is odd");
        check(&[same(), same(), same()], &[1, 1, 1], None);
    }
}
