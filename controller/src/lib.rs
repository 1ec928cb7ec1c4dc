//! The node agent: from a stream of typed changes to rules in the kernel.

pub mod dataplane;
