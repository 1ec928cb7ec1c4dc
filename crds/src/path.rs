//! Field paths: built on the stack while an object is walked, printed only when something is wrong.

use std::fmt;

/// One step into an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step<'a> {
    /// A field of a mapping.
    Key(&'a str),
    /// An item of a list.
    Index(usize),
}

/// The way from the root of an object to a field.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a>(Option<(&'a Path<'a>, Step<'a>)>);

impl<'a> Path<'a> {
    /// The object itself.
    pub(crate) const ROOT: Path<'static> = Path(None);

    /// The field `name` of the mapping here.
    pub(crate) fn key(&'a self, name: &'a str) -> Self {
        Self(Some((self, Step::Key(name))))
    }

    /// The item `at` of the list here.
    pub(crate) fn index(&'a self, at: usize) -> Self {
        Self(Some((self, Step::Index(at))))
    }

    /// The steps from the root.
    pub(crate) fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = Vec::new();
        let mut here = self.0;
        while let Some((parent, step)) = here {
            steps.push(step);
            here = parent.0;
        }
        steps.reverse();
        steps
    }
}

/// Steps as text: `spec.ingress[0]`, and `metadata.labels[app.kubernetes.io/name]` for a key that
/// is not a plain field name.
pub(crate) struct Shown<'a>(pub(crate) &'a [Step<'a>]);

impl fmt::Display for Shown<'_> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_the_api_server_writes_it() {
        let spec = Path::ROOT.key("spec");
        let ingress = spec.key("ingress");
        let item = ingress.index(2);
        assert_eq!(Shown(&item.key("ports").steps()).to_string(), "spec.ingress[2].ports");
        let labels = Path::ROOT.key("labels");
        assert_eq!(Shown(&labels.key("a.b/c").steps()).to_string(), "labels[a.b/c]");
    }
}
