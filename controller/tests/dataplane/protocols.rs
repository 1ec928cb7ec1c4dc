//! Protocols without `/etc/protocols` and `/etc/services`, which minimal images lack: what is written is accepted
//! and reads back the same, and a host that has these files reads the same.

use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use policy_engine::compiled::{Match, Update};
use policy_engine::direction::Direction;
use policy_engine::port::Protocol;
use portcullis_controller::dataplane::{AcceptAction, Dataplane, DenyAction, Options};

use crate::VARIANTS;
use crate::netns::Netns;
use crate::rules::every_shape;
use crate::world::{rules_changed, service, settle};

/// Hides the files from this thread and the processes that it starts.
fn hide_names() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(&["--make-rprivate", "/"]);
    for file in ["/etc/protocols", "/etc/services"] {
        if Path::new(file).exists() {
            mount(&["--bind", "/dev/null", file]);
        }
    }
}

fn mount(arguments: &[&str]) {
    assert!(Command::new("mount").args(arguments).status().unwrap().success());
}

#[test]
fn nothing_needs_names_of_protocols_and_no_host_sees_a_difference() {
    for variant in VARIANTS {
        let mut world = every_shape();
        let ports = Protocol::ALL.map(|protocol| service("10.1.0.7", protocol, 80));
        let set = world.set("changing", [service("10.1.0.8", Protocol::Tcp, 80)]);
        let rules = vec![Match::PeerPorts { set }];
        let id = world.ruleset(Direction::Ingress, rules);
        world.endpoint("10.1.0.40".parse().unwrap(), id);
        let options = Options {
            variant,
            deny: DenyAction::Reject,
            accept: AcceptAction::Accept,
            ..Options::default()
        };
        let open = || Dataplane::open(options.clone()).unwrap();
        let node = Netns::new();
        node.enter(|| {
            hide_names();
            let mut dataplane = open();
            settle(&mut dataplane, &world.compiled, &rules_changed()).unwrap();
            let removed = [service("10.1.0.8", Protocol::Tcp, 80)];
            let update = world.change(set, &ports, &removed);
            let report = settle(&mut dataplane, &world.compiled, &update).unwrap();
            assert_eq!((report.members_changed, report.chains_changed), (4, 0));
            assert_eq!(dataplane.verify(&world.compiled).unwrap(), [], "{variant:?}");
        });
        // The host's own files are there again.
        node.enter(|| {
            let report = settle(&mut open(), &world.compiled, &Update::default()).unwrap();
            assert!(report.wrote_nothing(), "{variant:?} {report:?}");
            assert_eq!(open().verify(&world.compiled).unwrap(), [], "{variant:?}");
        });
    }
}
