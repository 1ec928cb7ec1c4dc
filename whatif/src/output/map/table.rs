//! Rows for spreadsheets and pull requests.

use std::io::{self, Write};

use super::json::{External, Map};
use crate::output::json::{DirectionJson, Ports, Protocol};

/// One line per entry and range of ports: `source,destination,protocol,from,to`.
///
/// External addresses are written where a workload would be. Names have neither commas nor quotes.
///
/// # Errors
/// When the output cannot be written.
pub fn csv(map: &Map, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "source,destination,protocol,from,to")?;
    for entry in map.entries.iter().flatten() {
        lines(out, &entry.source, &entry.destination, &entry.allowed)?;
    }
    for external in map.external.iter().flatten() {
        for cidr in external.cidrs.iter() {
            let (source, destination) = ends(external, cidr);
            lines(out, source, destination, &external.allowed)?;
        }
    }
    for edge in &map.frontends {
        for backend in &edge.backends {
            lines(out, &edge.frontend, backend, &edge.allowed)?;
        }
    }
    Ok(())
}

fn lines(
    out: &mut dyn Write,
    source: &str,
    destination: &str,
    allowed: &[Ports],
) -> io::Result<()> {
    for Ports { protocol, from, to } in allowed {
        writeln!(out, "{source},{destination},{},{from},{to}", name(*protocol))?;
    }
    Ok(())
}

/// A Markdown table: from, to, ports.
///
/// # Errors
/// When the output cannot be written.
pub fn markdown(map: &Map, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "| from | to | ports |\n|---|---|---|")?;
    let mut line = |from: &str, to: &str, allowed: &[Ports]| {
        writeln!(out, "| {} | {} | {} |", escaped(from), escaped(to), short(allowed))
    };
    for entry in map.entries.iter().flatten() {
        line(&entry.source, &entry.destination, &entry.allowed)?;
    }
    for external in map.external.iter().flatten() {
        let cidrs = external.cidrs.join(", ");
        let (from, to) = ends(external, &cidrs);
        line(from, to, &external.allowed)?;
    }
    for edge in &map.frontends {
        for backend in &edge.backends {
            line(&edge.frontend, backend, &edge.allowed)?;
        }
    }
    Ok(())
}

/// Source and destination of a line for external addresses.
pub(super) fn ends<'a>(external: &'a External, outside: &'a str) -> (&'a str, &'a str) {
    match external.direction {
        DirectionJson::Ingress => (outside, &external.workload),
        DirectionJson::Egress => (&external.workload, outside),
    }
}

/// Ports in one cell: `80/TCP, 8000-8999/TCP`, `all`.
pub(super) fn short(allowed: &[Ports]) -> String {
    let whole = |ports: &Ports| (ports.from, ports.to) == (1, u16::MAX);
    if allowed.len() == 3 && allowed.iter().all(whole) {
        return "all".to_owned();
    }
    let word = |ports: &Ports| {
        let protocol = name(ports.protocol);
        match (ports.from, ports.to) {
            _ if whole(ports) => format!("all {protocol}"),
            (from, to) if from == to => format!("{from}/{protocol}"),
            (from, to) => format!("{from}-{to}/{protocol}"),
        }
    };
    allowed.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// Names of files may contain Markdown markup; names of a cluster cannot.
pub(in crate::output) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('*', "\\*")
}
