//! All objects of a case as they are after a step, and who can be probed in them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use policy_engine::labels::{Labels, Str};
use policy_engine::model::PodKey;
use policy_engine::object::{Kind, ObjectRef};
use portcullis_whatif::policytest::member::{Member, Place};
use serde_json::{Value, json};

use super::Families;
use super::address::{self, Book};
use super::object::{Manifest, items, name_of, text};
use super::service::Service;

/// Objects with addresses: what `tests/cases/world.yaml` holds, changed by the steps so far.
#[derive(Clone, Debug)]
pub struct World {
    families: Families,
    objects: BTreeMap<ObjectRef, Value>,
    book: Book,
}

impl World {
    /// The world that the manifests in `text` describe, with addresses of `families`.
    ///
    /// # Errors
    /// When the text cannot be read or holds an object that cannot be placed.
    pub fn parse(file: &str, text: &str, families: Families) -> Result<Self> {
        let manifests = super::yaml::documents(file, text)?;
        Self::of(manifests, families).with_context(|| format!("failed to read {file}"))
    }

    /// The world of these manifests, with addresses of `families`.
    ///
    /// # Errors
    /// When one of them cannot be placed.
    pub fn of(manifests: Vec<Value>, families: Families) -> Result<Self> {
        let book = Book::new(families);
        let mut world = Self { families, objects: BTreeMap::new(), book };
        for manifest in manifests {
            world.apply(&manifest)?;
        }
        Ok(world)
    }

    /// Which families nodes and pods have addresses of.
    #[must_use]
    pub fn families(&self) -> Families {
        self.families
    }

    /// Every object, in an order in which an API server would take them.
    #[must_use]
    pub fn manifests(&self) -> Vec<Manifest> {
        let manifest = |(object, value): (&ObjectRef, &Value)| Manifest {
            object: object.clone(),
            value: value.clone(),
        };
        self.objects.iter().map(manifest).collect()
    }

    /// Adds or replaces an object. Placeholders become addresses, nodes and pods get the status
    /// that a running cluster would give them, as far as the manifest does not state its own.
    pub(super) fn apply(&mut self, manifest: &Value) -> Result<Manifest> {
        let object = name_of(manifest)?;
        let mut value = self
            .book
            .expand(manifest, self.families.each())
            .with_context(|| format!("failed to fill in {object}"))?;
        match object.kind {
            Kind::Node => self.complete_node(&object, &mut value)?,
            Kind::Pod => self.complete_pod(&object, &mut value)?,
            Kind::Service => self.complete_service(&object, &mut value)?,
            _ => {}
        }
        self.objects.insert(object.clone(), value.clone());
        Ok(Manifest { object, value })
    }

    pub(super) fn delete(&mut self, object: &ObjectRef) -> Result<()> {
        let found = self.objects.remove(object);
        ensure!(found.is_some(), "{object} cannot be deleted: it is not there");
        if object.kind == Kind::Pod {
            self.book.forget(&format!("{}/{}", object.namespace, object.name));
        }
        Ok(())
    }

    fn complete_node(&mut self, object: &ObjectRef, value: &mut Value) -> Result<()> {
        let number = address::node_number(&object.name)?;
        let families = self.families.each();
        let addresses: Vec<_> = families.iter().map(|f| address::node(number, *f)).collect();
        let item = |address: &IpAddr| json!({"type": "InternalIP", "address": address});
        let status: Vec<_> = addresses.iter().map(item).collect();
        set(value, "status", json!({"addresses": status}));
        self.book.learn(&object.name, addresses);
        Ok(())
    }

    fn complete_pod(&mut self, object: &ObjectRef, value: &mut Value) -> Result<()> {
        let key = format!("{}/{}", object.namespace, object.name);
        let node = text(value, "/spec/nodeName").map(str::to_owned);
        let host = is_host_network(value);
        let stated = value.pointer("/status/podIPs").is_some();
        let addresses = match &node {
            _ if stated => pod_ips(value).with_context(|| format!("podIPs of {key}"))?,
            None => Vec::new(),
            Some(node) if host => {
                let number = address::node_number(node)?;
                self.families.each().iter().map(|f| address::node(number, *f)).collect()
            }
            Some(node) => self.book.pod(&key, node, self.families)?,
        };
        if !value.get("status").is_some_and(Value::is_object) {
            set(value, "status", json!({}));
        }
        if let Some(status) = value.get_mut("status") {
            let phase = if node.is_some() { "Running" } else { "Pending" };
            let ips: Vec<_> = addresses.iter().map(|address| json!({"ip": address})).collect();
            set_missing(status, "phase", json!(phase));
            set_missing(status, "podIPs", json!(ips));
            if let Some(first) = addresses.first() {
                set_missing(status, "podIP", json!(first));
            }
        }
        self.book.learn(&key, addresses);
        Ok(())
    }

