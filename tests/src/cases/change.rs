//! Manifests as changes for the engine, through the `crds` crate like everything that is enforced.

use policy_engine::model::Change;
use portcullis_crds::convert::{self, Converted};
use portcullis_crds::diagnostic::Diagnostic;

use super::object::Manifest;

impl Manifest {
    /// The changes that this means to the engine, and what is wrong with it. A Service means
    /// nothing to policies.
    #[must_use]
    pub fn changes(&self) -> (Vec<Change>, Vec<Diagnostic>) {
        let read =
            portcullis_crds::manifest::Manifest::parse(&self.object.to_string(), &self.text());
        let (mut changes, mut diagnostics) = (Vec::new(), read.diagnostics);
        for document in &read.documents {
            let (converted, found) = convert::document(document);
            diagnostics.extend(found);
            match converted {
                Converted::Object(change) => changes.push(change),
                Converted::Foreign { .. } | Converted::UnknownVersion(_) | Converted::Unusable => {}
            }
        }
        (changes, diagnostics)
    }
}
