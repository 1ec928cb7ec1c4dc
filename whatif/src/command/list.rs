//! `map`, `who DST` and `reach SRC`: many pairs at once.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, bail};
use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::model::PodKey;
use policy_engine::port::PortRange;
use policy_engine::reach::{PortSet, Reach as Classes};

use super::Question;
use crate::YES;
use crate::args::{By, ListArgs, Map, MapFormat, Reach, SourceArgs, Who};
use crate::endpoint::{Resolved, Side};
use crate::output::map::frontends::{self, FrontendEdge};
use crate::output::map::hosts::Host;
use crate::output::map::json;
use crate::output::map::matrix::{Focus, Matrix};
use crate::output::map::{About, graph, namespaces, svg, table, text};
use crate::output::{self, page};
use crate::plan::Plan;
use crate::source::Sides;

/// These outputs show whole clusters.
const MAP_ONLY: &str = "-o html and -o svg are formats of `kubectl whatif map` only";

pub(super) fn map(args: &Map, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    if args.list.output == MapFormat::Html {
        question.write_notes(&[])?;
        map_page(&question, &args.list.from, out)?;
        return Ok(question.code(YES));
    }
    let outside_directions = Direction::BOTH.to_vec();
    let focus = Focus { outside_directions, ..Focus::all(About::Destinations) };
    let matrix = |classes: &Classes<'_>| {
        vec![Matrix::new(&question.cluster, classes, args.list.by.unwrap_or_default(), &focus)]
    };
    let asked = Asked { about: About::Destinations, is_map: true, notes: &[] };
    write(&question, &args.list, matrix, &asked, out)
}

/// Writes the map as a page.
pub(super) fn map_page(question: &Question, from: &SourceArgs, out: &mut dyn Write) -> Result<()> {
    let (cluster, sides) = (&question.cluster, Sides { before: &[], after: &[] });
    let same = Plan::new(&question.sources, cluster, cluster, from.options());
    let about = page::About::new(true, from, sides, &question.sources);
    page::page(&same, &about, out)
}

pub(super) fn who(args: &Who, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let resolved = question.resolve(&args.destination)?;
    list(&question, &args.list, &resolved, About::Destinations, out)
}

pub(super) fn reach(args: &Reach, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let resolved = question.resolve(&args.source)?;
    if args.source.contains(':') && asked(&resolved).is_some() {
        bail!("{}: a port belongs to the destination", args.source);
    }
    list(&question, &args.list, &resolved, About::Sources, out)
}

/// The peers of the side that was resolved, which is the destination or the source.
fn list(
    question: &Question,
    args: &ListArgs,
    resolved: &Resolved,
    side: About,
    out: &mut dyn Write,
) -> Result<u8> {
    if matches!(args.output, MapFormat::Html | MapFormat::Svg) {
        bail!(MAP_ONLY);
    }
    let (cluster, by, ports) = (&question.cluster, args.by.unwrap_or_default(), asked(resolved));
    let subject = Subject::new(question, resolved);
    let (own, others) = match side {
        About::Destinations => (Direction::Ingress, Direction::Egress),
        About::Sources => (Direction::Egress, Direction::Ingress),
    };
    let about = match (&subject, side) {
        // The pods that can connect to an external address, by their egress rules.
        (Subject::External(_), About::Destinations) => About::Sources,
        (Subject::External(_), About::Sources) => About::Destinations,
        (Subject::Inside { .. }, side) => side,
    };
    let mut notes = resolved.notes.clone();
    notes.extend(subject.notes(question, resolved, side));
    let matrices = |classes: &Classes<'_>| {
        let (pods, hosts) = match &subject {
            Subject::Inside { pods, hosts } => (pods, hosts),
            Subject::External(set) => {
                let focus = Focus {
                    about,
                    subjects: None,
                    outside: Some(set.clone()),
                    outside_directions: vec![others],
                    ports: ports.clone(),
                };
                return vec![Matrix::new(cluster, classes, by, &focus)];
            }
        };
        let mut matrices = Vec::new();
        if !pods.is_empty() {
            let focus = Focus {
                about,
                subjects: Some(pods.clone()),
                outside: None,
                outside_directions: vec![own],
                ports: ports.clone(),
            };
            matrices.push(Matrix::new(cluster, classes, by, &focus));
        }
        if !hosts.is_empty() {
            matrices.push(Matrix::of_hosts(cluster, classes, by, hosts, others, ports.as_ref()));
        }
        matrices
    };
    write(question, args, matrices, &Asked { about, is_map: false, notes: &notes }, out)
}

/// The side that `who` and `reach` were asked about.
enum Subject {
    /// Pods, and nodes with the pods that use their network.
    Inside {
        pods: BTreeSet<PodKey>,
        hosts: Vec<Host>,
    },
    External(CidrSet),
}

