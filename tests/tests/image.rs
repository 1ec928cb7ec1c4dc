//! The world of `tests/image.sh` needs every kind of set and every part of a rule that the agent writes, so that none
//! of them is first tried with the image's own tools on a user's node.
//!
//! What the agent writes at all is found by rendering every policy case with all options. A new type of set or part
//! of a rule fails here until `tests/image/` needs it too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use policy_engine::cidr::Family;
use policy_engine::compiled::{Member, SetKind, Update};
use policy_engine::engine::{Engine, Scope};
use policy_engine::model::{Change, Pod};
use policy_engine::object::{self, ObjectRef};
use policy_engine::port::Protocol;
use policy_engine::world;
use portcullis_controller::args::{Cli, Command};
use portcullis_controller::dataplane::attachment::{Attachment, Attachments, InterfaceName};
use portcullis_controller::dataplane::backend::iptables::text;
use portcullis_controller::dataplane::desired::{Desired, Wanted};
use portcullis_controller::dataplane::refusals::Refusals;
use portcullis_controller::dataplane::set::Kind;
use portcullis_controller::dataplane::{AcceptAction, DenyAction, LogGroup, Options, name};
use portcullis_crds::convert::{self, Converted};
use portcullis_crds::manifest::Manifest;
use portcullis_tests::cases::{self, Families, World};

/// The node whose agent `tests/image.sh` runs.
const NODE: &str = "n1";

/// A part of a rule with its values left out, and its family.
type Part = (Family, String);

/// What a part of a rule begins with.
const BEGINNINGS: [&str; 9] = ["!", "-s", "-d", "-i", "-o", "-p", "-m", "-j", "-g"];

/// Where the pods of an engine are: some on a bridge, some routed, some not known, as `tests/image.sh` attaches those
/// of the image's world.
fn attachments(engine: &Engine) -> Attachments {
    let name = |text: &str| InterfaceName::new(text).expect("a name of an interface");
    let mut attachments = Attachments::default();
    for address in engine.subject_addresses() {
        let last = match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let bridge = (last % 3 == 2).then(|| name("cni0"));
        let interface =
            name(&if bridge.is_some() { format!("veth{last}") } else { format!("cali{last}") });
        if last % 3 == 1 {
            attachments.unattached.insert(address);
        } else {
            attachments.addresses.insert(address, Attachment { interface, bridge });
            attachments.pod_interfaces.insert(bridge.unwrap_or(interface));
            let pod = engine.world().subject(address).expect("it is the address of a subject");
            let extra = pod.extra_source_ranges.iter().copied().collect();
            attachments.extra_ranges.insert(Attachment { interface, bridge }, extra);
        }
    }
    attachments
}

/// Calls `look` with what enforces what `engine` has compiled.
fn with_desired<T>(engine: &Engine, options: &Options, look: impl FnOnce(&Desired) -> T) -> T {
    let (attachments, refusals) = (attachments(engine), Refusals::default());
    let (compiled, attachments) = (engine.compiled(), &attachments);
    let wanted = Wanted { compiled, attachments, options, refusals: &refusals };
    look(&Desired::new(wanted, &Family::BOTH))
}

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("image")
}

/// Applies all manifests below `directory` to `engine`, and takes out what `before` had there and they have not.
fn load(
    engine: &mut Engine,
    directory: &Path,
    mut before: BTreeMap<String, BTreeSet<String>>,
) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut files: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        let manifest = Manifest::parse(&name, &fs::read_to_string(&path)?);
        ensure!(manifest.is_whole(), "{name} is no YAML");
        let mut pods = BTreeSet::new();
        for document in &manifest.documents {
            let (converted, diagnostics) = convert::document(document);
            ensure!(diagnostics.is_empty(), "{diagnostics:?}");
            let Converted::Object(change) = converted else { continue };
            if let Change::Pod(key, _) = &change {
                pods.insert(key.name.to_string());
            }
            engine.apply(change);
        }
        for gone in before.insert(name, pods.clone()).unwrap_or_default().difference(&pods) {
            let gone = ObjectRef::new(object::Kind::Pod, "peers", gone.as_str());
            engine.apply(Change::removal(gone).context("the engine knows pods")?);
        }
    }
    Ok(before)
}

