//! What a step opened and closed, in few words: replicas as one, equal sources together.

use std::collections::BTreeSet;

use policy_engine::cidr::Family;
use policy_engine::port::Protocol;

use super::scene::{Party, Scene};
use super::table::{Cell, Table};
use portcullis_tests::cases::Port;

/// Some of the cells, all opened or all closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Changed {
    /// How many cells.
    pub(super) count: usize,
    /// Such as `shop/api, jobs/report → shop/db 5432`.
    pub(super) what: Vec<String>,
}

/// What is open now in IPv4 and was not, or with `opened: false` the other way round.
pub(super) fn changed(scene: &Scene, table: &Table, before: &Table, opened: bool) -> Changed {
    let cells: BTreeSet<Cell> = table
        .iter()
        .filter(|(cell, reading)| {
            let of_interest = cell.family == Family::V4 && reading.is_open() == opened;
            of_interest && table.is_changed(*cell, Some(before))
        })
        .map(|(cell, _)| cell)
        .collect();
    Changed { count: cells.len(), what: words(scene, &cells) }
}

/// Pods that differ in the number at the end of their names, or one party alone.
struct Workload {
    name: String,
    members: Vec<usize>,
}

fn workloads(scene: &Scene) -> Vec<Workload> {
    let mut all: Vec<Workload> = Vec::new();
    for (index, party) in scene.parties.iter().enumerate() {
        let name = stem(party);
        match all.iter_mut().find(|workload| workload.name == name) {
            Some(workload) => workload.members.push(index),
            None => all.push(Workload { name, members: vec![index] }),
        }
    }
    for workload in &mut all {
        if let [only] = workload.members[..]
            && let Some(party) = scene.parties.get(only)
        {
            workload.name = party.to_string();
        }
    }
    all
}

