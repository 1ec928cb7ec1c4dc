//! Reachability in words: one block per group of destinations that policies treat alike.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use policy_engine::cidr::CidrSet;
use policy_engine::direction::Direction;
use policy_engine::reach::{ClassId, PortSet};

use super::json::Map;
use super::matrix::{Matrix, of};
use super::table::short;
use crate::model::Unit;
use crate::output::json::DirectionJson;
use crate::output::names::Names;
use crate::output::words;

/// Which side the blocks are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum About {
    /// Who reaches each destination.
    Destinations,
    /// What each source reaches.
    Sources,
}

/// What is allowed between one group and all others: ports, with the others.
type Row<'m> = BTreeMap<&'m PortSet, BTreeSet<&'m Unit>>;

/// What is allowed between one group and outside.
type OutsideRow<'m> = Vec<&'m (CidrSet, PortSet)>;

/// Writes a matrix; `wide` with every name.
///
/// # Errors
/// When the output cannot be written.
pub fn text(matrix: &Matrix, about: About, wide: bool, out: &mut dyn Write) -> io::Result<()> {
    let names = Names::new(&matrix.everyone, wide);
    let blocks = blocks(matrix, about, &names);
    for (number, ((row, outside), subjects)) in blocks.into_iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", names.of(&subjects))?;
        let (word, outside_word) = match about {
            About::Destinations => ("from", "from outside"),
            About::Sources => ("to", "to outside"),
        };
        let mut lines: Vec<(String, String)> = Vec::new();
        for (ports, others) in &row {
            lines.push((words::ports(ports), format!("{word} {}", names.of(others))));
        }
        for (addresses, ports) in &outside {
            let whole = addresses.is_everything();
            let where_to =
                if whole { String::new() } else { format!(": {}", words::addresses(addresses)) };
            lines.push((words::ports(ports), format!("{outside_word}{where_to}")));
        }
        if lines.is_empty() {
            lines.push(("nothing".to_owned(), String::new()));
        }
        let width = lines.iter().map(|(ports, _)| ports.chars().count()).max().unwrap_or(0).min(40);
        for (ports, others) in lines {
            writeln!(out, "{}", format!("  {ports:<width$}  {others}").trim_end())?;
        }
    }
    Ok(())
}

/// Writes a map of namespaces: what some pod of one may open at some pod of the other.
///
/// # Errors
/// When the output cannot be written.
pub fn namespaces(map: &Map, about: About, out: &mut dyn Write) -> io::Result<()> {
    let mut blocks: BTreeMap<&str, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    for entry in &map.entries {
        let (subject, other) = match about {
            About::Destinations => (&entry.destination, &entry.source),
            About::Sources => (&entry.source, &entry.destination),
        };
        let rows = blocks.entry(subject).or_default();
        rows.entry(short(&entry.allowed)).or_default().push(other);
    }
    for external in &map.external {
        let fits = match external.direction {
            DirectionJson::Ingress => about == About::Destinations,
            DirectionJson::Egress => about == About::Sources,
        };
        if fits {
            let rows = blocks.entry(&external.workload).or_default();
            let others = rows.entry(short(&external.allowed)).or_default();
            if !others.contains(&"outside") {
                others.push("outside");
            }
        }
    }
    let word = match about {
        About::Destinations => "from",
        About::Sources => "to",
    };
    for (number, (subject, rows)) in blocks.into_iter().enumerate() {
        writeln!(out, "{}{subject}", if number > 0 { "\n" } else { "" })?;
        let width = rows.keys().map(|ports| ports.chars().count()).max().unwrap_or(0).min(40);
        for (ports, others) in rows {
            writeln!(out, "  {ports:<width$}  {word} {}", others.join(", "))?;
        }
    }
    Ok(())
}

/// Subjects with equal rows are one block. In the order of their first names, but those to whom
/// some have every port last: what policies are about is what people look for.
fn blocks<'m>(
    matrix: &'m Matrix,
    about: About,
    names: &Names,
) -> Vec<((Row<'m>, OutsideRow<'m>), BTreeSet<&'m Unit>)> {
    let subjects = match about {
        About::Destinations => &matrix.destinations,
        About::Sources => &matrix.sources,
    };
    let mut rows: BTreeMap<ClassId, (Row<'m>, OutsideRow<'m>)> = BTreeMap::new();
    for (class, units) in subjects.iter().enumerate() {
        if !units.is_empty() {
            rows.insert(class, (Row::new(), Vec::new()));
        }
    }
    for (source, destination, ports) in &matrix.edges {
        let (class, others) = match about {
            About::Destinations => (destination, of(&matrix.sources, *source)),
            About::Sources => (source, of(&matrix.destinations, *destination)),
        };
        if let Some((row, _)) = rows.get_mut(class) {
            row.entry(ports).or_default().extend(others);
        }
    }
    for (class, direction, parts) in &matrix.outside {
        let fits = match about {
            About::Destinations => *direction == Direction::Ingress,
            About::Sources => *direction == Direction::Egress,
        };
        if let Some((_, outside)) = rows.get_mut(class).filter(|_| fits) {
            outside.extend(parts);
        }
    }
    let mut blocks: BTreeMap<(Row<'m>, OutsideRow<'m>), BTreeSet<&'m Unit>> = BTreeMap::new();
    for (class, (mut row, outside)) in rows {
        let units = of(subjects, class);
        // Whoever is open to every other pod is open to itself too: then it is said in one word.
        for others in row.values_mut() {
            let with_itself: BTreeSet<&Unit> = others.iter().copied().chain(units).collect();
            if names.is_everyone(&with_itself) {
                *others = with_itself;
            }
        }
        blocks.entry((row, outside)).or_default().extend(units);
    }
    let mut blocks: Vec<_> = blocks.into_iter().collect();
    let is_open = |row: &Row<'_>| row.keys().any(|ports| ports.is_everything());
    blocks.sort_by(|((left, _), a), ((right, _), b)| {
        (is_open(left), a.first()).cmp(&(is_open(right), b.first()))
    });
    blocks
}
