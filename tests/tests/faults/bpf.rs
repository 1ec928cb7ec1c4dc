//! A BPF program that passes every packet, as an object file that `ip` and `tc` load. It is put
//! together here, so that no compiler for BPF is needed.

/// `r0 = VERDICT; exit`, in `section`, as a function named `name`.
pub(crate) fn object(section: &str, name: &str, verdict: i32) -> Vec<u8> {
    let mut program = vec![0xb7, 0, 0, 0];
    program.extend(verdict.to_le_bytes());
    program.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    let mut strings = Strings(vec![0]);
    let [section, license, symtab, strtab, name] =
        [section, "license", ".symtab", ".strtab", name].map(|name| strings.add(name));
    // A first symbol that is empty; then the function: global, in section 1.
    let mut symbols = vec![0; 24];
    symbols.extend(name.to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend(0_u64.to_le_bytes());
    symbols.extend(16_u64.to_le_bytes());

    // Name, type, flags, link, info, alignment, size of an entry.
    let sections: [([u64; 7], &[u8]); 4] = [
        ([section.into(), 1, 6, 0, 0, 8, 0], &program),
        ([license.into(), 1, 3, 0, 0, 1, 0], b"GPL\0"),
        ([symtab.into(), 2, 0, 4, 1, 8, 24], &symbols),
        ([strtab.into(), 3, 0, 0, 0, 1, 0], &strings.0),
    ];
    let mut body = Vec::new();
    let mut headers = vec![0; 64];
    for ([name, kind, flags, link, info, align, entry], bytes) in sections {
        body.resize(body.len().next_multiple_of(8), 0);
        let (offset, size) = (64 + body.len() as u64, bytes.len() as u64);
        body.extend(bytes);
        headers.extend(&name.to_le_bytes()[..4]);
        headers.extend(&kind.to_le_bytes()[..4]);
        headers.extend([flags, 0, offset, size].map(u64::to_le_bytes).as_flattened());
        headers.extend(&link.to_le_bytes()[..4]);
        headers.extend(&info.to_le_bytes()[..4]);
        headers.extend([align, entry].map(u64::to_le_bytes).as_flattened());
    }
    body.resize(body.len().next_multiple_of(8), 0);

    // 64 bits, little-endian, relocatable, for BPF (247).
    let mut object = b"\x7fELF\x02\x01\x01".to_vec();
    object.resize(16, 0);
    object.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    let section_headers = 64 + body.len() as u64;
    object.extend([0, 0, section_headers].map(u64::to_le_bytes).as_flattened());
    // No flags; sizes of headers; five sections, the fourth of which holds names.
    let tail: [u16; 8] = [0, 0, 64, 0, 0, 64, 5, 4];
    object.extend(tail.map(u16::to_le_bytes).as_flattened());
    [object, body, headers].concat()
}

/// Names, each ended by a zero byte.
struct Strings(Vec<u8>);

impl Strings {
    /// Adds a name; gives where it begins.
    fn add(&mut self, name: &str) -> u32 {
        let at = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.extend(name.as_bytes());
        self.0.push(0);
        at
    }
}
