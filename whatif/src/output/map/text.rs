//! Reachability in words: one block per group of destinations that policies treat alike.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use policy_engine::cidr::CidrSet;
use policy_engine::reach::PortSet;
use policy_engine::words::few;

use super::json::{External, Map};
use super::matrix::Matrix;
use super::rows::About;
use super::table::short;
use crate::model::Unit;
use crate::output::json::DirectionJson;
use crate::output::names::Names;
use crate::output::words;

/// A line of a block: ports and peers.
type Line = (String, String);

/// Writes a matrix; `wide` with every name.
///
/// # Errors
/// When the output cannot be written.
pub fn text(matrix: &Matrix, wide: bool, out: &mut dyn Write) -> io::Result<()> {
    let names = Names::new(&matrix.everyone, wide);
    let word = matrix.about.word();
    let mut blocks: Vec<(String, Vec<Line>)> = Vec::new();
    for block in matrix.blocks() {
        let mut lines: Vec<Line> = Vec::new();
        for (ports, peers) in &block.peers {
            lines.push((words::ports(ports), format!("{word} {}", names.of_classes(peers))));
        }
        for (addresses, ports) in &block.external {
            lines.push((words::ports(ports), format!("{word} {}", external(addresses, wide))));
        }
        if lines.is_empty() {
            lines.push(("nothing".to_owned(), String::new()));
        }
        blocks.push((names.of(&block.subjects), lines));
    }
    blocks.extend(at_external(matrix, &names, wide));
    write(&blocks, out)
}

/// A block for external addresses, where they are what pods connect to, or what connects to pods, and
/// the pods are not the subjects of blocks.
fn at_external(matrix: &Matrix, names: &Names, wide: bool) -> Vec<(String, Vec<Line>)> {
    let about = matrix.about;
    let mut found: BTreeMap<&CidrSet, BTreeMap<&PortSet, BTreeSet<&Unit>>> = BTreeMap::new();
    for (class, direction, parts) in &matrix.outside {
        for (addresses, ports) in parts.iter().filter(|_| *direction != about.direction()) {
            let row = found.entry(addresses).or_default();
            row.entry(ports).or_default().extend(matrix.units_at(*class, *direction));
        }
    }
    let line = |(ports, units): (&PortSet, BTreeSet<&Unit>)| {
        (words::ports(ports), format!("{} {}", about.word(), names.of(&units)))
    };
    let block = |(addresses, row): (&CidrSet, BTreeMap<_, _>)| {
        (external(addresses, wide), row.into_iter().map(line).collect())
    };
    found.into_iter().map(block).collect()
}

/// External addresses, with `wide` every network.
fn external(addresses: &CidrSet, wide: bool) -> String {
    if wide && !addresses.is_everything() {
        format!("external: {}", words::networks(addresses).join(", "))
    } else {
        words::external(addresses)
    }
}

/// Writes a map of namespaces: the ports on which one of the pods can connect to one of another.
///
/// # Errors
/// When the output cannot be written.
pub fn namespaces(map: &Map, about: About, out: &mut dyn Write) -> io::Result<()> {
    let mut rows: BTreeMap<&str, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    for entry in map.entries.iter().flatten() {
        let (subject, other) = match about {
            About::Destinations => (&entry.destination, &entry.source),
            About::Sources => (&entry.source, &entry.destination),
        };
        rows.entry(subject).or_default().entry(short(&entry.allowed)).or_default().push(other);
    }
    let word = about.word();
    let mut blocks: BTreeMap<&str, Vec<Line>> = BTreeMap::new();
    for (subject, row) in rows {
        let line =
            |(ports, others): (_, Vec<&str>)| (ports, format!("{word} {}", others.join(", ")));
        blocks.insert(subject, row.into_iter().map(line).collect());
    }
    let mut at_external: BTreeMap<String, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    for external in map.external.iter().flatten() {
        let addresses = cidrs(external);
        if external.direction == DirectionJson::from(about.direction()) {
            let lines = blocks.entry(&external.workload).or_default();
            lines.push((short(&external.allowed), format!("{word} {addresses}")));
        } else {
            let row = at_external.entry(addresses).or_default();
            row.entry(short(&external.allowed)).or_default().push(&external.workload);
        }
    }
    let mut blocks: Vec<(String, Vec<Line>)> =
        blocks.into_iter().map(|(subject, lines)| (subject.to_owned(), lines)).collect();
    for (addresses, row) in at_external {
        let line =
            |(ports, others): (_, Vec<&str>)| (ports, format!("{word} {}", others.join(", ")));
        blocks.push((addresses, row.into_iter().map(line).collect()));
    }
    write(&blocks, out)
}

/// The external addresses of an entry; one word for all of them.
fn cidrs(external: &External) -> String {
    const SHOWN: usize = 4;
    match external.cidrs.as_ref() {
        [v4, v6] if v4 == "0.0.0.0/0" && v6 == "::/0" => "external".to_owned(),
        some => format!("external: {}", few(some, SHOWN)),
    }
}

fn write(blocks: &[(String, Vec<Line>)], out: &mut dyn Write) -> io::Result<()> {
    for (number, (subject, lines)) in blocks.iter().enumerate() {
        writeln!(out, "{}{subject}", if number > 0 { "\n" } else { "" })?;
        let width = lines.iter().map(|(ports, _)| ports.chars().count()).max().unwrap_or(0).min(40);
        for (ports, others) in lines {
            writeln!(out, "{}", format!("  {ports:<width$}  {others}").trim_end())?;
        }
    }
    Ok(())
}
