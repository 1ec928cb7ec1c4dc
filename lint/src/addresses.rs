//! Addresses that pods of two nodes claim.

use policy_engine::world::owner::Contest;
use portcullis_crds::diagnostic::{About, Origin};
use portcullis_crds::path::FieldPath;

use crate::{Code, Context, Finding};

/// One finding for each contested address, about the first of its pods.
pub(super) fn contested<'c>(context: &'c Context<'_>) -> impl Iterator<Item = Finding> + 'c {
    context.world.contests().map(|contest| finding(context, &contest))
}

fn finding(context: &Context<'_>, found: &Contest) -> Finding {
    let [(first, _), (second, _)] = &found.pods;
    let origin = |pod| -> Option<Origin> { context.input.names.get(pod)?.origin.clone() };
    let message = format!("{found}; delete the pod that does not have the address");
    let finding = Finding::new(
        Code::ContestedAddress,
        About::Object(first.into()),
        FieldPath::new(["status", "podIPs"]),
        message,
    );
    let related = origin(second).map(|origin| (origin, "the other pod".to_owned()));
    Finding { origin: origin(first), related: related.into_iter().collect(), ..finding }
}
