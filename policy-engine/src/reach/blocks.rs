//! Numbers the sets of blocks that contain an address: the same blocks have the same number.
//!
//! ```text
//! block 1   ├───────────────┤
//! block 2        ├───┤
//! part      0  1   2   1    0     the number of {}, {1}, {1, 2}
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::atoms::{AtomId, Atoms, Interned};
use crate::cidr::{CidrSet, Family};

/// The number of a set of blocks: equal sets have equal numbers.
pub(super) type BlockSetId = usize;

/// The address space, cut wherever a block begins or ends.
pub(super) struct BlockSets {
    /// The first address of each part.
    parts: BTreeMap<IpAddr, BlockSetId>,
}

impl BlockSets {
    pub(super) fn new(atoms: &Atoms) -> Self {
        let mut ends: BTreeMap<IpAddr, Vec<AtomId>> = BTreeMap::new();
        let mut blocks = 0;
        for (id, block) in atoms.blocks() {
            blocks = id + 1;
            for (first, behind) in CidrSet::from(block).spans() {
                for end in [Some(first), behind].into_iter().flatten() {
                    ends.entry(end).or_default().push(id);
                }
            }
        }
        let mut sets = Sets { pairs: Interned::default() };
        let depth = usize::BITS - blocks.leading_zeros();
        let mut parts = BTreeMap::new();
        for family in Family::BOTH {
            let mut set = NO_BLOCK;
            for (end, ids) in ends.iter().filter(|(end, _)| Family::of(**end) == family) {
                set = ids.iter().fold(set, |set, id| sets.toggle(set, depth, *id));
                parts.insert(*end, set);
            }
        }
        Self { parts }
    }

    /// The blocks that contain `address`.
    pub(super) fn of(&self, address: IpAddr) -> BlockSetId {
        let before = self.parts.range(..=address).next_back();
        let own = before.filter(|(first, _)| Family::of(**first) == Family::of(address));
        own.map_or(NO_BLOCK, |(_, set)| *set)
    }
}

/// The number of the set without blocks.
pub(super) const NO_BLOCK: BlockSetId = 0;

/// The set of the only block, where sets of one block are not cut further.
const BLOCK: BlockSetId = 1;

/// Sets of blocks as trees of pairs of halves. Equal trees have one number, so a set that differs
/// from another one in one block costs as much as the tree is deep.
struct Sets {
    pairs: Interned<(BlockSetId, BlockSetId)>,
}

impl Sets {
    /// `set`, which has 2^`depth` places, with the block added or removed.
    fn toggle(&mut self, set: BlockSetId, depth: u32, block: AtomId) -> BlockSetId {
        let Some(below) = depth.checked_sub(1) else { return BLOCK - set };
        let (mut left, mut right) = match set.checked_sub(2) {
            Some(pair) => *self.pairs.get(pair),
            None => (NO_BLOCK, NO_BLOCK),
        };
        let half = 1 << below;
        if block < half {
            left = self.toggle(left, below, block);
        } else {
            right = self.toggle(right, below, block - half);
        }
        if (left, right) == (NO_BLOCK, NO_BLOCK) {
            return NO_BLOCK;
        }
        self.pairs.number(&(left, right)) + 2
    }
}
