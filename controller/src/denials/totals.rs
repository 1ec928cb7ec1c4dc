//! From counters of the kernel, which start over with their chains, to numbers that only grow.

use std::collections::BTreeMap;

use crate::dataplane::denial::Denial;

/// Packets of each kind of denial. What the kernel counted before the agent started is among
/// them: its chains outlive agents.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    /// What the kernel's counters said last.
    last: BTreeMap<Denial, u64>,
    packets: BTreeMap<Denial, u64>,
}

impl Totals {
    /// Takes in what the counters say now; gives what is new.
    pub fn read(&mut self, now: BTreeMap<Denial, u64>) -> Vec<(Denial, u64)> {
        let mut news = Vec::new();
        for (denial, packets) in &now {
            let before = self.last.get(denial).copied().unwrap_or_default();
            // Fewer than before: the chain was written anew, and counts from 0.
            let new = packets.checked_sub(before).unwrap_or(*packets);
            if new > 0 {
                let total = self.packets.entry(*denial).or_default();
                *total = total.saturating_add(new);
                news.push((*denial, new));
            }
        }
        self.last = now;
        news
    }

    /// All kinds of which there were any, with their packets.
    pub fn all(&self) -> impl Iterator<Item = (Denial, u64)> {
        self.packets.iter().map(|(denial, packets)| (*denial, *packets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_grow_when_the_kernel_starts_over() {
        let kinds: Vec<Denial> = Denial::all().collect();
        let mut totals = Totals::default();
        let mut read = |counters: &[u64]| {
            let counters = kinds.iter().copied().zip(counters.iter().copied()).collect();
            let news: Vec<u64> = totals.read(counters).into_iter().map(|(_, new)| new).collect();
            (news, totals.all().map(|(_, packets)| packets).collect::<Vec<_>>())
        };
        assert_eq!(read(&[5, 0]), (vec![5], vec![5]), "chains outlive agents");
        assert_eq!(read(&[5, 0]), (vec![], vec![5]));
        assert_eq!(read(&[7, 1]), (vec![2, 1], vec![7, 1]));
        assert_eq!(read(&[3, 1]), (vec![3], vec![10, 1]), "the first chain is another one");
        assert_eq!(read(&[]), (vec![], vec![10, 1]), "none is needed now");
        assert_eq!(read(&[3, 1]), (vec![3, 1], vec![13, 2]), "and they are back");
    }
}
