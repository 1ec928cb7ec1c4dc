//! How long the change of one tenant takes while another tenant makes large sets.
//!
//! `make bench-large-sets`

fn main() -> anyhow::Result<()> {
    portcullis_tests::faults::large_sets::run()
}
