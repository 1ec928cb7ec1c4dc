//! libFuzzer for the target that the environment variable FUZZ_TARGET names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.into_iter().find(|(name, _)| *name == wanted);
    found.map(|(_, target)| target).expect("FUZZ_TARGET names a target")
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
