//! Runs the scripts of many sets, so that one which `ipset` refuses does not stop the others.
//!
//! All scripts are one run. If it fails, each half is a run of its own, and so on, until the sets are
//! known whose scripts fail alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Error;
use super::process;
use crate::dataplane::name::SetName;

/// How long a run may take. `ipset` waits for no lock, and adds a million members within 2 s.
const RUN_LIMIT: Duration = Duration::from_secs(20);

/// How long a run may take after one that has failed, or that did not end the last time.
const HALF_LIMIT: Duration = Duration::from_secs(5);

/// So long after the first failure, sets that were not tried yet are refused as well.
const HALVES_LIMIT: Duration = Duration::from_secs(10);

/// Runs these scripts; gives the sets that were refused, and why. `has_hung` is whether the tool did not
/// end the last time: then it gets less time.
pub(super) fn run(
    scripts: &[(SetName, String)],
    has_hung: &mut bool,
) -> BTreeMap<SetName, Arc<str>> {
    isolate(scripts, has_hung, |script, limit| {
        process::run("ipset", &["-exist", "restore"], script, limit).map(drop)
    })
}

fn isolate(
    scripts: &[(SetName, String)],
    has_hung: &mut bool,
    mut run: impl FnMut(&str, Duration) -> Result<(), Error>,
) -> BTreeMap<SetName, Arc<str>> {
    let mut limit = if *has_hung { HALF_LIMIT } else { RUN_LIMIT };
    let mut run = |script: &str, limit| {
        let done = run(script, limit);
        *has_hung = matches!(done, Err(Error::TimedOut { .. }));
        done
    };
    let mut refused = BTreeMap::new();
    let mut groups = vec![scripts];
    let mut end = None;
    while let Some(group) = groups.pop() {
        let script: String = group.iter().map(|(_, script)| script.as_str()).collect();
        let Err(mut error) = run(&script, limit) else { continue };
        limit = HALF_LIMIT;
        let is_first = end.is_none();
        let end = *end.get_or_insert_with(|| Instant::now() + HALVES_LIMIT);
        // If it cannot even do nothing, it is not because of a set.
        let broken = if is_first { run("", limit).err() } else { None };
        let is_over = broken.is_some() || Instant::now() >= end;
        error = broken.unwrap_or(error);
        if let ([_, _, ..], false) = (group, is_over) {
            let (first, second) = group.split_at(group.len() / 2);
            groups.extend([second, first]);
            continue;
        }
        let why: Arc<str> = error.to_string().into();
        let untried = if is_over { std::mem::take(&mut groups) } else { Vec::new() };
        for (set, _) in untried.into_iter().chain([group]).flatten() {
            refused.insert(*set, why.clone());
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use proptest::prelude::*;

    use super::*;

    fn name(number: usize) -> SetName {
        SetName::parse(&format!("PORTCULLIS-{number}")).unwrap()
    }

    fn failed() -> Error {
        let (command, stderr) = ("ipset".to_owned(), "no".to_owned());
        Error::Failed { command, status: ExitStatus::from_raw(256), stderr }
    }

    /// Which of `count` sets are refused, the runs, and the sets that were done, where `run` says what
    /// becomes of a script with these sets.
    fn check(
        count: usize,
        run: impl Fn(&[usize], Duration) -> Result<(), Error>,
    ) -> (Vec<usize>, usize, Vec<usize>) {
        let scripts: Vec<_> = (0..count).map(|n| (name(n), format!("{n}\n"))).collect();
        let (mut runs, mut done) = (0, Vec::new());
        let refused = isolate(&scripts, &mut false, |script, limit| {
            runs += 1;
            if script.is_empty() {
                return run(&[], limit);
            }
            let sets: Vec<usize> = script.lines().map(|line| line.parse().unwrap()).collect();
            run(&sets, limit)?;
            done.extend(sets);
            Ok(())
        });
        let refused = (0..count).filter(|n| refused.contains_key(&name(*n))).collect();
        done.sort_unstable();
        (refused, runs, done)
    }

    proptest! {
        #[test]
        fn exactly_the_sets_that_fail_are_refused_and_all_others_are_done(
            bad in prop::collection::btree_set(0_usize..64, 0..10),
        ) {
            let fails = |set: &usize| bad.contains(set);
            let outcome = |sets: &[usize], _| if sets.iter().any(fails) { Err(failed()) } else { Ok(()) };
            let (refused, runs, done) = check(64, outcome);
            prop_assert_eq!(&refused, &bad.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(done, (0..64).filter(|set| !bad.contains(set)).collect::<Vec<_>>());
            // 64 = 2⁶: at most two runs for each level, one of all, and one of none.
            prop_assert!(runs <= 2 + bad.len() * 2 * 6, "{} runs", runs);
        }
    }

    #[test]
    fn a_tool_that_does_not_work_is_not_run_for_each_set() {
        let (refused, runs, _) = check(1_000, |_, _| Err(failed()));
        assert_eq!((refused.len(), runs), (1_000, 2));
    }

    #[test]
    fn a_tool_that_hung_the_last_time_has_less_time_until_it_ends_again() {
        let scripts = [(name(0), "0\n".to_owned())];
        let (mut has_hung, mut limits) = (false, Vec::new());
        for hangs in [true, true, false, false] {
            isolate(&scripts, &mut has_hung, |script, limit| {
                if !script.is_empty() {
                    limits.push(limit);
                }
                let timed_out = Error::TimedOut { command: "ipset".to_owned(), seconds: 1 };
                if hangs { Err(timed_out) } else { Ok(()) }
            });
        }
        assert_eq!(limits, [RUN_LIMIT, HALF_LIMIT, HALF_LIMIT, RUN_LIMIT]);
    }

    #[test]
    fn after_a_run_that_did_not_end_the_others_have_less_time() {
        let (refused, _, done) = check(8, |sets, limit| {
            let hangs = sets.contains(&3);
            assert!(limit <= HALF_LIMIT || sets.len() == 8, "{sets:?} {limit:?}");
            let timed_out = || Error::TimedOut { command: "ipset".to_owned(), seconds: 1 };
            if hangs { Err(timed_out()) } else { Ok(()) }
        });
        assert_eq!((refused, done), (vec![3], vec![0, 1, 2, 4, 5, 6, 7]));
    }
}
