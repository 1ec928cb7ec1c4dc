//! The example as values: who there is, what they serve, and the policies in their order.
//!
//! Everything that the engine sees of it was read through `portcullis_crds`.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use policy_engine::cidr::Family;
use policy_engine::evaluate::evaluate;
use policy_engine::flow::Flow;
use policy_engine::model::{Change, PodKey};
use policy_engine::port::Protocol;
use policy_engine::world::World;
use portcullis_crds::convert::{Converted, document};
use portcullis_crds::manifest::Manifest;

use super::table::Cell;
use portcullis_lab::INTERNET_PORT;
use portcullis_tests::cases::{self, Families, Place, Port};

/// The world at one step.
pub(super) struct Scene {
    /// The manifests, with addresses.
    pub(super) manifests: Vec<cases::Manifest>,
    /// What the engine knows.
    pub(super) world: World,
    /// The pods in the order of the file, then the host outside.
    pub(super) parties: Vec<Party>,
}

/// One that connects, and is connected to where it serves a port.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) place: Place,
    pub(super) node: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// In ascending order.
    pub(super) ports: Vec<Port>,
}

/// A file of `examples/shop/policies`.
pub(super) struct PolicyFile {
    pub(super) name: String,
    pub(super) text: String,
    /// Its first line, without the `#`.
    pub(super) comment: String,
    changes: Vec<Change>,
}

/// The directory of the example.
pub(super) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop")
}

