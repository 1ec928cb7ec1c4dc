//! Reads the formats of `map` back: what each of them says about every ordered pair of pods.

#![allow(clippy::panic)] // all of it is test code

use std::collections::{BTreeMap, BTreeSet};

use policy_engine::flow::Traffic;
use policy_engine::port::{PortRange, Protocol};
use policy_engine::reach::PortSet;
use serde_json::Value;

/// Source and destination, as text names them.
pub(crate) type Pair = (String, String);

/// What a format says.
#[derive(Default, Debug)]
pub(crate) struct Read {
    /// The pairs that it lists, with their ports.
    pub(crate) allowed: BTreeMap<Pair, PortSet>,
    /// Those who are in a line or title that only counts some of its names.
    pub(crate) counted: BTreeSet<String>,
}

impl Read {
    fn add(&mut self, source: &str, destination: &str, ports: &PortSet) {
        let pair = (source.to_owned(), destination.to_owned());
        self.allowed.entry(pair).or_default().add(ports);
    }

    /// Whether the format says that this is allowed; `None` when it names only some.
    pub(crate) fn allows(&self, source: &str, destination: &str, traffic: Traffic) -> Option<bool> {
        let pair = (source.to_owned(), destination.to_owned());
        let listed = self.allowed.get(&pair).is_some_and(|ports| ports.contains(traffic));
        let counted = self.counted.contains(source) || self.counted.contains(destination);
        (listed || !counted).then_some(listed)
    }
}

fn short(name: &str) -> String {
    name.replace("/pod/", "/")
}

fn protocol(name: &str) -> Protocol {
    let mut all = Protocol::ALL.into_iter();
    all.find(|protocol| protocol.as_str() == name).expect("a protocol")
}

/// `every port`, `all TCP`, `80/TCP`, `80-90/TCP`, `ICMP`.
fn ports(words: &str) -> PortSet {
    let mut set = PortSet::default();
    for word in words.split(", ") {
        match word {
            "every port" | "all" => set = PortSet::everything(),
            "ICMP" => set.add(&PortSet::of(Traffic::Other)),
            "nothing" => {}
            _ => match (word.strip_prefix("all "), word.split_once('/')) {
                (Some(name), _) => set.insert(protocol(name), PortRange::ALL),
                (None, Some((range, name))) => {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let number = |text: &str| text.parse().expect("a port");
                    let range = PortRange::new(number(first), number(last)).expect("a range");
                    set.insert(protocol(name), range);
                }
                (None, None) => panic!("{word}"),
            },
        }
    }
    set
}

/// Names, and whether all are there.
fn names(words: &str, everyone: &BTreeSet<String>) -> (BTreeSet<String>, bool) {
    let (mut found, mut all) = (BTreeSet::new(), true);
    for word in words.split(", ") {
        if word == "every pod" {
            found.extend(everyone.iter().cloned());
        } else if let Some(namespace) = word.strip_suffix('*') {
            found.extend(everyone.iter().filter(|name| name.starts_with(namespace)).cloned());
        } else if word.ends_with(" more") {
            all = false;
        } else {
            assert!(everyone.contains(word), "{word}");
            found.insert(word.to_owned());
        }
    }
    (found, all)
}

/// Text, of which the blocks are about destinations or about sources.
pub(crate) fn text(text: &str, everyone: &BTreeSet<String>, about_destinations: bool) -> Read {
    let mut read = Read::default();
    for block in text.split("\n\n").filter(|block| !block.is_empty()) {
        let (title, lines) = block.trim_end().split_once('\n').expect("a title and lines");
        if title.starts_with("external") {
            continue;
        }
        let (subjects, all_subjects) = names(title, everyone);
        if !all_subjects {
            read.counted.extend(everyone.iter().cloned());
        }
        for line in lines.lines() {
            let Some((words, peers)) = line.trim_start().split_once("  ") else { continue };
            let peers = peers.trim_start();
            let peers = peers.strip_prefix("from ").or(peers.strip_prefix("to ")).expect("a word");
            if peers.starts_with("external") {
                continue;
            }
            let (peers, all_peers) = names(peers, everyone);
            for subject in &subjects {
                if !all_peers {
                    read.counted.insert(subject.clone());
                }
                for peer in peers.iter().filter(|peer| *peer != subject) {
                    let (from, to) =
                        if about_destinations { (peer, subject) } else { (subject, peer) };
                    read.add(from, to, &ports(words));
                }
            }
        }
    }
    read
}

/// Ports in JSON.
fn json_ports(allowed: &Value) -> PortSet {
    let mut set = PortSet::default();
    for ports in allowed.as_array().expect("ports") {
        let number =
            |field: &str| u16::try_from(ports[field].as_u64().expect("a port")).expect("a port");
        let range = PortRange::new(number("from"), number("to")).expect("a range");
        set.insert(protocol(ports["protocol"].as_str().expect("a protocol")), range);
    }
    set
}

/// `-o json --by pod`.
pub(crate) fn json(text: &str) -> Read {
    let mut read = Read::default();
    let map: Value = serde_json::from_str(text).expect("JSON");
    for entry in map["entries"].as_array().expect("entries") {
        let name = |field: &str| short(entry[field].as_str().expect("a name"));
        read.add(&name("source"), &name("destination"), &json_ports(&entry["allowed"]));
    }
    read
}

/// `-o json`: groups, and edges between them. Each pair is in one edge only.
pub(crate) fn groups(text: &str) -> Read {
    let mut read = Read::default();
    let map: Value = serde_json::from_str(text).expect("JSON");
    let groups = map["groups"].as_array().expect("groups");
    for (id, group) in groups.iter().enumerate() {
        assert_eq!(group["id"], id, "groups are in the order of their numbers");
    }
    let members = |ids: &Value| -> Vec<String> {
        let number = |id: &Value| usize::try_from(id.as_u64().expect("a group")).expect("a group");
        let ids = ids.as_array().expect("groups").iter().map(number);
        // A group may consist of others.
        let of = |id: usize| match groups[id]["groups"].as_array() {
            Some(parts) => parts.iter().map(number).collect(),
            None => vec![id],
        };
        let members =
            ids.flat_map(of).flat_map(|id| groups[id]["members"].as_array().expect("members"));
        members.map(|name| short(name.as_str().expect("a name"))).collect()
    };
    for edge in map["edges"].as_array().expect("edges") {
        for source in members(&edge["from"]) {
            for destination in members(&edge["to"]).iter().filter(|name| **name != source) {
                let pair = (source.clone(), destination.clone());
                assert!(!read.allowed.contains_key(&pair), "{pair:?} is in two edges");
                read.add(&source, destination, &json_ports(&edge["allowed"]));
            }
        }
    }
    read
}

/// `-o csv`.
pub(crate) fn csv(text: &str) -> Read {
    let mut read = Read::default();
    for line in text.lines().skip(1) {
        let [from, to, name, first, last] = line.split(',').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let number = |text: &str| text.parse().expect("a port");
        let range = PortRange::new(number(first), number(last)).expect("a range");
        read.add(&short(from), &short(to), &PortSet::range(protocol(name), range));
    }
    read
}

/// `-o md`.
pub(crate) fn markdown(text: &str) -> Read {
    let mut read = Read::default();
    for line in text.lines().skip(2) {
        let [_, from, to, words, _] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        read.add(&short(from.trim()), &short(to.trim()), &ports(words.trim()));
    }
    read
}