impl Subject {
    fn new(question: &Question, resolved: &Resolved) -> Self {
        let (mut pods, mut hosts) = (BTreeSet::new(), Vec::new());
        for party in &resolved.parties {
            let is_host = match &party.side {
                Side::Outside(set) => return Self::External(set.clone()),
                Side::Node(..) => true,
                Side::Pod(key, _) => {
                    let pod = question.cluster.world.pods().get(key);
                    pod.is_some_and(|pod| pod.host_network)
                }
            };
            match &party.side {
                Side::Pod(key, _) if !is_host => drop(pods.insert(key.clone())),
                side => hosts.push(Host { side: side.clone(), name: party.name.clone() }),
            }
        }
        Self::Inside { pods, hosts }
    }

    /// The note about a side to which policies do not apply.
    fn notes(&self, question: &Question, resolved: &Resolved, side: About) -> Vec<String> {
        let hosts = match self {
            Self::Inside { hosts, .. } if !hosts.is_empty() => hosts,
            Self::Inside { .. } | Self::External(_) => return Vec::new(),
        };
        let name = &resolved.name;
        let what = match hosts.first().map(|host| &host.side) {
            Some(Side::Pod(..)) => {
                format!("{name}, which uses the network of its node (hostNetwork)")
            }
            _ => name.clone(),
        };
        let others = match side {
            About::Destinations => "all nodes and external addresses can connect to it",
            About::Sources => "it can connect to all nodes and external addresses",
        };
        let mut notes = vec![format!("NetworkPolicies do not apply to {what}: {others}")];
        let pods = question.cluster.world.pods();
        let on_no_node = |host: &Host| match &host.side {
            Side::Pod(key, _) => pods.get(key).is_some_and(|pod| pod.node.is_none()),
            Side::Node(..) | Side::Outside(_) => false,
        };
        if hosts.iter().any(on_no_node) {
            notes.push(format!(
                "{name} is on no node yet: rules that select nodes or addresses do not match it yet"
            ));
        }
        notes
    }
}

fn asked(resolved: &Resolved) -> Option<PortSet> {
    let mut ports = PortSet::default();
    for port in resolved.parties.iter().flat_map(|party| &party.ports) {
        ports.insert(port.protocol, PortRange::single(port.number));
    }
    (!ports.is_empty()).then_some(ports)
}

/// What is written beside the matrices.
struct Asked<'a> {
    about: About,
    /// Whether the answer is the whole map, which also has Ingresses and routes.
    is_map: bool,
    notes: &'a [String],
}

fn write(
    question: &Question,
    args: &ListArgs,
    matrices: impl Fn(&Classes<'_>) -> Vec<Matrix>,
    asked: &Asked<'_>,
    out: &mut dyn Write,
) -> Result<u8> {
    let Asked { about, is_map, notes } = *asked;
    let classes = Classes::new(&question.cluster.world);
    let matrices = matrices(&classes);
    let frontends = || -> Vec<FrontendEdge> {
        let whole = matrices.iter().filter(|_| is_map);
        whole.flat_map(|matrix| frontends::edges(&question.cluster, matrix)).collect()
    };
    let pairs = || json::Map::of_pairs(&matrices, question.diagnostics(notes));
    let map = || json::Map { frontends: frontends(), ..pairs() };
    let groups_or_pairs = || match args.by {
        None => json::Map {
            frontends: frontends(),
            ..json::Map::of_groups(&matrices, question.diagnostics(notes))
        },
        Some(By::Pod | By::Workload | By::Namespace) => map(),
    };
    match args.output {
        MapFormat::Text | MapFormat::Wide => {
            question.write_notes(notes)?;
            match args.by.unwrap_or_default() {
                By::Namespace => namespaces(&pairs(), about, out)?,
                By::Pod | By::Workload => {
                    for (number, matrix) in matrices.iter().enumerate() {
                        if number > 0 {
                            writeln!(out)?;
                        }
                        text(matrix, args.output == MapFormat::Wide, out)?;
                    }
                }
            }
        }
        MapFormat::Json => output::write_json(&groups_or_pairs(), out)?,
        MapFormat::Yaml => output::write_yaml(&groups_or_pairs(), out)?,
        MapFormat::Csv => table::csv(&map(), out)?,
        MapFormat::Md => table::markdown(&map(), out)?,
        MapFormat::Dot => graph::dot(&map(), out)?,
        MapFormat::Mermaid => graph::mermaid(&map(), out)?,
        MapFormat::Svg => {
            matrices.iter().try_for_each(|matrix| svg(matrix, &frontends(), out))?;
        }
        MapFormat::Html => bail!(MAP_ONLY),
    }
    Ok(question.code(YES))
}
