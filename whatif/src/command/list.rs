//! `map`, `who DST` and `reach SRC`: many pairs at once.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, bail};
use policy_engine::cidr::CidrSet;
use policy_engine::model::{Direction, PodKey};
use policy_engine::port::PortRange;
use policy_engine::reach::{PortSet, Reach as Classes};

use super::Question;
use crate::YES;
use crate::args::{By, ListArgs, Map, MapFormat, Reach, Who};
use crate::endpoint::{Resolved, Side};
use crate::output::matrix::{Focus, Matrix};
use crate::output::text::About;
use crate::output::{self, graph, table, text};

pub(super) fn map(args: &Map, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let directions = Direction::BOTH.to_vec();
    let focus = Focus { outside_directions: directions, ..Focus::default() };
    write(&question, &args.list, &focus, About::Destinations, &[], out)
}

pub(super) fn who(args: &Who, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let resolved = question.resolve(&args.destination)?;
    let ports = asked(&resolved);
    let (focus, about) = match subject(&resolved)? {
        Subject::Pods(pods) => {
            let outside_directions = vec![Direction::Ingress];
            let destinations = Some(pods);
            (
                Focus { destinations, outside_directions, ports, ..Focus::default() },
                About::Destinations,
            )
        }
        // Who can reach an address outside: each pod by its egress.
        Subject::Outside(set) => {
            let outside_directions = vec![Direction::Egress];
            (
                Focus { outside: Some(set), outside_directions, ports, ..Focus::default() },
                About::Sources,
            )
        }
    };
    write(&question, &args.list, &focus, about, &resolved.notes, out)
}

pub(super) fn reach(args: &Reach, out: &mut dyn Write) -> Result<u8> {
    let question = Question::read(&args.list.from)?;
    let resolved = question.resolve(&args.source)?;
    if args.source.contains(':') && asked(&resolved).is_some() {
        bail!("{}: a port belongs to the destination", args.source);
    }
    let (focus, about) = match subject(&resolved)? {
        Subject::Pods(pods) => {
            let outside_directions = vec![Direction::Egress];
            (Focus { sources: Some(pods), outside_directions, ..Focus::default() }, About::Sources)
        }
        Subject::Outside(set) => {
            let outside_directions = vec![Direction::Ingress];
            (
                Focus { outside: Some(set), outside_directions, ..Focus::default() },
                About::Destinations,
            )
        }
    };
    write(&question, &args.list, &focus, about, &resolved.notes, out)
}

/// Whom `who` and `reach` are about.
enum Subject {
    Pods(BTreeSet<PodKey>),
    Outside(CidrSet),
}

fn subject(resolved: &Resolved) -> Result<Subject> {
    let mut pods = BTreeSet::new();
    for party in &resolved.parties {
        match &party.side {
            Side::Pod(key, _) => {
                pods.insert(key.clone());
            }
            Side::Outside(set) => return Ok(Subject::Outside(set.clone())),
            Side::Node(..) => bail!(
                "{}: nodes are not listed; ask `check '*/*' node/NAME` who may open what there",
                resolved.name
            ),
        }
    }
    Ok(Subject::Pods(pods))
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
    focus: &Focus,
    about: About,
    notes: &[String],
    out: &mut dyn Write,
) -> Result<u8> {
    let classes = Classes::new(&question.cluster.world);
    let matrix = Matrix::new(&question.cluster, &classes, args.by, focus);
    let map = || matrix.map(question.diagnostics(notes));
    match args.output {
        MapFormat::Text | MapFormat::Wide => {
            question.tell_oddities(notes)?;
            match args.by {
                By::Namespace => text::list_namespaces(&map(), about, out)?,
                By::Pod | By::Workload => {
                    text::list(&matrix, about, args.output == MapFormat::Wide, out)?;
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
