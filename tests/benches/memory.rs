//! The memory of an agent at 100,000 pods and 10,000 policies, with hostile objects and faults.
//!
//! `make bench-memory`

fn main() -> anyhow::Result<()> {
    portcullis_tests::faults::memory::run()
}
