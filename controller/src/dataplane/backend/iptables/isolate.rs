//! Runs the scripts of many sets, so that one which `ipset` refuses does not stop the others.
//!
//! All scripts are one run. If it fails, `ipset` usually names the line: its set is refused, and
//! the next run begins behind it. Otherwise each half is a run of its own, and so on, until the
//! sets are known whose scripts fail alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process;
use crate::dataplane::backend::error::Error;
use crate::dataplane::name::SetName;

/// How long a run may take. `ipset` waits for no lock, and adds a million members within 2 s.
const RUN_LIMIT: Duration = Duration::from_secs(20);

/// How long a run may take after one that has failed, or that did not end the last time.
const HALF_LIMIT: Duration = Duration::from_secs(5);

/// A line behind each script: `ipset` executes what it has read up to here before it continues. So
/// all scripts before one that fails are executed.
const DONE: &str = "COMMIT\n";

/// Sets that were not tried this long after the first failure are refused as well.
const HALVES_LIMIT: Duration = Duration::from_secs(10);

/// Runs these scripts. Returns the sets that were refused, and why. `has_hung`: the tool did not
/// end the last time, so it gets less time.
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
        let script: String = group.iter().flat_map(|(_, script)| [script.as_str(), DONE]).collect();
        let Err(mut error) = run(&script, limit) else { continue };
        limit = HALF_LIMIT;
        let is_first = end.is_none();
        let end = *end.get_or_insert_with(|| Instant::now() + HALVES_LIMIT);
        // If an empty script fails, the cause is not a set.
        let broken = if is_first { run("", limit).err() } else { None };
        let is_over = broken.is_some() || Instant::now() >= end;
        error = broken.unwrap_or(error);
        let why: Arc<str> = error.to_string().into();
        if let ([_, _, ..], false) = (group, is_over) {
            let named = failed(&error, group).and_then(|at| group.get(at..)?.split_first());
            if let Some(((set, _), rest)) = named {
                refused.insert(*set, why);
                groups.extend((!rest.is_empty()).then_some(rest));
            } else {
                let (first, second) = group.split_at(group.len() / 2);
                groups.extend([second, first]);
            }
            continue;
        }
        let untried = if is_over { std::mem::take(&mut groups) } else { Vec::new() };
        for (set, _) in untried.into_iter().chain([group]).flatten() {
            refused.insert(*set, why.clone());
        }
    }
    refused
}

/// The index of the script with the line that `ipset` names.
fn failed(error: &Error, group: &[(SetName, String)]) -> Option<usize> {
    let Error::Failed { stderr, .. } = error else { return None };
    let number = stderr.split_once("Error in line ")?.1.split(':').next()?;
    let mut line: usize = number.parse().ok()?;
    group.iter().position(|(_, script)| {
        let lines = script.lines().count() + DONE.lines().count();
        let is_here = (1..=lines).contains(&line);
        line = line.saturating_sub(lines);
        is_here
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use proptest::prelude::*;

    use super::*;

    fn name(number: usize) -> SetName {
        SetName::parse(&format!("PORTCULLIS-{number}")).unwrap()
    }

    fn failed() -> Error {
        failed_with("no")
    }

    fn failed_with(stderr: &str) -> Error {
        let (command, stderr) = ("ipset".to_owned(), stderr.to_owned());
        Error::Failed { command, status: ExitStatus::from_raw(256), stderr }
    }

    /// Runs the scripts of `count` sets; `run` is the result of a script with these sets. Returns
    /// the refused sets, the number of runs, and the sets that were changed.
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
            let sets = script.lines().filter(|line| *line != "COMMIT");
            let sets: Vec<usize> = sets.map(|line| line.parse().unwrap()).collect();
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

    proptest! {
        /// Each script has two lines; `ipset` does one after another, and names the line that fails.
        #[test]
        fn where_the_line_is_named_each_refused_set_costs_one_run(
            bad in prop::collection::btree_set(0_usize..64, 0..64),
        ) {
            let scripts: Vec<_> = (0..64).map(|n| (name(n), format!("create {n}\nadd {n}\n"))).collect();
            let (mut runs, mut done) = (0, BTreeSet::new());
            let refused = isolate(&scripts, &mut false, |script, _| {
                runs += 1;
                let mut added = Vec::new();
                for (number, line) in (1..).zip(script.lines()) {
                    let set = line.split_once(' ').map(|(_, set)| set.parse::<usize>().unwrap());
                    match set {
                        Some(set) if line.starts_with("add") && bad.contains(&set) => {
                            return Err(failed_with(&format!("ipset v7.17: Error in line {number}: no")));
                        }
                        Some(set) => added.push(set),
                        None => done.extend(added.drain(..)),
                    }
                }
                Ok(())
            });
            let refused: BTreeSet<usize> = (0..64).filter(|n| refused.contains_key(&name(*n))).collect();
            prop_assert_eq!(&refused, &bad);
            prop_assert_eq!(done, (0..64).filter(|set| !bad.contains(set)).collect::<BTreeSet<_>>());
            // One of all, and one of none after the first failure.
            prop_assert!(runs <= 2 + bad.len(), "{} runs", runs);
        }
    }

    #[test]
    fn a_line_that_no_script_has_is_not_believed() {
        let group = [(name(0), "create\nadd\n".to_owned()), (name(1), "create\n".to_owned())];
        let at = |line: &str| super::failed(&failed_with(line), &group);
        for (line, expected) in
            [(0, None), (1, Some(0)), (3, Some(0)), (4, Some(1)), (5, Some(1)), (6, None)]
        {
            assert_eq!(at(&format!("ipset v7.17: Error in line {line}: no")), expected, "{line}");
        }
        assert_eq!(at("Error in line -1: no"), None);
        assert_eq!(at("no"), None);
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
