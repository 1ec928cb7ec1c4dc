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
use crate::args::{By, ListArgs, Map, MapFormat, Reach, Who};
use crate::endpoint::{Resolved, Side};
use crate::output;
use crate::output::map::matrix::{Focus, Matrix};
use crate::output::map::{About, graph, namespaces, table, text};

pub(super) fn map(args: &Map, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let directions = Direction::BOTH.to_vec();
    let focus = Focus { outside_directions: directions, ..Focus::default() };
    let matrix =
        |classes: &Classes<'_>| Matrix::new(&question.cluster, classes, args.list.by, &focus);
    write(&question, &args.list, matrix, About::Destinations, &[], out)
}

pub(super) fn who(args: &Who, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let resolved = question.resolve(&args.destination)?;
    let ports = asked(&resolved);
    let (cluster, by) = (&question.cluster, args.list.by);
    let subject = subject(&question, &resolved);
    let about = match &subject {
        Subject::Pods(_) | Subject::Node(_) => About::Destinations,
        // Who can reach an address outside: each pod by its egress.
        Subject::Outside(_) => About::Sources,
    };
    let matrix = |classes: &Classes<'_>| {
        let focus = match &subject {
            Subject::Pods(pods) => Focus {
                destinations: Some(pods.clone()),
                outside_directions: vec![Direction::Ingress],
                ports: ports.clone(),
                ..Focus::default()
            },
            Subject::Outside(set) => Focus {
                outside: Some(set.clone()),
                outside_directions: vec![Direction::Egress],
                ports: ports.clone(),
                ..Focus::default()
            },
            Subject::Node(side) => {
                let node = (side, resolved.name.as_str());
                let ports = ports.as_ref();
                return Matrix::of_node(cluster, classes, by, node, Direction::Egress, ports);
            }
        };
        Matrix::new(cluster, classes, by, &focus)
    };
    write(&question, &args.list, matrix, about, &resolved.notes, out)
}

pub(super) fn reach(args: &Reach, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let resolved = question.resolve(&args.source)?;
    if args.source.contains(':') && asked(&resolved).is_some() {
        bail!("{}: a port belongs to the destination", args.source);
    }
    let (cluster, by) = (&question.cluster, args.list.by);
    let subject = subject(&question, &resolved);
    let about = match &subject {
        Subject::Pods(_) | Subject::Node(_) => About::Sources,
        Subject::Outside(_) => About::Destinations,
    };
    let matrix = |classes: &Classes<'_>| {
        let focus = match &subject {
            Subject::Pods(pods) => Focus {
                sources: Some(pods.clone()),
                outside_directions: vec![Direction::Egress],
                ..Focus::default()
            },
            Subject::Outside(set) => Focus {
                outside: Some(set.clone()),
                outside_directions: vec![Direction::Ingress],
                ..Focus::default()
            },
            Subject::Node(side) => {
                let node = (side, resolved.name.as_str());
                return Matrix::of_node(cluster, classes, by, node, Direction::Ingress, None);
            }
        };
        Matrix::new(cluster, classes, by, &focus)
    };
    write(&question, &args.list, matrix, about, &resolved.notes, out)
}

/// Whom `who` and `reach` are about.
enum Subject {
    Pods(BTreeSet<PodKey>),
    Outside(CidrSet),
    Node(Side),
}

/// A pod with hostNetwork is its node, which is said in the answer by the pod's name.
fn subject(question: &Question, resolved: &Resolved) -> Subject {
    if let [only] = resolved.parties.as_slice() {
        let pods = question.cluster.world.pods();
        match &only.side {
            Side::Outside(set) => return Subject::Outside(set.clone()),
            Side::Node(..) => return Subject::Node(only.side.clone()),
            Side::Pod(key, _) if pods.get(key).is_some_and(|pod| pod.host_network) => {
                return Subject::Node(only.side.clone());
            }
            Side::Pod(..) => {}
        }
    }
    let pods = resolved.parties.iter().filter_map(|party| match &party.side {
        Side::Pod(key, _) => Some(key.clone()),
        Side::Outside(_) | Side::Node(..) => None,
    });
    Subject::Pods(pods.collect())
}

fn asked(resolved: &Resolved) -> Option<PortSet> {
    let mut ports = PortSet::default();
    for port in resolved.parties.iter().flat_map(|party| &party.ports) {
        ports.insert(port.protocol, PortRange::single(port.number));
    }
    (!ports.is_empty()).then_some(ports)
}

fn write(
    question: &Question,
    args: &ListArgs,
    matrix: impl Fn(&Classes<'_>) -> Matrix,
    about: About,
    notes: &[String],
    out: &mut dyn Write,
) -> Result<u8> {
    let classes = Classes::new(&question.cluster.world);
    let matrix = matrix(&classes);
    let map = || matrix.map(question.diagnostics(notes));
    match args.output {
        MapFormat::Text | MapFormat::Wide => {
            question.tell_oddities(notes)?;
            match args.by {
                By::Namespace => namespaces(&map(), about, out)?,
                By::Pod | By::Workload => {
                    text(&matrix, about, args.output == MapFormat::Wide, out)?;
                }
            }
        }
        MapFormat::Json => output::write_json(&map(), out)?,
        MapFormat::Yaml => output::write_yaml(&map(), out)?,
        MapFormat::Csv => table::csv(&map(), out)?,
        MapFormat::Md => table::markdown(&map(), out)?,
        MapFormat::Dot => graph::dot(&map(), out)?,
        MapFormat::Mermaid => graph::mermaid(&map(), out)?,
    }
    Ok(question.code(YES))
}
