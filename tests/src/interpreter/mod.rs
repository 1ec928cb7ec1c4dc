//! Judges packets by the text of `iptables-save` and `ipset save`.
