//! One fault from beginning to end, what was promised of it, and what was seen.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_lab::IptablesVariant;
use serde_json::Value;

use super::api::Mode;
use super::stage::{CLOSES, OPENS, Stage};
use super::traffic::{Route, Traffic};
use crate::cluster::AgentSetup;
use crate::shop::{ADMIN, PATIENCE, WEB};

/// The head of the table.
pub(super) const HEAD: &str = "| fault | forbidden passed | allowed failed | `/readyz` during | closing during, ms | converged after, ms (bound) |\n\
     |---|---|---|---|---|---|";

/// Allowed by the policy that the opening changes.
const CONCERNED: &[Route] = &[("web", "api", WEB), ("near", "api", WEB)];
/// Allowed by a policy that nothing changes.
const ALLOWED: &[Route] = &[("web", "third", WEB), ("near", "third", WEB)];
const FORBIDDEN: &[Route] = &[
    ("lurker", "api", WEB),
    ("web", "api", ADMIN),
    ("stranger", "api", WEB),
    ("stranger", "third", WEB),
];

/// How long a closing is waited for during a fault: `--unready-after` is 2 s.
const CLOSING_LIMIT: Duration = Duration::from_secs(4);
/// The agent removes what is unreferenced within 2 s.
const QUIET: Duration = Duration::from_millis(2_300);

type Action = Box<dyn Fn(&Stage) -> Result<()>>;

/// A fault, and what is promised of it.
pub(super) struct Fault {
    pub(super) name: String,
    pub(super) variant: IptablesVariant,
    begin: Action,
    end: Action,
    /// How long after its end everything is as it should be, at the latest.
    bound: Duration,
    /// How long it lasts at least.
    hold: Duration,
    exception: Option<Exception>,
}

/// What a row does not promise, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exception {
    /// The agent cannot know of changes, so that it is ready without them.
    Unaware,
    /// The pod whose policy needs an ipset that cannot be made is denied what it needs it for.
    Denies,
    /// Somebody with the permissions of the agent removes rules: packets pass until they are back, at the
    /// latest after this time.
    OpenFor(Duration),
    /// The same for members of ipsets: what needs them is denied until they are back.
    ClosedFor(Duration),
}

impl Fault {
    pub(super) fn new(
        name: impl Into<String>,
        begin: impl Fn(&Stage) -> Result<()> + 'static,
        end: impl Fn(&Stage) -> Result<()> + 'static,
    ) -> Self {
        let (begin, end): (Action, Action) = (Box::new(begin), Box::new(end));
        let (bound, hold) = (Duration::from_secs(12), Duration::ZERO);
        let variant = IptablesVariant::Nft;
        Self { name: name.into(), variant, begin, end, bound, hold, exception: None }
    }

    pub(super) fn within(self, seconds: u64) -> Self {
        Self { bound: Duration::from_secs(seconds), ..self }
    }

    pub(super) fn lasting(self, hold: Duration) -> Self {
        Self { hold, ..self }
    }

    pub(super) fn except(self, exception: Exception) -> Self {
        Self { exception: Some(exception), ..self }
    }

    pub(super) fn legacy(self) -> Self {
        Self { variant: IptablesVariant::Legacy, ..self }
    }
}

/// What was seen.
pub(super) struct Seen {
    passed: usize,
    /// How long after the beginning a forbidden one passed.
    passed_until: Option<Duration>,
    failed: usize,
    failed_until: Option<Duration>,
    broken: usize,
    right: usize,
    first_wrong: Option<String>,
    ready: String,
    why: String,
    closed: Option<Duration>,
    converged: Option<Duration>,
    /// What an agent that starts changes.
    differs: Option<String>,
}

impl Seen {
    /// The row as it is printed.
    pub(super) fn line(&self, fault: &Fault) -> String {
        let ms = |time: Duration| time.as_millis().to_string();
        let passed = match (self.passed, self.passed_until) {
            (0, _) | (_, None) => "0".to_owned(),
            (count, Some(until)) => format!("{count}, until {} ms", ms(until)),
        };
        let failed = match (fault.exception, self.failed_until) {
            (Some(Exception::Denies), _) => format!("{} *", self.failed + self.broken),
            (_, Some(until)) => format!("{}, until {} ms", self.failed + self.broken, ms(until)),
            (_, None) => (self.failed + self.broken).to_string(),
        };
        let closed = self.closed.map_or_else(|| "after".to_owned(), ms);
        let converged = self.converged.map_or_else(|| "**never**".to_owned(), ms);
        let bound = fault.bound.as_secs();
        format!(
            "| {} | {passed} | {failed} | {} | {closed} | {converged} ({bound} s) |",
            fault.name, self.ready
        )
    }

