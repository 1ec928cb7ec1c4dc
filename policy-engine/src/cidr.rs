//! Exact sets of addresses: unions and differences of networks, in canonical form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use crate::policy::IpBlock;
use crate::ranges::{Range, Ranges, Step as _};

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in canonical order.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `IPv4` or `IPv6`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family that [`Family::as_str`] calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|family| family.as_str() == name)
    }

    /// The family of `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A set of addresses of both families. Equal sets are equal values, however they were built.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct CidrSet {
    v4: Ranges<Ipv4Addr>,
    v6: Ranges<Ipv6Addr>,
}

impl CidrSet {
    /// Every address of both families.
    #[must_use]
    pub fn everything() -> Self {
        Self { v4: Range::ALL.into(), v6: Range::ALL.into() }
    }

    /// The addresses of one network.
    #[must_use]
    pub fn network(net: IpNet) -> Self {
        let mut set = Self::default();
        set.insert(net);
        set
    }

    /// Whether the set has no addresses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// How many ranges of adjacent addresses the set has.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.v4.iter().len() + self.v6.iter().len()
    }

    /// Whether the set has every address of both families.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        Family::BOTH.iter().all(|family| self.is_whole(*family))
    }

    /// Whether the set has every address of `family`.
    #[must_use]
    pub fn is_whole(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.is(Range::ALL),
            Family::V6 => self.v6.is(Range::ALL),
        }
    }

    /// Whether `address` is in the set.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.contains(address),
            IpAddr::V6(address) => self.v6.contains(address),
        }
    }

    /// Adds the addresses of one network.
    pub fn insert(&mut self, net: IpNet) {
        match net {
            IpNet::V4(net) => self.v4.insert(range_v4(net)),
            IpNet::V6(net) => self.v6.insert(range_v6(net)),
        }
    }

    /// Adds the addresses of another set.
    pub fn add(&mut self, other: &Self) {
        self.v4.add(&other.v4);
        self.v6.add(&other.v6);
    }

    /// The addresses that are in this set, in `other` or in both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        union.add(other);
        union
    }

    /// The addresses that are in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self { v4: self.v4.difference(&other.v4), v6: self.v6.difference(&other.v6) }
    }

    /// The addresses that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { v4: self.v4.intersection(&other.v4), v6: self.v6.intersection(&other.v6) }
    }

    /// The addresses of one family.
    #[must_use]
    pub fn of_family(&self, family: Family) -> Self {
        match family {
            Family::V4 => Self { v4: self.v4.clone(), v6: Ranges::default() },
            Family::V6 => Self { v4: Ranges::default(), v6: self.v6.clone() },
        }
    }

    /// The ranges of adjacent addresses, ascending: the first address of each, and the one behind the
    /// last unless that is the highest of its family.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (IpAddr, Option<IpAddr>)> {
        let v4 = self.v4.iter().map(|r| (r.first.into(), r.last.after().map(IpAddr::from)));
        let v6 = self.v6.iter().map(|r| (r.first.into(), r.last.after().map(IpAddr::from)));
        v4.chain(v6)
    }

    /// How many networks [`CidrSet::networks`] returns for both families together. Does not list
    /// them: one range of IPv6 can be 250 networks.
    #[must_use]
    pub fn count_networks(&self) -> usize {
        let v4 = self.v4.iter().map(|r| [r.first, r.last].map(|end| u128::from(end.to_bits())));
        let v6 = self.v6.iter().map(|r| [r.first, r.last].map(Ipv6Addr::to_bits));
        v4.chain(v6).map(|[first, last]| networks_between(first, last)).sum()
    }

    /// The fewest networks that cover the set's addresses of one family, ascending.
    #[must_use]
    pub fn networks(&self, family: Family) -> Vec<IpNet> {
        match family {
            Family::V4 => {
                let nets = self.v4.iter().flat_map(|r| Ipv4Subnets::new(r.first, r.last, 0));
                nets.map(IpNet::V4).collect()
            }
            Family::V6 => {
                let nets = self.v6.iter().flat_map(|r| Ipv6Subnets::new(r.first, r.last, 0));
                nets.map(IpNet::V6).collect()
            }
        }
    }
}

impl FromIterator<IpNet> for CidrSet {
    /// The addresses of all networks. Takes as long as sorting them.
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(net) => v4.push(range_v4(net)),
                IpNet::V6(net) => v6.push(range_v6(net)),
            }
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}

impl<'s> FromIterator<&'s CidrSet> for CidrSet {
    /// The addresses that are in any of the sets. Takes as long as sorting their ranges.
    fn from_iter<I: IntoIterator<Item = &'s Self>>(sets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for set in sets {
            v4.extend(set.v4.iter().copied());
            v6.extend(set.v6.iter().copied());
        }
        Self { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}

