//! Policies in a namespace without any other object: the namespace is probably misspelled.

use std::collections::BTreeSet;

use policy_engine::object::{Kind, ObjectRef};
use portcullis_crds::convert::inventory::Item;
use portcullis_crds::diagnostic::{About, Diagnostic, Severity};
use portcullis_crds::path::FieldPath;
use portcullis_lint::near;

use super::Inventory;

impl Inventory {
    /// One warning for each NetworkPolicy of a file whose namespace no Namespace, pod, workload or
    /// Service is in.
    ///
    /// The list is empty if the source has no namespace at all (policies alone), or if parts of the
    /// cluster could not be read: then the namespaces are not known.
    #[must_use]
    pub fn misplaced(&self) -> Vec<Diagnostic> {
        if !self.hidden.is_empty() {
            return Vec::new();
        }
        let known: BTreeSet<&str> = self.objects().filter_map(|(name, _)| place(name)).collect();
        if known.is_empty() {
            return Vec::new();
        }
        let misplaced = self.objects().filter(|(name, _)| {
            name.kind == Kind::NetworkPolicy && !known.contains(&*name.namespace)
        });
        // A policy in an unknown version may select any pods.
        let misplaced = misplaced.filter(|(_, object)| matches!(object.item, Item::Object(_)));
        let warning = |(name, object): (&ObjectRef, &super::Object)| {
            let namespace = &name.namespace;
            let document = object.document.as_ref()?;
            let field = FieldPath::new(["metadata", "namespace"]);
            let near = near::names(namespace, known.iter().copied());
            let hint = match near.first() {
                Some(near) => format!("did you mean {near}?"),
                None => "add the Namespace to the source, or correct the name".to_owned(),
            };
            Some(Diagnostic {
                severity: Severity::Warning,
                source: Some(document.origin_at(&field)),
                about: About::Object(name.clone()),
                field,
                message: format!(
                    "the source has no Namespace {namespace}, and no pod, workload or Service in \
                     it, so the policy selects nothing; {hint}"
                ),
            })
        };
        misplaced.filter_map(warning).collect()
    }
}

/// The namespace whose existence follows from an object.
fn place(name: &ObjectRef) -> Option<&str> {
    match name.kind {
        Kind::Namespace => Some(&name.name),
        kind if kind.is_namespaced() && !kind.is_policy() => Some(&name.namespace),
        _ => None,
    }
}
