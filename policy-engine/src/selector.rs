//! Label selectors in canonical form: equal selectors are equal values.

use std::fmt;
use std::slice;
use std::str::FromStr;

use crate::labels::{Labels, Str};
use crate::sorted::SortedSet;
use crate::words;

/// One requirement of a label selector.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Requirement {
    /// The key of the label that is compared.
    pub key: Str,
    /// The condition for the label.
    pub operator: Operator,
}

/// The condition that a requirement sets for a label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operator {
    /// The key is present with one of these values.
    In(SortedSet<Str>),
    /// The key is missing, or present with none of these values.
    NotIn(SortedSet<Str>),
    /// The key is present.
    Exists,
    /// The key is missing.
    DoesNotExist,
}

impl Operator {
    /// The name of the operator in `matchExpressions`, and its values if it has any.
    #[must_use]
    pub fn name_and_values(&self) -> (&'static str, Option<&[Str]>) {
        match self {
            Self::In(values) => ("In", Some(values)),
            Self::NotIn(values) => ("NotIn", Some(values)),
            Self::Exists => ("Exists", None),
            Self::DoesNotExist => ("DoesNotExist", None),
        }
    }
}

/// A label selector: it matches when all requirements hold. Without requirements it matches
/// everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Selector(SortedSet<Requirement>);

impl Selector {
    /// The selector that matches every object: `{}`.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// The selector that requires one label to have one value, as a line of `matchLabels` does.
    #[must_use]
    pub fn label(key: &str, value: &str) -> Self {
        Self::from_iter([Requirement {
            key: key.into(),
            operator: Operator::In([value.into()].into()),
        }])
    }

    /// Whether `labels` meet every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether this is the selector without requirements.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The requirements in canonical order.
    pub fn requirements(&self) -> slice::Iter<'_, Requirement> {
        self.0.iter()
    }

    /// A label that every match must have, for use in an index; `None` when there is none.
    #[must_use]
    pub fn required_label(&self) -> Option<(&Str, &Str)> {
        self.0.iter().find_map(|requirement| match &requirement.operator {
            Operator::In(values) if values.len() == 1 => {
                values.first().map(|value| (&requirement.key, value))
            }
            _ => None,
        })
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> Self {
        Self(requirements.into_iter().collect())
    }
}

impl Requirement {
    /// Whether `labels` meet this requirement.
    ///
    /// `NotIn` and `DoesNotExist` hold for a missing key, `In` does not (labels.Requirement of
    /// apimachinery).
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// The text that kubectl accepts, and [`Selector::from_str`] reads.
impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&words::requirements(&self.0))
    }
}

/// The error for a text that is not a label selector.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is not a label selector as kubectl takes it: key=value, key!=value, key in (a,b), key notin (a,b), key, !key"
)]
pub struct ParseSelectorError(String);

/// Reads requirements as kubectl takes them, with commas between. An empty text matches everything.
impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let parts = split(text).filter(|_| !text.trim().is_empty());
        let read = |part: &str| {
            requirement(part.trim()).ok_or_else(|| ParseSelectorError(part.trim().to_owned()))
        };
        parts.map(read).collect()
    }
}

/// The parts between commas that are not in parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth == 0
    })
}

fn requirement(text: &str) -> Option<Requirement> {
    let is_plain = |word: &str| {
        word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter))
    };
    let key = |word: &str| {
        let word = word.trim();
        (!word.is_empty() && is_plain(word)).then(|| Str::from(word))
    };
    let value = |word: &str| Some(word.trim()).filter(|word| is_plain(word)).map(Str::from);
    let one = |word: &str| Some(SortedSet::from([value(word)?]));
    let list = |words: &str| -> Option<SortedSet<Str>> {
        words.trim().strip_prefix('(')?.strip_suffix(')')?.split(',').map(value).collect()
    };
    let (key, operator) = if let Some((name, values)) = text.split_once(" notin ") {
        (key(name)?, Operator::NotIn(list(values)?))
    } else if let Some((name, values)) = text.split_once(" in ") {
        (key(name)?, Operator::In(list(values)?))
    } else if let Some((name, other)) = text.split_once("!=") {
        (key(name)?, Operator::NotIn(one(other)?))
    } else if let Some((name, same)) = text.split_once("==").or_else(|| text.split_once('=')) {
        (key(name)?, Operator::In(one(same)?))
    } else if let Some(name) = text.strip_prefix('!') {
        (key(name)?, Operator::DoesNotExist)
    } else {
        (key(text)?, Operator::Exists)
    };
    Some(Requirement { key, operator })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(operator: Operator, labels: &[(&str, &str)], expected: bool) {
        let selector = Selector::from_iter([Requirement { key: "k".into(), operator }]);
        let labels: Labels = labels.iter().copied().collect();
        assert_eq!(selector.matches(&labels), expected, "{selector:?} on {labels:?}");
    }

    fn values(list: &[&str]) -> SortedSet<Str> {
        list.iter().map(|value| Str::from(*value)).collect()
    }

    #[test]
    fn a_missing_key_meets_not_in_and_does_not_exist_only() {
        check(Operator::In(values(&["a"])), &[], false);
        check(Operator::NotIn(values(&["a"])), &[], true);
        check(Operator::Exists, &[], false);
        check(Operator::DoesNotExist, &[], true);
    }

    #[test]
    fn a_present_key_is_compared_by_value() {
        check(Operator::In(values(&["a", "b"])), &[("k", "b")], true);
        check(Operator::In(values(&["a"])), &[("k", "b")], false);
        check(Operator::NotIn(values(&["a", "b"])), &[("k", "b")], false);
        check(Operator::NotIn(values(&["a"])), &[("k", "b")], true);
        check(Operator::Exists, &[("k", "")], true);
        check(Operator::DoesNotExist, &[("k", "")], false);
    }

    #[test]
    fn an_empty_value_must_be_present_and_empty() {
        check(Operator::In(values(&[""])), &[("k", "")], true);
        check(Operator::In(values(&[""])), &[], false);
        check(Operator::In(values(&[""])), &[("k", "x")], false);
    }

    #[test]
    fn selectors_are_read_as_kubectl_takes_them() {
        for text in
            ["app=web", "app=web,tier in (a,b)", "!canary", "env notin (a,b)", "env!=prod", "app"]
        {
            let read: Selector = text.parse().unwrap();
            let again = read.to_string();
            assert_eq!(again.parse(), Ok(read), "{text} {again}");
        }
        assert_eq!(" ".parse(), Ok(Selector::everything()));
        assert_eq!("a==b".parse::<Selector>(), "a=b".parse());
        for bad in ["=x", "a in b", "a in (b", "a b", ",", "a=b=c", "a,"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
