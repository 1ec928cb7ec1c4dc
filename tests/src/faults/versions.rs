//! An agent of another version, before and beside that of this build. `FAULTS_OTHER_AGENT` is the path of its
//! binary; without it there are no such faults.

use std::path::PathBuf;

use super::process::start_beside;
use super::row::Fault;
use super::stage::lock;
use crate::cluster::{Agent, AgentSetup};

/// The faults with an agent of another version.
pub(super) fn faults() -> Vec<Fault> {
    let Some(binary) = std::env::var_os("FAULTS_OTHER_AGENT").map(PathBuf::from) else {
        return Vec::new();
    };
    let other = move || AgentSetup { binary: Some(binary.clone()), ..AgentSetup::default() };
    let beside = other.clone();
    vec![
        Fault::new(
            "an agent of another version works instead, and is replaced",
            move |stage| stage.restart(other()),
            |stage| stage.start(AgentSetup::default()),
        ),
        Fault::new(
            "an agent of another version works beside it, without a common lock",
            move |stage| start_beside(stage, beside()),
            |stage| lock(&stage.other).take().map_or(Ok(()), Agent::terminate),
        ),
    ]
}
