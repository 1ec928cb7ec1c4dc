//! The parsers of the tools' output, for tests with any text. Only tests use this module.

use super::{read, sets};
use crate::dataplane::options::TableName;
use crate::dataplane::rule::Chains;

/// Reads `text` as what `iptables-save` prints.
pub fn read_table(text: &str) {
    let _ = read::parse_table(text, TableName::Mangle, &Chains::new());
    let _ = read::parse_hooks(text);
    let _ = read::parse_counts(text);
}

/// Reads `text` as what `ipset list -name` and `ipset save` print.
pub fn read_sets(text: &str) {
    let words: String = text.split(' ').flat_map(|word| [word, "\n"]).collect();
    let _ = sets::parse_sets(text, &sets::own_names(&words));
}
