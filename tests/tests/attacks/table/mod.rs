//! The attacks, by what they try. What a policy allows is among them: it has to pass.

mod addresses;
mod allowed;
mod links;
mod parts;
mod paths;
mod protocols;
pub(crate) mod ranges;
mod tcp;

use crate::attack::Attack;

/// All of them.
pub(crate) fn all() -> Vec<Attack> {
    let groups = [
        tcp::attacks(),
        parts::attacks(),
        protocols::attacks(),
        addresses::attacks(),
        links::attacks(),
        paths::attacks(),
        ranges::attacks(),
        allowed::attacks(),
    ];
    groups.into_iter().flatten().collect()
}

/// Those that need no address of a pod but the link-local one that every link has.
pub(crate) fn link_local() -> Vec<Attack> {
    links::link_local_sockets()
}