impl From<&IpBlock> for CidrSet {
    fn from(block: &IpBlock) -> Self {
        Self::network(block.cidr).difference(&block.except.iter().copied().collect())
    }
}

/// The fewest networks that cover the addresses from `first` to `last`.
///
/// Below the highest bit in which the two differ, the networks are on both sides of one address:
/// their sizes are the bits of the distances to it.
fn networks_between(first: u128, last: u128) -> usize {
    let Some(bit) = (first ^ last).checked_ilog2() else { return 1 };
    let below = (1 << bit) - 1;
    let (before, after) = (first & below, last & below);
    if before == 0 && after == below {
        return 1;
    }
    ((below - before + 1).count_ones() + (after + 1).count_ones()) as usize
}

fn range_v4(net: Ipv4Net) -> Range<Ipv4Addr> {
    Range { first: net.network(), last: net.broadcast() }
}

fn range_v6(net: Ipv6Net) -> Range<Ipv6Addr> {
    Range { first: net.network(), last: net.broadcast() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(cidr: &str, except: &[&str]) -> CidrSet {
        let except = except.iter().map(|net| net.parse().unwrap()).collect();
        CidrSet::from(&IpBlock { cidr: cidr.parse().unwrap(), except })
    }

    fn shown(set: &CidrSet) -> String {
        let nets = Family::BOTH.into_iter().flat_map(|family| set.networks(family));
        nets.map(|net| net.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_except_splits_its_block() {
        let set = block("10.0.0.0/30", &["10.0.0.1/32"]);
        assert_eq!(shown(&set), "10.0.0.0/32 10.0.0.2/31");
    }

    #[test]
    fn another_block_gives_back_what_an_except_took() {
        let set = block("10.0.0.0/8", &["10.1.0.0/16"]).union(&block("10.1.0.0/16", &[]));
        assert_eq!(shown(&set), "10.0.0.0/8");
    }

    #[test]
    fn two_halves_are_everything() {
        let v4 = block("0.0.0.0/1", &[]).union(&block("128.0.0.0/1", &[]));
        assert!(v4.is_whole(Family::V4) && !v4.is_whole(Family::V6));
        assert!(v4.union(&block("::/0", &[])).is_everything());
        assert_eq!(shown(&CidrSet::everything()), "0.0.0.0/0 ::/0");
    }

    #[test]
    fn an_except_of_the_whole_block_leaves_nothing() {
        assert!(block("10.0.0.0/24", &["10.0.0.0/8"]).is_empty());
    }

    /// Sets over 16 addresses, so that members can be counted one by one.
    fn small_net() -> impl Strategy<Value = CidrSet> {
        (0..16_u8, 28..=32_u8).prop_map(|(host, length)| {
            let net = IpNet::new(IpAddr::from([10, 0, 0, host]), length).unwrap();
            CidrSet::network(net.trunc())
        })
    }

    fn members(set: &CidrSet) -> Vec<u8> {
        (0..32).filter(|host| set.contains(IpAddr::from([10, 0, 0, *host]))).collect()
    }

    proptest! {
        #[test]
        fn operations_agree_with_counting(
            left in prop::collection::vec(small_net(), 0..5),
            right in prop::collection::vec(small_net(), 0..5),
        ) {
            let fold = |nets: &[CidrSet]| {
                nets.iter().fold(CidrSet::default(), |set, net| set.union(net))
            };
            let (a, b) = (fold(&left), fold(&right));
            for host in 0..32_u8 {
                let address = IpAddr::from([10, 0, 0, host]);
                let (in_a, in_b) = (a.contains(address), b.contains(address));
                let listed = left.iter().any(|net| net.contains(address));
                prop_assert_eq!(in_a, listed);
                prop_assert_eq!(a.union(&b).contains(address), in_a || in_b);
                prop_assert_eq!(a.difference(&b).contains(address), in_a && !in_b);
                prop_assert_eq!(a.intersection(&b).contains(address), in_a && in_b);
            }
            let rebuilt = a.networks(Family::V4).into_iter()
                .fold(CidrSet::default(), |set, net| set.union(&CidrSet::network(net)));
            prop_assert_eq!(&rebuilt, &a);
            prop_assert_eq!(members(&a.difference(&b).union(&b)), members(&a.union(&b)));
        }

        #[test]
        fn networks_are_counted_as_they_are_listed(first in any::<u128>(), bits in 0..=128_u32, more in any::<u128>()) {
            let more = more.checked_shr(bits).unwrap_or(0);
            let ends = [first, first.saturating_add(more), u128::MAX].map(Ipv6Addr::from);
            for (first, last) in [(ends[0], ends[1]), (ends[0], ends[2]), (Ipv6Addr::UNSPECIFIED, ends[1])] {
                let set = CidrSet { v6: Range { first, last }.into(), ..CidrSet::default() };
                prop_assert_eq!(set.count_networks(), set.networks(Family::V6).len());
            }
        }
    }
}
