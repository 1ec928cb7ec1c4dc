//! A few rows of the table of faults (`make faults`), so that the program that prints it works.

use anyhow::{Result, ensure};

const FAULTS: [&str; 3] = [
    "`iptables-restore` takes all, and does nothing",
    "the API server ends each watch with 410",
    "etcd is restored: resourceVersions go back, and are given again",
];

#[test]
fn promises_are_kept_during_a_few_faults() -> Result<()> {
    let _alone = crate::alone();
    let count = portcullis_tests::faults::run(|name| FAULTS.contains(&name))?;
    ensure!(count == FAULTS.len(), "{count} faults have these names");
    Ok(())
}
