//! Exact sets of addresses: unions and differences of networks, in canonical form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::policy::IpBlock;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in canonical order.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

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
    v4: Ranges,
    v6: Ranges,
}

impl CidrSet {
    /// Every address of both families.
    #[must_use]
    pub fn everything() -> Self {
        Self { v4: Ranges(vec![(0, u128::from(u32::MAX))]), v6: Ranges(vec![(0, u128::MAX)]) }
    }

    /// The addresses of one network.
    #[must_use]
    pub fn network(net: IpNet) -> Self {
        let range = Ranges(vec![(number(net.network()), number(net.broadcast()))]);
        match Family::of(net.addr()) {
            Family::V4 => Self { v4: range, v6: Ranges::default() },
            Family::V6 => Self { v4: Ranges::default(), v6: range },
        }
    }

    /// Whether there is no address in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }

    /// Whether every address of both families is in it.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        Family::BOTH.iter().all(|family| self.is_whole(*family))
    }

    /// Whether every address of `family` is in it.
    #[must_use]
    pub fn is_whole(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.0 == [(0, u128::from(u32::MAX))],
            Family::V6 => self.v6.0 == [(0, u128::MAX)],
        }
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges(Family::of(address)).contains(number(address))
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { v4: self.v4.union(&other.v4), v6: self.v6.union(&other.v6) }
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self { v4: self.v4.difference(&other.v4), v6: self.v6.difference(&other.v6) }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&self.difference(other))
    }

    /// The addresses of one family.
    #[must_use]
    pub fn of_family(&self, family: Family) -> Self {
        match family {
            Family::V4 => Self { v4: self.v4.clone(), v6: Ranges::default() },
            Family::V6 => Self { v4: Ranges::default(), v6: self.v6.clone() },
        }
    }

    /// The fewest networks that cover the set's addresses of one family, ascending.
    #[must_use]
    pub fn networks(&self, family: Family) -> Vec<IpNet> {
        let ranges = &self.ranges(family).0;
        match family {
            Family::V4 => ranges
                .iter()
                .flat_map(|&(first, last)| Ipv4Subnets::new(v4(first), v4(last), 0))
                .map(IpNet::V4)
                .collect(),
            Family::V6 => ranges
                .iter()
                .flat_map(|&(first, last)| Ipv6Subnets::new(v6(first), v6(last), 0))
                .map(IpNet::V6)
                .collect(),
        }
    }

    fn ranges(&self, family: Family) -> &Ranges {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl From<&IpBlock> for CidrSet {
    fn from(block: &IpBlock) -> Self {
        block
            .except
            .iter()
            .fold(Self::network(block.cidr), |set, net| set.difference(&Self::network(*net)))
    }
}

/// Inclusive ranges: ascending, disjoint, never adjacent.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    fn contains(&self, address: u128) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= address);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|&(_, last)| address <= last)
    }

    fn union(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn difference(&self, other: &Self) -> Self {
        let mut rest = Vec::with_capacity(self.0.len());
        let mut cuts = other.0.iter().copied().peekable();
        for (mut first, last) in self.0.iter().copied() {
            let mut swallowed = false;
            while let Some(&(cut_first, cut_last)) = cuts.peek() {
                if cut_first > last {
                    break;
                }
                if cut_last >= first {
                    if cut_first > first {
                        rest.push((first, cut_first - 1));
                    }
                    if cut_last >= last {
                        // This cut may reach into the next range: it stays.
                        swallowed = true;
                        break;
                    }
                    first = cut_last + 1;
                }
                cuts.next();
            }
            if !swallowed {
                rest.push((first, last));
            }
        }
        Self(rest)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn v4(number: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn v6(number: u128) -> Ipv6Addr {
    Ipv6Addr::from(number)
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
    }
}
