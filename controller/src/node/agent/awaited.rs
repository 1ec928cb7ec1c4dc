//! What the agent waits for, where it may be that nobody brings it.

use crate::dataplane::examine::Examination;
use crate::node::attach::Found;
use crate::node::conflicts::Examinations;
use crate::node::denials::Feed;
use crate::node::denials::table::Sighting;
use crate::node::local_pods::LocalPods;

/// What is found on the node next; never, where nobody looks.
pub(super) async fn examination(examinations: Option<&mut Examinations>) -> Examination {
    match examinations {
        Some(examinations) => examinations.next().await,
        None => std::future::pending().await,
    }
}

/// The interfaces of pods next time they change; never, where nobody looks.
pub(super) async fn found(local_pods: Option<&mut LocalPods>) -> Found {
    match local_pods {
        Some(local_pods) => local_pods.next().await,
        None => std::future::pending().await,
    }
}

/// The next denial; never, where denials are not logged.
pub(super) async fn next(denials: Option<&mut Feed>) -> Sighting {
    match denials {
        Some(denials) => denials.next().await,
        None => std::future::pending().await,
    }
}
