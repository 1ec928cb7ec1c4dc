//! Steps that tests count. A bound on them bounds what a policy costs, on every machine.

#[cfg(test)]
use std::cell::Cell;

/// A kind of work whose number one policy could multiply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// A peer was compared with the labels of a pod.
    Compare,
    /// A peer was added to a union of peers.
    Join,
    /// An item was hashed for the name of a set.
    Name,
}

#[cfg(test)]
thread_local! {
    static DONE: [Cell<usize>; 3] = const { [Cell::new(0), Cell::new(0), Cell::new(0)] };
}

/// Counts steps; does nothing outside of tests.
#[cfg_attr(not(test), allow(unused_variables))]
pub(crate) fn done(work: Work, count: usize) {
    #[cfg(test)]
    DONE.with(|done| {
        let of_kind = &done[work as usize];
        of_kind.set(of_kind.get() + count);
    });
}

/// The steps of this thread since the last call.
#[cfg(test)]
pub(crate) fn take() -> [usize; 3] {
    DONE.with(|done| [done[0].take(), done[1].take(), done[2].take()])
}
