//! The connections that `suggest` is asked to allow: from the command line, lists, tests, and
//! denials that agents logged.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use policy_engine::flow::Traffic;
use policy_engine::reach::PortSet;
use policy_engine::words::few;

use super::Asked;
use super::denials::{Denial, Unreadable, read, sides};
use crate::endpoint::{Endpoint, EndpointError, PortAsked, PortWord, Resolved};
use crate::model::Cluster;
use crate::policytest::{Suite, expected};

/// How many names a note writes out.
const SHOWN: usize = 5;

/// The connections of a list, a test or a log.
#[derive(Default)]
pub struct Found {
    /// The connections.
    pub asked: Vec<Asked>,
    /// Notes about what was left out.
    pub notes: Vec<String>,
}

/// A connection as a user names it. The port is a part of the destination, or separate.
///
/// # Errors
/// When a name does not exist.
pub fn words(
    source: &str,
    destination: &str,
    port: Option<&str>,
    mut resolve: impl FnMut(&Endpoint) -> Result<Resolved>,
) -> Result<Vec<Asked>> {
    let from: Endpoint = source.parse()?;
    ensure!(from.port.is_none(), "{source}: a port belongs to the destination");
    let mut to: Endpoint = destination.parse()?;
    if let Some(port) = port {
        ensure!(to.port.is_none(), "{destination} and `{port}`: two ports");
        let port: PortWord = port
            .parse()
            .map_err(|problem: String| EndpointError::Syntax { text: port.to_owned(), problem })?;
        to.port = Some(port);
    }
    let name = match &to.port {
        Some(port) if port.to_string().contains('/') && !destination.contains(':') => {
            format!("{source} → {destination} {port}")
        }
        _ => format!("{source} → {destination}"),
    };
    let (source, destination) = (resolve(&from)?, resolve(&to)?);
    // Each pod of a Service can have another port.
    let mut by_ports: BTreeMap<Vec<PortAsked>, Resolved> = BTreeMap::new();
    for party in &destination.parties {
        let same = by_ports.entry(party.ports.clone()).or_insert_with(|| Resolved {
            name: destination.name.clone(),
            parties: Vec::new(),
            notes: Vec::new(),
        });
        same.parties.push(party.clone());
    }
    let asked = |(ports, destination): (Vec<PortAsked>, Resolved)| {
        let mut set = PortSet::default();
        for port in &ports {
            set.add(&PortSet::of(Traffic::Port(port.protocol, port.number)));
        }
        let ports = if ports.is_empty() { PortSet::everything() } else { set };
        Asked { name: name.clone(), source: source.clone(), destination, ports }
    };
    Ok(by_ports.into_iter().map(asked).collect())
}

/// One connection per line: `SRC DST[:PORT]` or `SRC DST PORT`. `#` begins a comment.
///
/// # Errors
/// When a line cannot be understood.
pub fn list(
    name: &str,
    text: &str,
    mut resolve: impl FnMut(&Endpoint) -> Result<Resolved>,
) -> Result<Vec<Asked>> {
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let parts: Vec<&str> = line.split_whitespace().collect();
        let found = match parts.as_slice() {
            [] => continue,
            [source, destination] => words(source, destination, None, &mut resolve),
            [source, destination, port] => words(source, destination, Some(port), &mut resolve),
            _ => Err(anyhow::anyhow!("a line is SRC DST[:PORT], or SRC DST PORT")),
        };
        all.extend(found.with_context(|| format!("{name}:{}", number + 1))?);
    }
    ensure!(!all.is_empty(), "{name} contains no connection");
    Ok(all)
}

/// The connections that the lines of a test file expect to be allowed.
///
/// # Errors
/// When the file cannot be understood, or defines its own world.
pub fn tests(name: &str, text: &str, cluster: &Cluster) -> Result<Vec<Asked>> {
    let mut all = Vec::new();
    for suite in Suite::read(name, text)? {
        if suite.has_steps() {
            bail!("{name}: the steps of a test have worlds of their own; only `tests` can be used");
        }
        all.extend(expected(&suite, cluster)?);
    }
    ensure!(!all.is_empty(), "{name}: no test expects a connection to be allowed");
    Ok(all)
}

/// The connections of the denials in a log of agents.
///
/// # Errors
/// When no line is such a record.
pub fn denials(name: &str, text: &str, cluster: &Cluster) -> Result<Found> {
    let mut records: BTreeSet<Denial> = BTreeSet::new();
    let mut unreadable: BTreeMap<Unreadable, usize> = BTreeMap::new();
    for line in text.lines() {
        match read(line) {
            Ok(Some(record)) => {
                records.insert(record);
            }
            Ok(None) => {}
            Err(why) => *unreadable.entry(why).or_default() += 1,
        }
    }
    ensure!(
        !records.is_empty() || !unreadable.is_empty(),
        "{name} contains no line of an agent about a denied connection"
    );
    let mut found = Found::default();
    for (why, count) in unreadable {
        let what = if count == 1 { "1 denial is" } else { &format!("{count} denials are") };
        found.notes.push(format!("{name}: {what} left out: {why}"));
    }
    let mut unknown = BTreeSet::new();
    for record in &records {
        match sides(cluster, record) {
            Ok((source, destination)) => found.asked.push(Asked {
                name: format!("{} → {} {}", source.name, destination.name, record.traffic),
                source,
                destination,
                ports: PortSet::of(record.traffic),
            }),
            Err(missing) => drop(unknown.insert(missing)),
        }
    }
    if !unknown.is_empty() {
        found.notes.push(format!(
            "{name}: denials of {} are left out: no such pod or node exists, and no workload of \
             that name",
            few(&unknown, SHOWN)
        ));
    }
    // Pods of one workload are one connection.
    found.asked.sort_by(|a, b| a.name.cmp(&b.name));
    found.asked.dedup_by(|a, b| a.name == b.name);
    Ok(found)
}