/// The options that `tests/image.sh` runs the agent with: one life a line.
fn image_options() -> Result<Vec<Options>> {
    let text = fs::read_to_string(directory().join("flags"))?;
    let parse = |line: &str| {
        let words = ["portcullis", "node", "--node-name", NODE].into_iter().chain(line.split(' '));
        match Cli::try_parse_from(words)?.command {
            Command::Node(args) => Ok(args.dataplane_options()),
            other => anyhow::bail!("{other:?}"),
        }
    };
    text.lines().map(parse).collect()
}

/// Options that together have each value with each value of another one.
fn all_options() -> Vec<Options> {
    let log = Some(LogGroup::default());
    let options = [
        (DenyAction::Drop, AcceptAction::Return, log, false),
        (DenyAction::Drop, AcceptAction::Accept, None, true),
        (DenyAction::Reject, AcceptAction::Return, None, true),
        (DenyAction::Reject, AcceptAction::Accept, log, false),
    ];
    let options = options.map(|(deny, accept, denial_log, allow_egress_to_own_node)| Options {
        deny,
        accept,
        denial_log,
        allow_egress_to_own_node,
        ..Options::default()
    });
    options.into()
}

/// Adds the parts of all rules that enforce what `engine` has compiled.
fn collect(engine: &Engine, options: &[Options], found: &mut BTreeSet<Part>) {
    for options in options {
        with_desired(engine, options, |desired| {
            for (family, chains) in &desired.tables {
                let hooks: Vec<String> =
                    desired.hooks.iter().map(|hook| text::hook(*hook)).collect();
                let rules =
                    chains.values().flat_map(|rules| rules.iter()).map(text::rule).chain(hooks);
                found.extend(rules.flat_map(|rule| parts(&rule)).map(|part| (*family, part)));
            }
        });
    }
}

/// The parts that the tools read one by one (each match, each target), without the values that
/// differ from policy to policy.
fn parts(rule: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut option = "";
    for word in rule.split(' ') {
        let shown = match (option, word.strip_prefix(name::PREFIX)) {
            ("-s" | "-d", _) => "NETWORK".to_owned(),
            ("-i" | "-o" | "--physdev-in" | "--physdev-out", _) => "INTERFACE".to_owned(),
            ("--dport", _) => if word.contains(':') { "PORTS" } else { "PORT" }.to_owned(),
            ("--dports", _) => "LIST".to_owned(),
            // The letter of a set's type or a chain's kind stands before a hash.
            ("--match-set", Some(set)) => set.chars().skip(1).take(1).collect(),
            (_, Some(chain)) if chain.chars().any(char::is_lowercase) => {
                chain.chars().take(1).collect()
            }
            _ => word.to_owned(),
        };
        match parts.last_mut() {
            Some(part) if option == "!" || !BEGINNINGS.contains(&word) => {
                part.push(' ');
                part.push_str(&shown);
            }
            _ => parts.push(shown),
        }
        option = word;
    }
    parts
}

/// The types of the sets that `engine` needs, by family.
fn types(engine: &Engine) -> BTreeSet<(Family, Kind)> {
    with_desired(engine, &Options::default(), |desired| {
        desired.sets.values().map(|set| (set.family, set.kind)).collect()
    })
}

fn image_engine() -> Engine {
    Engine::new(Scope::Node(NODE.into()), world::Options::default())
}

