//! Graphs for Graphviz and for Markdown: a node per workload or frontend, an edge per entry.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::json::Map;
use super::table::{ends, short};

/// A Graphviz digraph.
///
/// # Errors
/// When the output cannot be written.
pub fn dot(map: &Map, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "digraph reachability {{\n  rankdir=LR;\n  node [shape=box];")?;
    for (from, to, ports) in edges(map) {
        writeln!(out, "  {} -> {} [label={}];", quoted(&from), quoted(&to), quoted(&ports))?;
    }
    writeln!(out, "}}")
}

/// A Mermaid flowchart.
///
/// # Errors
/// When the output cannot be written.
pub fn mermaid(map: &Map, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "flowchart LR")?;
    let edges = edges(map);
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for name in edges.iter().flat_map(|(from, to, _)| [from, to]) {
        let next = numbers.len();
        if !numbers.contains_key(name.as_str()) {
            numbers.insert(name, next);
            writeln!(out, "  n{next}[{}]", entity(name))?;
        }
    }
    for (from, to, ports) in &edges {
        let (from, to) = (number(&numbers, from), number(&numbers, to));
        writeln!(out, "  n{from} -->|{}| n{to}", entity(ports))?;
    }
    Ok(())
}

fn number(numbers: &BTreeMap<&str, usize>, name: &str) -> usize {
    *numbers.get(name).expect("each name has a number")
}

fn edges(map: &Map) -> Vec<(String, String, String)> {
    let inside = map.entries.iter().flatten().map(|entry| {
        (entry.source.to_string(), entry.destination.to_string(), short(&entry.allowed))
    });
    let outside = map.external.iter().flatten().map(|external| {
        let cidrs = external.cidrs.join(", ");
        let (from, to) = ends(external, &cidrs);
        (from.to_owned(), to.to_owned(), short(&external.allowed))
    });
    let frontends = map.frontends.iter().flat_map(|edge| {
        let ports = short(&edge.allowed);
        let name = edge.frontend.to_string();
        edge.backends.iter().map(move |to| (name.clone(), to.to_string(), ports.clone()))
    });
    inside.chain(outside).chain(frontends).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Text in quotes, with what Mermaid reads as markup written as entities.
fn entity(text: &str) -> String {
    format!("\"{}\"", text.replace('#', "#35;").replace('"', "#quot;"))
}