/// The scene without policies, and the policies.
pub(super) fn load() -> Result<(Scene, Vec<PolicyFile>)> {
    let directory = directory();
    let scene = Scene::parse(&read(&directory.join("world.yaml"))?)?;
    let listed = fs::read_dir(directory.join("policies")).context("failed to list the policies")?;
    let mut paths: Vec<PathBuf> = listed.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    let policies = paths.iter().map(|path| {
        let name = path.file_name().context("a file has a name")?.to_string_lossy();
        PolicyFile::parse(&name, read(path)?)
    });
    Ok((scene, policies.collect::<Result<_>>()?))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

impl PolicyFile {
    pub(super) fn parse(name: &str, text: String) -> Result<Self> {
        let comment = text.lines().next().and_then(|line| line.strip_prefix("# "));
        let comment = comment.with_context(|| format!("{name} begins with a comment"))?.to_owned();
        let changes = changes(name, &text)?;
        Ok(Self { name: name.to_owned(), text, comment, changes })
    }
}

/// What a file means to the engine. One that is not free of faults has no place in an example.
fn changes(name: &str, text: &str) -> Result<Vec<Change>> {
    let manifest = Manifest::parse(name, text);
    let (mut changes, mut diagnostics) = (Vec::new(), manifest.diagnostics);
    for object in &manifest.documents {
        let (converted, found) = document(object);
        diagnostics.extend(found);
        match converted {
            Converted::Object(change) => changes.push(change),
            Converted::Foreign { .. } | Converted::UnknownVersion(_) | Converted::Unusable => {}
        }
    }
    let said: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    ensure!(said.is_empty(), "{name} has faults:\n  {}", said.join("\n  "));
    Ok(changes)
}

impl Scene {
    /// The scene that `text` describes, dual-stack.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let placed = cases::World::parse("world.yaml", text, Families::Dual)?;
        let manifests = placed.manifests();
        let mut world = World::default();
        for manifest in &manifests {
            let said = changes(&manifest.object.to_string(), &manifest.text())?;
            said.into_iter().for_each(|change| world.apply(change));
        }
        let mut parties = Vec::new();
        for key in pods_in_order(text) {
            let pod = world.pods().get(&key).with_context(|| format!("{key} is no pod"))?;
            let ports = pod.ports.iter().map(|port| Port::Number(port.protocol, port.number));
            let mut ports: Vec<Port> = ports.collect();
            ports.sort();
            parties.push(Party {
                node: pod.node.as_deref().map(str::to_owned),
                addresses: pod.addresses.to_vec(),
                place: Place::Pod(key),
                ports,
            });
        }
        let outside = placed.endpoints().into_iter().find(|it| it.place == Place::External);
        parties.push(Party {
            place: Place::External,
            node: None,
            addresses: outside.context("a world has an outside")?.addresses,
            ports: vec![Port::Number(Protocol::Tcp, INTERNET_PORT)],
        });
        Ok(Self { manifests, world, parties })
    }

    /// Adds the policies of a file.
    pub(super) fn apply(&mut self, policy: &PolicyFile) {
        policy.changes.iter().for_each(|change| self.world.apply(change.clone()));
    }

    /// Every connection that there is to try: both families, each party to each port of the
    /// others and to its own. What the host outside does to itself concerns nobody.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for family in Family::BOTH {
            for (source, from) in self.parties.iter().enumerate() {
                for (destination, to) in self.parties.iter().enumerate() {
                    if from.place == Place::External && to.place == Place::External {
                        continue;
                    }
                    let ports = to.ports.iter();
                    cells.extend(ports.map(|&port| Cell { family, source, destination, port }));
                }
            }
        }
        cells
    }

    /// The question that a cell puts to the engine.
    pub(super) fn flow(&self, cell: Cell) -> Result<Flow> {
        let (source, destination) = (self.party(cell.source)?, self.party(cell.destination)?);
        let traffic = cell.port.traffic();
        let (source, destination) =
            (source.address(cell.family)?, destination.address(cell.family)?);
        Ok(self.world.flow(source, destination, traffic))
    }

    /// What the engine says about a cell.
    pub(super) fn predict(&self, cell: Cell) -> Result<bool> {
        Ok(evaluate(&self.world, &self.flow(cell)?).is_allowed())
    }

    pub(super) fn party(&self, index: usize) -> Result<&Party> {
        self.parties.get(index).context("a cell names parties of its scene")
    }

    /// The position of the pod `namespace/name`.
    pub(super) fn index(&self, name: &str) -> Result<usize> {
        let mut parties = self.parties.iter();
        parties
            .position(|party| party.to_string() == name)
            .with_context(|| format!("the example has no {name}"))
    }

    /// Those that can be connected to, with their positions.
    pub(super) fn columns(&self) -> impl Iterator<Item = (usize, &Party)> {
        self.parties.iter().enumerate().filter(|(_, party)| !party.ports.is_empty())
    }

    /// `jobs/report → shop/db-1 5432/tcp`
    pub(super) fn name(&self, cell: Cell) -> String {
        let name = |index| self.parties.get(index).map_or(String::new(), ToString::to_string);
        format!("{} → {} {}", name(cell.source), name(cell.destination), cell.port)
    }
}

fn pods_in_order(text: &str) -> Vec<PodKey> {
    let manifest = Manifest::parse("world.yaml", text);
    let changes = manifest.documents.iter().map(|object| document(object).0);
    changes
        .filter_map(|converted| match converted {
            Converted::Object(Change::Pod(key, _)) => Some(key),
            Converted::Object(_)
            | Converted::Foreign { .. }
            | Converted::UnknownVersion(_)
            | Converted::Unusable => None,
        })
        .collect()
}

impl Party {
    /// Its name without a namespace.
    pub(super) fn short(&self) -> &str {
        match &self.place {
            Place::Pod(key) => &key.name,
            Place::Node(name) => name,
            Place::External => "internet",
        }
    }

    /// The address of a family.
    pub(super) fn address(&self, family: Family) -> Result<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses
            .find(|address| Family::of(*address) == family)
            .with_context(|| format!("{self} has no {family:?} address"))
    }
}

impl fmt::Display for Party {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Pod(key) => key.fmt(formatter),
            Place::Node(_) | Place::External => formatter.write_str(self.short()),
        }
    }
}