    /// The promises that were broken.
    pub(super) fn broken(&self, fault: &Fault) -> impl Iterator<Item = String> {
        let wrong = self.first_wrong.as_deref().unwrap_or_default();
        let may_pass = match (fault.exception, self.passed_until) {
            (Some(Exception::OpenFor(limit)), Some(until)) => until <= limit,
            _ => false,
        };
        let may_fail = match (fault.exception, self.failed_until) {
            (Some(Exception::ClosedFor(limit)), Some(until)) => until <= limit && self.broken == 0,
            _ => false,
        };
        let is_aware = fault.exception != Some(Exception::Unaware);
        let broken = [
            (self.passed > 0 && !may_pass, format!("forbidden packets passed: {wrong}")),
            (
                self.failed + self.broken > 0 && !may_fail,
                format!("allowed packets failed: {wrong}"),
            ),
            (self.right < 20, format!("only {} probes: too few to tell", self.right)),
            (
                is_aware && self.closed.is_none() && self.ready == "200",
                "ready, although a change is not applied".to_owned(),
            ),
            (
                self.converged.is_none_or(|converged| converged > fault.bound),
                format!("not as it should be in time: {}", self.why),
            ),
            (self.differs.is_some(), self.differs.clone().unwrap_or_default()),
        ];
        broken.into_iter().filter_map(|(is_broken, what)| is_broken.then_some(what))
    }
}

/// Tries one fault.
pub(super) fn try_out(stage: &Stage, fault: &Fault) -> Result<Seen> {
    stage.reset();
    let before = [CONCERNED, ALLOWED, CLOSES].concat();
    stage.until(&before, true, PATIENCE)?.context("open at the beginning")?;
    stage.until(FORBIDDEN, false, PATIENCE)?.context("closed at the beginning")?;
    stage.wait_ready()?;
    let (lab, traffic) = (stage.lab(), Traffic::default());
    traffic.allow(lab, &[CONCERNED, ALLOWED].concat())?;
    traffic.forbid(lab, FORBIDDEN)?;
    let mut seen = thread::scope(|scope| -> Result<Seen> {
        let threads = traffic.start(scope, lab, ("web", "api"))?;
        let seen = under_traffic(stage, fault, &traffic);
        traffic.stop(threads)?;
        seen
    })?;
    seen.passed = traffic.passed.load(Ordering::Relaxed);
    seen.failed = traffic.failed.load(Ordering::Relaxed);
    seen.broken = traffic.broken.load(Ordering::Relaxed);
    (seen.right, seen.first_wrong) = (traffic.right(), traffic.first_wrong());
    seen.differs = start_again(stage)?;
    Ok(seen)
}

fn under_traffic(stage: &Stage, fault: &Fault, traffic: &Traffic) -> Result<Seen> {
    let lab = stage.lab();
    thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    (fault.begin)(stage).context("the beginning of the fault")?;
    stage.close();
    let is_aware = fault.exception != Some(Exception::Unaware);
    let limit = if is_aware { CLOSING_LIMIT } else { Duration::from_secs(1) };
    let closed = stage.until(CLOSES, false, limit)?;
    if closed.is_some() {
        traffic.forbid(lab, CLOSES)?;
    }
    traffic.forget(lab, OPENS)?;
    let denies = fault.exception == Some(Exception::Denies);
    if denies {
        traffic.forget(lab, CONCERNED)?;
    }
    stage.open();
    thread::sleep(fault.hold.saturating_sub(began.elapsed()).max(Duration::from_millis(300)));
    let (ready, mut why) = (stage.readyz(), stage.why());
    (fault.end)(stage).context("the end of the fault")?;
    stage.api.set(Mode::Serve);
    let ended = Instant::now();
    // Longer than promised, so that the row contains how long it takes.
    let is_as_it_should_be = || -> Result<bool> {
        Ok(stage.readyz() == "200" && stage.all(CLOSES, false)? && stage.all(OPENS, true)?)
    };
    let mut converged = None;
    while converged.is_none() && ended.elapsed() < fault.bound * 2 {
        if is_as_it_should_be()? {
            converged = Some(ended.elapsed());
        }
        thread::sleep(Duration::from_millis(5));
    }
    if converged.is_none() {
        why = stage.why();
    }
    traffic.forget(lab, CLOSES)?;
    traffic.forbid(lab, CLOSES)?;
    traffic.allow(lab, OPENS)?;
    if denies {
        traffic.allow(lab, CONCERNED)?;
    }
    thread::sleep(Duration::from_millis(300));
    let (passed_until, failed_until) = (traffic.passed_until(began), traffic.failed_until(began));
    Ok(Seen {
        passed: 0,
        passed_until,
        failed: 0,
        failed_until,
        broken: 0,
        right: 0,
        first_wrong: None,
        ready,
        why,
        closed,
        converged,
        differs: None,
    })
}

/// Replaces the agent by one that starts, which has to find everything as it should be.
fn start_again(stage: &Stage) -> Result<Option<String>> {
    thread::sleep(QUIET);
    stage.start(AgentSetup::default())?;
    let line = stage.with_agent(|agent| agent.wait_for("policies are enforced", PATIENCE))?;
    let line: Value = serde_json::from_str(&line)?;
    for name in ["chains_changed", "sets_created", "members_changed"] {
        let count = line.get(name).and_then(Value::as_u64);
        let count = count.with_context(|| format!("no {name} in {line}"))?;
        if count > 0 {
            return Ok(Some(format!("an agent that started after it changed {name} {count}")));
        }
    }
    ensure!(line.get("rulesets").is_some_and(|rulesets| *rulesets != 0), "{line}");
    Ok(None)
}