    fn complete_service(&mut self, object: &ObjectRef, value: &mut Value) -> Result<()> {
        let name = format!("{}/svc/{}", object.namespace, object.name);
        let addresses = self.book.service(&name, self.families);
        let first = addresses.first().context("a world needs a family")?;
        let ips = json!(addresses);
        if let Some(spec) = value.get_mut("spec") {
            set_missing(spec, "clusterIP", json!(first));
            set_missing(spec, "clusterIPs", ips);
            if self.families == Families::Dual {
                set_missing(spec, "ipFamilyPolicy", json!("RequireDualStack"));
            }
        }
        Ok(())
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &Value)> {
        self.objects.iter().filter(move |(object, _)| object.kind == kind)
    }

    /// The pods that run, hostNetwork ones included.
    ///
    /// A pod that is finished does not run. Nor does a terminating one whose address another pod
    /// has got: its network namespace is gone.
    #[must_use]
    pub fn pods(&self) -> Vec<Member> {
        let running = self.of_kind(Kind::Pod).filter(|(_, value)| {
            !matches!(text(value, "/status/phase"), Some("Succeeded" | "Failed"))
        });
        let all: Vec<(Member, bool)> = running
            .map(|(object, value)| {
                let terminating = value.pointer("/metadata/deletionTimestamp").is_some();
                let endpoint = Member {
                    place: Place::Pod(PodKey::new(&object.namespace, &object.name)),
                    node: text(value, "/spec/nodeName").map(str::to_owned),
                    on_host: is_host_network(value),
                    addresses: pod_ips(value).unwrap_or_default(),
                    labels: labels(value),
                    namespace_labels: self.namespace_labels(&object.namespace),
                    workload: None,
                };
                (endpoint, terminating)
            })
            .collect();
        let lost = |pod: &Member| {
            let others = all.iter().filter(|(other, terminating)| !terminating && !other.on_host);
            others.flat_map(|(other, _)| &other.addresses).any(|ip| pod.addresses.contains(ip))
        };
        let keep = all.iter().filter(|(pod, terminating)| !(*terminating && lost(pod)));
        keep.map(|(pod, _)| pod.clone()).collect()
    }

    /// Every namespace has the label that says its name.
    fn namespace_labels(&self, name: &str) -> Labels {
        let object = ObjectRef::cluster(Kind::Namespace, name);
        let own = self.objects.get(&object).map(labels).unwrap_or_default();
        own.with("kubernetes.io/metadata.name", name)
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Member> {
        let node = |(object, value): (&ObjectRef, &Value)| Member {
            place: Place::Node(object.name.to_string()),
            node: Some(object.name.to_string()),
            on_host: true,
            addresses: items(value, "/status/addresses")
                .iter()
                .filter_map(|item| text(item, "/address")?.parse().ok())
                .collect(),
            ..Member::nobody(Place::External)
        };
        self.of_kind(Kind::Node).map(node).collect()
    }

    /// Everyone who can be probed: pods with addresses, nodes, the host outside.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Member> {
        let external = Member {
            addresses: self.families.each().iter().map(|f| address::external(*f)).collect(),
            ..Member::nobody(Place::External)
        };
        let mut all = self.pods();
        all.retain(|pod| !pod.addresses.is_empty());
        all.extend(self.nodes());
        all.push(external);
        all
    }

    /// The services, each with the one pod behind it.
    ///
    /// # Errors
    /// When a service cannot be resolved to exactly one running pod: which of several answers
    /// would be a matter of chance.
    pub fn services(&self) -> Result<Vec<Service>> {
        let pods = self.pods();
        self.of_kind(Kind::Service)
            .map(|(object, value)| {
                let backends = pods.iter().filter_map(|pod| match &pod.place {
                    Place::Pod(key) if key.namespace == object.namespace => {
                        Some((pod, self.objects.get(&key.into())?))
                    }
                    Place::Pod(_) | Place::Node(_) | Place::External => None,
                });
                Service::resolve(object, value, backends)
                    .with_context(|| format!("failed to resolve {object}"))
            })
            .collect()
    }
}

fn labels(value: &Value) -> Labels {
    let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
    let pair = |(key, value): (&String, &Value)| {
        Some((Str::from(key.as_str()), Str::from(value.as_str()?)))
    };
    labels.into_iter().flatten().filter_map(pair).collect()
}

fn is_host_network(pod: &Value) -> bool {
    pod.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or_default()
}

fn pod_ips(pod: &Value) -> Result<Vec<IpAddr>> {
    let ips = items(pod, "/status/podIPs").iter();
    ips.map(|item| Ok(text(item, "/ip").context("an item lacks its ip")?.parse()?)).collect()
}

fn set(value: &mut Value, field: &str, content: Value) {
    if let Value::Object(fields) = value {
        fields.insert(field.to_owned(), content);
    }
}

fn set_missing(value: &mut Value, field: &str, content: Value) {
    if value.get(field).is_none() {
        set(value, field, content);
    }
}
