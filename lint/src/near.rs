//! Finds the names and labels that are nearest to a name or a selector without a match.

use policy_engine::labels::{Labels, Str};
use policy_engine::selector::{Operator, Requirement, Selector};
use policy_engine::words::requirements;

use crate::answers::Answers;

/// Two values with this similarity differ by a typing error.
const ALIKE: f64 = 0.75;

/// The names that are nearest to `wanted`, the nearest first; at most three, and only similar ones.
pub fn names<'n>(wanted: &str, known: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    const ALIKE: f64 = 0.7;
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(wanted, name), name));
    let mut near: Vec<_> = scored.filter(|(score, _)| *score > ALIKE).collect();
    near.sort_by(|left, right| right.0.total_cmp(&left.0).then_with(|| left.1.cmp(right.1)));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// A hint for a selector that matches no Namespace: the nearest labels, or how to look them up.
pub(crate) fn namespace(answers: &Answers<'_>, selector: &Selector) -> String {
    if answers.names.is_none() {
        return "compare it with `kubectl get namespaces --show-labels`".to_owned();
    }
    let known = answers.world.namespaces().iter();
    labels(selector, known.map(|(name, found)| (format!("Namespace {name}"), &found.labels)))
        .unwrap_or_else(|| "no Namespace has labels like these".to_owned())
}

/// The nearest labels for a selector without a match: `nearest is X, with app=api instead of
/// app=apo`. `None` when there are no labels, or no similar ones.
pub(crate) fn labels<'n>(
    selector: &Selector,
    known: impl IntoIterator<Item = (String, &'n Labels)>,
) -> Option<String> {
    let wanted = selector.requirements().len();
    let mut best: Option<(usize, f64, String, Vec<Requirement>, &Labels)> = None;
    for (name, labels) in known {
        let failed: Vec<Requirement> =
            selector.requirements().filter(|one| !one.matches(labels)).cloned().collect();
        let alike = failed.iter().map(|one| likeness(one, labels)).fold(0.0, f64::max);
        let better = best.as_ref().is_none_or(|(count, score, ..)| {
            failed.len().cmp(count).then_with(|| score.total_cmp(&alike)).is_lt()
        });
        if better {
            best = Some((failed.len(), alike, name, failed, labels));
        }
    }
    let (count, alike, name, failed, labels) = best?;
    if count == wanted && alike < ALIKE {
        return None;
    }
    let had: Vec<String> = failed.iter().map(|one| had(one, labels)).collect();
    Some(format!("nearest is {name}, with {} instead of {}", had.join(", "), requirements(&failed)))
}

/// The similarity of a failed requirement and the labels, 0 to 1.
fn likeness(requirement: &Requirement, labels: &Labels) -> f64 {
    let of_values = |values: &[Str], had: &str| {
        values.iter().map(|wanted| strsim::jaro_winkler(wanted, had)).fold(0.0, f64::max)
    };
    let key = &requirement.key;
    let by_key = |(near, had): (&Str, &Str)| match &requirement.operator {
        Operator::In(values) if *near == *key => of_values(values, had),
        // The key may be wrong: `name: web` instead of `app: web`.
        Operator::In(values) if values.contains(had) => strsim::jaro_winkler(near, key).max(ALIKE),
        Operator::Exists => strsim::jaro_winkler(near, key),
        Operator::In(_) | Operator::NotIn(_) | Operator::DoesNotExist => 0.0,
    };
    labels.iter().map(by_key).fold(0.0, f64::max)
}

fn had(requirement: &Requirement, labels: &Labels) -> String {
    if let Some(value) = labels.get(&requirement.key) {
        return format!("{}={value}", requirement.key);
    }
    let Operator::In(values) = &requirement.operator else {
        return format!("no label {}", requirement.key);
    };
    match labels.iter().find(|(_, value)| values.contains(*value)) {
        Some((key, value)) => format!("{key}={value}"),
        None => format!("no label {}", requirement.key),
    }
}
