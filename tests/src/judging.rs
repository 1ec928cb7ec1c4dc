//! What property tests over pairs of pods have in common: how many worlds, which flows.

use std::net::IpAddr;

use policy_engine::flow::{Endpoint, Traffic};
use policy_engine::model::Pod;
use policy_engine::world::World;
use proptest::prelude::ProptestConfig;

use crate::worlds;

/// `cases` random worlds, unless `PROPTEST_CASES` says otherwise. The default of `proptest` is 256.
#[must_use]
pub fn config(cases: u32) -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(cases),
        failure_persistence: None,
        ..Default::default()
    }
}

/// The ports that matter, without 0: nothing can be opened to it.
pub fn traffic() -> impl Iterator<Item = Traffic> {
    worlds::traffic().into_iter().filter(|traffic| !matches!(traffic, Traffic::Port(_, 0)))
}

/// The sides as which a pod takes part in flows: one for each address that it owns.
#[must_use]
pub fn sides(world: &World, pod: &Pod) -> Vec<Endpoint> {
    let owned: Vec<IpAddr> = world.owned_addresses(pod).collect();
    let side = |address| Endpoint::Pod(pod.key.clone(), address);
    if owned.is_empty() {
        vec![side(None)]
    } else {
        owned.into_iter().map(|a| side(Some(a))).collect()
    }
}
