//! The addresses of one object: nearly always one, which needs no memory of its own.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::slice;

/// A list of addresses in the order in which they were given.
#[derive(Clone)]
pub struct Addresses(Stored);

/// `One` for each list of one address.
#[derive(Clone)]
enum Stored {
    One(IpAddr),
    Several(Box<[IpAddr]>),
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Stored::One(address) => slice::from_ref(address),
            Stored::Several(addresses) => addresses,
        }
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl PartialEq for Addresses {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Addresses {}

impl fmt::Debug for Addresses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self(match addresses.as_slice() {
            [address] => Stored::One(*address),
            _ => Stored::Several(addresses.into()),
        })
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> IntoIterator for &'a Addresses {
    type Item = &'a IpAddr;
    type IntoIter = slice::Iter<'a, IpAddr>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_needs_no_memory_of_its_own() {
        assert_eq!(size_of::<Addresses>(), 24, "no more than a Vec");
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "fd00::1".parse().unwrap();
        for list in [vec![], vec![one], vec![one, other]] {
            let addresses = Addresses::from(list.clone());
            assert_eq!(*addresses, *list);
            assert_eq!(addresses, list.iter().copied().collect());
            assert_eq!(matches!(addresses.0, Stored::One(_)), list.len() == 1);
        }
        assert_ne!(Addresses::from(vec![one]), vec![other].into());
    }
}