fn stem(party: &Party) -> String {
    let name = party.to_string();
    match name.rsplit_once('-') {
        Some((stem, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => stem.to_owned(),
        Some(_) | None => name,
    }
}

/// The destinations of each group of sources, both in the order of the scene.
#[derive(Default)]
struct Groups(Vec<(String, Destinations)>);

/// Names with the ports that changed.
type Destinations = Vec<(String, BTreeSet<Port>)>;

impl Groups {
    fn add(&mut self, sources: String, destination: &str, port: Port) {
        let known = self.0.iter().position(|(name, _)| *name == sources);
        let at = known.unwrap_or(self.0.len());
        if known.is_none() {
            self.0.push((sources, Vec::new()));
        }
        let Some((_, destinations)) = self.0.get_mut(at) else { return };
        match destinations.iter_mut().find(|(name, _)| name == destination) {
            Some((_, ports)) => {
                ports.insert(port);
            }
            None => destinations.push((destination.to_owned(), BTreeSet::from([port]))),
        }
    }
}

fn words(scene: &Scene, cells: &BTreeSet<Cell>) -> Vec<String> {
    let workloads = workloads(scene);
    let mut asked = BTreeSet::new();
    for (at, workload) in workloads.iter().enumerate() {
        let hit = cells.iter().filter(|cell| workload.members.contains(&cell.destination));
        asked.extend(hit.map(|cell| (at, cell.port)));
    }
    let mut groups = Groups::default();
    for (at, port) in asked {
        let Some(destination) = workloads.get(at) else { continue };
        let (mut whole, mut everyone) = (Vec::new(), true);
        for source in &workloads {
            let pairs = pairs(source, destination, port);
            let hit: Vec<&Cell> = pairs.iter().filter(|cell| cells.contains(cell)).collect();
            if hit.len() < pairs.len() {
                everyone = false;
                for cell in hit {
                    let name = |index| scene.parties.get(index).map(ToString::to_string);
                    let (from, to) = (name(cell.source), name(cell.destination));
                    groups.add(from.unwrap_or_default(), &to.unwrap_or_default(), port);
                }
            } else if !pairs.is_empty() {
                whole.push(source.name.as_str());
            }
        }
        if everyone {
            groups.add("everyone".to_owned(), &destination.name, port);
        } else if !whole.is_empty() {
            groups.add(whole.join(", "), &destination.name, port);
        }
    }
    let lines = groups.0.iter().map(|(sources, destinations)| {
        let to: Vec<String> = destinations
            .iter()
            .map(|(name, ports)| format!("{name} {}", port_list(ports)))
            .collect();
        format!("{sources} → {}", to.join(", "))
    });
    lines.collect()
}

/// The cells between two workloads; a pod's own ones can never change.
fn pairs(from: &Workload, to: &Workload, port: Port) -> Vec<Cell> {
    let family = Family::V4;
    let pairs =
        from.members.iter().flat_map(|source| to.members.iter().map(move |to| (source, to)));
    pairs
        .filter(|(source, destination)| source != destination)
        .map(|(&source, &destination)| Cell { family, source, destination, port })
        .collect()
}

/// `8080 9090`, `53/udp`: TCP goes without saying.
pub(super) fn port_list<'p>(ports: impl IntoIterator<Item = &'p Port>) -> String {
    let names = ports.into_iter().map(|port| match port {
        Port::Number(Protocol::Tcp, number) => number.to_string(),
        Port::Number(..) | Port::Icmp => port.to_string(),
    });
    names.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::super::scene::{self, PolicyFile};
    use super::super::table::{Measured, Reading};
    use super::*;

    /// What packets would do if they did as the engine says.
    fn predicted(scene: &Scene) -> Result<Table> {
        let reading = |predicted| Reading {
            predicted,
            measured: if predicted { Measured::Open } else { Measured::Closed },
        };
        let cells = scene.cells().into_iter();
        cells.map(|cell| Ok((cell, reading(scene.predict(cell)?)))).collect()
    }

    fn summary(scene: &mut Scene, policy: &PolicyFile) -> Result<String> {
        let before = predicted(scene)?;
        scene.apply(policy);
        let after = predicted(scene)?;
        let [opened, closed] = [true, false].map(|way| changed(scene, &after, &before, way));
        let what = [opened.what, closed.what].concat().join("; ");
        Ok(format!("+{} -{} {what}", opened.count, closed.count))
    }

    #[test]
    fn each_step_of_the_example_takes_few_words() -> Result<()> {
        let (mut scene, policies) = scene::load()?;
        let expected = [
            "+0 -132 everyone → shop/web 8080 9090, shop/api 8080 9090, shop/db-1 5432 9090, \
             shop/cache-1 6379",
            "+24 -0 everyone → shop/web 8080",
            "+4 -0 shop/web → shop/api 8080",
            "+5 -0 shop/api, jobs/report → shop/db-1 5432; shop/api → shop/cache-1 6379",
            "+5 -0 monitoring/prometheus → shop/web 9090, shop/api 9090, shop/db-1 9090",
            "+0 -10 jobs/report, jobs/cleanup → shop/web 8080, monitoring/prometheus 8080, \
             monitoring/grafana 8080, internet 443",
        ];
        assert_eq!(policies.len(), expected.len());
        for (policy, expected) in policies.iter().zip(expected) {
            assert_eq!(summary(&mut scene, policy)?, expected, "{}", policy.name);
        }
        Ok(())
    }

    #[test]
    fn replicas_that_differ_are_named() -> Result<()> {
        let (mut scene, _) = scene::load()?;
        let text = "# Only one.\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                    metadata: {name: one, namespace: default}\n\
                    spec: {podSelector: {matchLabels: {app: dns}}, ingress: [{from: [\
                    {ipBlock: {cidr: 10.244.1.10/32}}, {ipBlock: {cidr: 10.244.2.0/23}}]}]}\n";
        let policy = PolicyFile::parse("one.yaml", text.to_owned())?;
        let expected = "+0 -4 shop/api-1 → default/dns 53/udp; jobs/report, default/shell, \
                        internet → default/dns 53/udp";
        assert_eq!(summary(&mut scene, &policy)?, expected);
        Ok(())
    }
}
