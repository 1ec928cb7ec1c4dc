//! The difference of two reachabilities says of every pair of pods, and of every address outside,
//! what `evaluate` says of the two worlds.
//!
//! `PROPTEST_CASES` sets how many random worlds; `make test` runs thousands.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy_engine::cidr::Family;
use policy_engine::direction::Direction;
use policy_engine::evaluate::evaluate_as;
use policy_engine::flow::{Endpoint, Flow, Traffic};
use policy_engine::model::{Pod, PodKey};
use policy_engine::reach::{Difference, PortSet, Reach, outside_difference};
use policy_engine::tier::View;
use policy_engine::world::{Options, World};
use portcullis_tests::judging::{config, sides, traffic};
use portcullis_tests::worlds;
use proptest::prelude::*;

/// The default of `proptest` is 256; this many run here unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 300;

/// What is enforced then, or what would be were everything enforced.
const VIEWS: [(View, View); 3] = [
    (View::Enforced, View::Enforced),
    (View::Audited, View::Audited),
    (View::Enforced, View::Audited),
];

fn pod<'w>(world: &'w World, key: &PodKey) -> Option<&'w Pod> {
    world.pods().get(key).map(AsRef::as_ref).filter(|pod| pod.takes_part())
}

/// A world by the policies of a view.
type Viewed<'w> = (&'w World, View);

/// Whether `evaluate` lets one pod connect to another by any of their addresses. A pod that is not
/// there connects to nobody.
fn evaluated(
    (world, view): Viewed<'_>,
    source: &PodKey,
    destination: &PodKey,
    traffic: Traffic,
) -> bool {
    let Some((source, destination)) = pod(world, source).zip(pod(world, destination)) else {
        return false;
    };
    let family = |side: &Endpoint| side.address().map(Family::of);
    sides(world, source).iter().any(|from| {
        sides(world, destination).iter().any(|to| {
            let meets = family(from).zip(family(to)).is_none_or(|(from, to)| from == to);
            let flow = Flow { source: from.clone(), destination: to.clone(), traffic };
            meets && evaluate_as(world, &flow, view).is_allowed()
        })
    })
}

/// What changes between any two different pods, by name.
fn changes(difference: &Difference) -> BTreeMap<(PodKey, PodKey), (PortSet, PortSet)> {
    let mut found = BTreeMap::new();
    for pair in difference.changes() {
        for source in &difference.groups[pair.source].pods {
            for destination in &difference.groups[pair.destination].pods {
                let key = (source.clone(), destination.clone());
                let known = found.insert(key, (pair.before.clone(), pair.after.clone()));
                assert_eq!(known, None, "one change for each pair");
            }
        }
    }
    found
}

fn check_pods(
    before: Viewed<'_>,
    after: Viewed<'_>,
    found: &Difference,
) -> Result<(), TestCaseError> {
    let changes = changes(found);
    let pods: Vec<&PodKey> = found.groups.iter().flat_map(|group| &group.pods).collect();
    for (world, _) in [before, after] {
        for key in world.pods().keys().filter(|key| pod(world, key).is_some()) {
            prop_assert!(pods.contains(&key), "{} is in no group", key);
        }
    }
    for source in &pods {
        for destination in pods.iter().filter(|key| key != &source) {
            let change = changes.get(&((*source).clone(), (*destination).clone()));
            for traffic in traffic() {
                let was = evaluated(before, source, destination, traffic);
                let is = evaluated(after, source, destination, traffic);
                let told = change.map(|(old, new)| (old.contains(traffic), new.contains(traffic)));
                // What is not told of has not changed.
                let (old, new) = told.unwrap_or((is, was));
                prop_assert_eq!((old, new), (was, is), "{}→{} {}", source, destination, traffic);
            }
        }
    }
    Ok(())
}

/// Whether `evaluate` lets a pod connect to an address outside, or the other way.
fn evaluated_outside(
    (world, view): Viewed<'_>,
    key: &PodKey,
    direction: Direction,
    address: IpAddr,
    traffic: Traffic,
) -> bool {
    let Some(pod) = pod(world, key) else { return false };
    // Which of its addresses takes part makes no difference to what is outside.
    let side = Endpoint::Pod(pod.key.clone(), None);
    let outside = Endpoint::External(address);
    let (source, destination) = match direction {
        Direction::Ingress => (outside, side),
        Direction::Egress => (side, outside),
    };
    evaluate_as(world, &Flow { source, destination, traffic }, view).is_allowed()
}

fn check_outside(
    (before, old): (Viewed<'_>, &Reach<'_>),
    (after, new): (Viewed<'_>, &Reach<'_>),
    found: &Difference,
) -> Result<(), TestCaseError> {
    for group in &found.groups {
        for direction in Direction::BOTH {
            let was = group.outside_before(old, direction);
            let is = group.outside_after(new, direction);
            let pieces = outside_difference(&was, &is);
            for address in worlds::addresses() {
                let mut holding = pieces.iter().filter(|piece| piece.addresses.contains(address));
                let piece = holding.next();
                prop_assert!(holding.next().is_none(), "pieces do not overlap");
                prop_assert!(piece.is_none_or(|piece| piece.before != piece.after));
                for (traffic, key) in traffic().flat_map(|t| group.pods.iter().map(move |k| (t, k)))
                {
                    let was = evaluated_outside(before, key, direction, address, traffic);
                    let is = evaluated_outside(after, key, direction, address, traffic);
                    let told = piece.map(|piece| {
                        (piece.before.contains(traffic), piece.after.contains(traffic))
                    });
                    // What is not told of has not changed.
                    let (old, new) = told.unwrap_or((is, was));
                    prop_assert_eq!((old, new), (was, is), "{} {} {}", key, address, traffic);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn a_plan_is_the_difference_of_two_maps(
        history in worlds::history(0..30),
        changes in worlds::history(0..6),
        allow_egress_to_own_node in any::<bool>(),
        views in prop::sample::select(VIEWS.to_vec()),
    ) {
        let mut before = World::new(Options { allow_egress_to_own_node, ..Options::default() });
        history.into_iter().for_each(|change| before.apply(change));
        let mut after = before.clone();
        changes.into_iter().for_each(|change| after.apply(change));
        let (before, after) = ((&before, views.0), (&after, views.1));
        let (old, new) = (Reach::new_as(before.0, before.1), Reach::new_as(after.0, after.1));
        let found = Difference::new(&old, &new);
        check_pods(before, after, &found)?;
        check_outside((before, &old), (after, &new), &found)?;
    }
}
