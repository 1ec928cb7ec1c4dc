//! Netlink attributes as bytes. Pure.

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// The bits of a type without its flags.
const KIND: u16 = 0x3fff;
/// The header of an attribute.
const HEADER_BYTES: usize = 4;

/// Attributes, one after another.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(in crate::dataplane) struct Attributes(pub Vec<u8>);

impl Attributes {
    /// Appends an attribute.
    pub(in crate::dataplane) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(HEADER_BYTES + value.len()).expect("callers keep them short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Appends an attribute that consists of attributes.
    pub(in crate::dataplane) fn nest(self, kind: u16, inner: Self) -> Self {
        let Self(bytes) = inner;
        self.bytes(kind | NESTED, &bytes)
    }

    /// Appends a text, with the zero at its end.
    pub(in crate::dataplane) fn text(self, kind: u16, text: &str) -> Self {
        self.bytes(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends a number, as nftables has them.
    pub(in crate::dataplane) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    /// Appends a number of 64 bits.
    pub(in crate::dataplane) fn long(self, kind: u16, number: u64) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }
}

/// The attributes in `bytes`: their types and values. An attribute that is cut off is left out.
pub(in crate::dataplane) fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [a, b, c, d, ..] = *rest else { return None };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & KIND, value))
    })
}

/// The value of the first attribute of this type.
pub(in crate::dataplane) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    read(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A text without the zero at its end.
pub(in crate::dataplane) fn text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'))
}

/// A number, as nftables has them.
pub(in crate::dataplane) fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A number of 64 bits.
pub(in crate::dataplane) fn long(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_they_were_written() {
        let inner = Attributes::default().number(7, 0x0102_0304).text(1, "a");
        let all = Attributes::default().nest(3, inner).bytes(4, &[1, 2, 3]).long(5, 9).0;
        let nested = find(&all, 3).unwrap();
        assert_eq!(number(find(nested, 7).unwrap()), Some(0x0102_0304));
        assert_eq!(text(find(nested, 1).unwrap()), Some("a"));
        assert_eq!(find(&all, 4), Some([1, 2, 3].as_slice()));
        assert_eq!(long(find(&all, 5).unwrap()), Some(9));
        assert_eq!(find(&all, 6), None);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let all = Attributes::default().text(1, "first").text(2, "second").0;
        for length in 0..all.len() {
            let kinds: Vec<u16> = read(&all[..length]).map(|(kind, _)| kind).collect();
            assert!([vec![], vec![1], vec![1, 2]].contains(&kinds), "{length}: {kinds:?}");
        }
    }
}
