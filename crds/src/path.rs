//! Field paths: on the stack while an object is visited, and as a value in diagnostics.

use std::fmt;

use policy_engine::direction::Direction;
use policy_engine::policy::adding_field;

/// One step into an object.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// A field of a mapping.
    Key(String),
    /// An item of a list, from 0.
    Index(usize),
}

/// The path from the root of an object to a field; empty for the object itself.
///
/// Its text is `spec.ingress[0]`, and `metadata.labels[app.kubernetes.io/name]` for a key that is
/// not a plain field name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    /// The path through these fields.
    #[must_use]
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k str>) -> Self {
        Self(keys.into_iter().map(|key| Step::Key(key.to_owned())).collect())
    }

    /// The path of a rule, which count from 1; for a rule that a field such as `allowDNS` adds, the
    /// path of that field.
    #[must_use]
    pub fn of_rule(direction: Direction, rule: usize) -> Self {
        match adding_field(rule) {
            Some(field) => Self::new(["spec", field]),
            None => Self::new(["spec", direction.field()]).index(rule.saturating_sub(1)),
        }
    }

    /// The path of the field `name` of this mapping.
    #[must_use]
    pub fn key(mut self, name: &str) -> Self {
        self.0.push(Step::Key(name.to_owned()));
        self
    }

    /// The path of the item `at` of this list.
    #[must_use]
    pub fn index(mut self, at: usize) -> Self {
        self.0.push(Step::Index(at));
        self
    }

    /// The steps from the root.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether this is the path of the whole object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of `below`, which is relative to this field.
    pub(crate) fn join(mut self, below: impl IntoIterator<Item = Step>) -> Self {
        self.0.extend(below);
        self
    }
}

impl FromIterator<Step> for FieldPath {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(formatter, "[{index}]")?,
                Step::Key(name) if !is_field_name(name) => write!(formatter, "[{name}]")?,
                Step::Key(name) if at == 0 => write!(formatter, "{name}")?,
                Step::Key(name) => write!(formatter, ".{name}")?,
            }
        }
        Ok(())
    }
}

fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A [`FieldPath`] while an object is visited, without an allocation.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a>(Option<(&'a Path<'a>, Here<'a>)>);

#[derive(Clone, Copy)]
enum Here<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The object itself.
    pub(crate) const ROOT: Path<'static> = Path(None);

    /// The path of the field `name` of this mapping.
    pub(crate) fn key(&'a self, name: &'a str) -> Self {
        Self(Some((self, Here::Key(name))))
    }

    /// The path of the item `at` of this list.
    pub(crate) fn index(&'a self, at: usize) -> Self {
        Self(Some((self, Here::Index(at))))
    }
}

impl From<&Path<'_>> for FieldPath {
    fn from(path: &Path<'_>) -> Self {
        let Some((parent, here)) = path.0 else { return Self::default() };
        match here {
            Here::Key(name) => Self::from(parent).key(name),
            Here::Index(at) => Self::from(parent).index(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_the_api_server_writes_it() {
        let spec = Path::ROOT.key("spec");
        let ingress = spec.key("ingress");
        let item = ingress.index(2);
        assert_eq!(FieldPath::from(&item.key("ports")).to_string(), "spec.ingress[2].ports");
        assert_eq!(FieldPath::new(["labels", "a.b/c"]).to_string(), "labels[a.b/c]");
    }
}
