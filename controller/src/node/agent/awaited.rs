//! Waits for events of optional parts of the agent: without the part, a wait never returns.

use crate::dataplane::examine::Examination;
use crate::node::attach::Found;
use crate::node::conflicts::Examinations;
use crate::node::denials::Feed;
use crate::node::denials::table::Sighting;
use crate::node::local_pods::LocalPods;

/// Waits for the next examination of the node; never returns where it is not examined.
pub(super) async fn examination(examinations: Option<&mut Examinations>) -> Examination {
    match examinations {
        Some(examinations) => examinations.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until the interfaces of pods change; never returns where they are not searched.
pub(super) async fn found(local_pods: Option<&mut LocalPods>) -> Found {
    match local_pods {
        Some(local_pods) => local_pods.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next denial; never returns where denials are not logged.
pub(super) async fn next(denials: Option<&mut Feed>) -> Sighting {
    match denials {
        Some(denials) => denials.next().await,
        None => std::future::pending().await,
    }
}