#[test]
fn the_image_check_needs_every_type_of_set() -> Result<()> {
    let mut engine = image_engine();
    load(&mut engine, &directory().join("world"), BTreeMap::new())?;
    engine.flush();
    let all = Family::BOTH.map(|family| Kind::ALL.map(|kind| (family, kind)));
    assert_eq!(types(&engine), all.into_iter().flatten().collect());
    let options = Options { accept: AcceptAction::Accept, ..Options::default() };
    let needed: Vec<_> =
        with_desired(&engine, &options, |desired| desired.sets.keys().copied().collect());
    for family in Family::BOTH {
        for set in
            [name::local_set(family), name::attached_set(family), name::unattached_set(family)]
        {
            assert!(needed.contains(&set), "{set}");
        }
    }
    Ok(())
}

#[test]
fn the_image_check_changes_members_of_every_type_of_set_and_no_rule() -> Result<()> {
    let mut engine = image_engine();
    let before = load(&mut engine, &directory().join("world"), BTreeMap::new())?;
    engine.flush();
    load(&mut engine, &directory().join("then"), before)?;
    let Update { rules_changed, sets_changed, .. } = engine.flush();
    assert!(!rules_changed, "members change while rules stay");
    for kind in [SetKind::Addresses, SetKind::AddressPorts] {
        let of_kind = sets_changed.iter().filter(|(id, _)| engine.compiled().sets[id].kind == kind);
        let (added, removed): (Vec<_>, Vec<_>) =
            of_kind.map(|(_, delta)| (delta.added.len(), delta.removed.len())).unzip();
        let both = added.iter().sum::<usize>() > 0 && removed.iter().sum::<usize>() > 0;
        assert!(both, "{kind:?}: members join and leave");
    }
    let added = sets_changed.values().flat_map(|delta| &delta.added);
    let protocols = added.filter_map(|member| match member {
        Member::Address(_) => None,
        Member::AddressPort(_, protocol, _) => Some(*protocol),
    });
    assert_eq!(protocols.collect::<BTreeSet<_>>(), Protocol::ALL.into());
    Ok(())
}

#[test]
fn the_image_check_needs_every_part_of_a_rule() -> Result<()> {
    let mut covered = BTreeSet::new();
    let mut engine = image_engine();
    load(&mut engine, &directory().join("world"), BTreeMap::new())?;
    engine.flush();
    collect(&engine, &image_options()?, &mut covered);

    let mut needed = BTreeSet::new();
    let world = cases::world(Families::Dual)?;
    for case in cases::all()? {
        let nodes: Vec<String> = world.nodes().into_iter().filter_map(|node| node.node).collect();
        let new =
            |node: &String| Engine::new(Scope::Node(node.as_str().into()), case.options.clone());
        let mut engines: Vec<Engine> = nodes.iter().map(new).collect();
        apply(&mut engines, world.manifests().iter().flat_map(|manifest| manifest.changes().0));
        for stage in case.run(World::clone(&world))? {
            apply(&mut engines, stage.deleted.iter().cloned().filter_map(Change::removal));
            apply(&mut engines, stage.applied.iter().flat_map(|object| object.changes().0));
            for engine in &engines {
                collect(engine, &all_options(), &mut needed);
            }
        }
    }
    let missing: Vec<_> = needed.difference(&covered).collect();
    assert!(missing.is_empty(), "policies in tests/image/world must need these: {missing:#?}");
    Ok(())
}

fn apply(engines: &mut [Engine], changes: impl Iterator<Item = Change>) {
    for change in changes {
        let change = match change {
            // Any pod can have the annotation.
            Change::Pod(key, Some(pod)) => {
                let extra = ["192.0.2.0/24", "2001:db8::/64"].map(|net| net.parse().expect("CIDR"));
                let extra_source_ranges = extra.into();
                Change::Pod(key, Some(Pod { extra_source_ranges, ..Pod::clone(&pod) }.into()))
            }
            change => change,
        };
        engines.iter_mut().for_each(|engine| engine.apply(change.clone()));
    }
    for engine in engines {
        engine.flush();
    }
}
