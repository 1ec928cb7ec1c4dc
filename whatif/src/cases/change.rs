//! Manifests as changes for the engine, through the `crds` crate like everything that is enforced.

use policy_engine::labels::Str;
use policy_engine::model::{Change, PodKey};
use policy_engine::policy::PolicyKey;
use portcullis_crds::convert::{self, Converted};
use portcullis_crds::diagnostic::Diagnostic;

use super::object::{Kind, Manifest, ObjectRef};

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

impl ObjectRef {
    /// The change that takes the object away; `None` for one that means nothing to policies.
    #[must_use]
    pub fn deletion(&self) -> Option<Change> {
        let name = Str::from(self.name.as_str());
        Some(match self.kind {
            Kind::Node => Change::Node(name, None),
            Kind::Namespace => Change::Namespace(name, None),
            Kind::Service => return None,
            Kind::NetworkPolicy => {
                Change::NetworkPolicy(PolicyKey::new(&self.namespace, &self.name), None)
            }
            Kind::ClusterNetworkPolicy => Change::ClusterNetworkPolicy(name, None),
            Kind::ClusterDefaultNetworkPolicy => Change::ClusterDefaultNetworkPolicy(name, None),
            Kind::Pod => Change::Pod(PodKey::new(&self.namespace, &self.name), None),
        })
    }
}
