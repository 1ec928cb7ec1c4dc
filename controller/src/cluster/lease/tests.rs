//! Tests of the election with paused clocks, several contenders, and faults between them.

use super::*;

/// The Lease as a server keeps it.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
}

impl Server {
    /// Accepts a write, unless another contender wrote first.
    fn write(&mut self, lease: &Lease) -> Option<Lease> {
        let is = |lease: &Lease| lease.metadata.resource_version.clone();
        if is(lease) != self.lease.as_ref().and_then(is) {
            return None;
        }
        self.version += 1;
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Some(lease)
    }
}

const TIMING: Timing = Timing {
    duration: Duration::from_secs(15),
    deadline: Duration::from_secs(10),
    retry: Duration::from_secs(2),
};

fn contender(identity: &str) -> Contender {
    Contender::new("lease", identity, TIMING)
}

/// A whole attempt. Returns whether the contender leads afterwards. Its clock is wrong by `hours`.
fn attempt(contender: &mut Contender, server: &mut Server, hours: i64) -> bool {
    let now = Instant::now();
    contender.observe(server.lease.clone(), now);
    let wall = Timestamp::from_second(1_700_000_000 + hours * 3600).expect("in range");
    if let Attempt::Create(lease) | Attempt::Replace(lease) = contender.attempt(now, wall)
        && let Some(lease) = server.write(&lease)
    {
        contender.written(lease, now);
    }
    leads(contender)
}

fn leads(contender: &Contender) -> bool {
    contender.leads_until().is_some_and(|until| Instant::now() < until)
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_one_leads_and_the_second_waits() {
    let (mut server, mut a, mut b) = (Server::default(), contender("a"), contender("b"));
    assert!(attempt(&mut a, &mut server, 0));
    assert!(!attempt(&mut b, &mut server, 0));
    assert_eq!(b.holder(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn of_two_who_write_at_once_one_loses() {
    let (mut server, mut a, mut b) = (Server::default(), contender("a"), contender("b"));
    let now = Instant::now();
    let mut leaders = 0;
    a.observe(None, now);
    b.observe(None, now);
    for one in [&mut a, &mut b] {
        let Attempt::Create(lease) = one.attempt(now, Timestamp::UNIX_EPOCH) else {
            panic!("there is no lease yet")
        };
        if let Some(lease) = server.write(&lease) {
            one.written(lease, now);
            leaders += 1;
        }
    }
    assert_eq!(leaders, 1);
    assert!(leads(&a) && !leads(&b));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_renews_stays_with_any_wall_clocks() {
    let (mut server, mut a, mut b) = (Server::default(), contender("a"), contender("b"));
    for round in 0..100 {
        // One clock runs years ahead, the other jumps back and forth.
        assert!(attempt(&mut a, &mut server, if round % 2 == 0 { -50_000 } else { 7 }));
        assert!(!attempt(&mut b, &mut server, 90_000), "round {round}");
        pass(9).await;
    }
    assert_eq!(server.lease.and_then(|l| l.spec).and_then(|s| s.lease_transitions), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_ends_before_another_begins() {
    let (mut server, mut a, mut b) = (Server::default(), contender("a"), contender("b"));
    assert!(attempt(&mut a, &mut server, 0));
    assert!(!attempt(&mut b, &mut server, 0));
    pass(9).await;
    assert!(leads(&a));
    pass(1).await;
    assert!(!leads(&a), "the deadline has passed");
    pass(4).await;
    assert!(!attempt(&mut b, &mut server, 0), "the lease still runs");
    pass(1).await;
    assert!(attempt(&mut b, &mut server, 0));
    assert!(!attempt(&mut a, &mut server, 0), "it sees that another one leads");
    assert_eq!(server.lease.and_then(|l| l.spec).and_then(|s| s.lease_transitions), Some(1));
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_late_waits_a_whole_lease() {
    let (mut server, mut a, mut b) = (Server::default(), contender("a"), contender("b"));
    assert!(attempt(&mut a, &mut server, 0));
    // When a renewed last is unknown to b: only what b itself saw counts.
    pass(1_000).await;
    assert!(!attempt(&mut b, &mut server, 0));
    pass(14).await;
    assert!(!attempt(&mut b, &mut server, 0));
    pass(1).await;
    assert!(attempt(&mut b, &mut server, 0));
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_once() {
    let (mut server, mut a, mut b) = (Server::default(), contender("a"), contender("b"));
    assert!(attempt(&mut a, &mut server, 0));
    assert!(!attempt(&mut b, &mut server, 0));
    let released = a.release(Timestamp::UNIX_EPOCH).expect("a holds it");
    assert!(!leads(&a));
    server.write(&released).expect("no other contender has written");
    assert!(attempt(&mut b, &mut server, 0));
    assert_eq!(
        b.release(Timestamp::UNIX_EPOCH).and_then(|l| l.spec).and_then(|s| s.holder_identity),
        Some(String::new())
    );
    assert_eq!(a.release(Timestamp::UNIX_EPOCH), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_deleted_is_created_again() {
    let (mut server, mut a, mut b) = (Server::default(), contender("a"), contender("b"));
    assert!(attempt(&mut a, &mut server, 0));
    server = Server { version: server.version, lease: None };
    assert!(attempt(&mut b, &mut server, 0));
    assert!(!attempt(&mut a, &mut server, 0));
}

#[tokio::test(start_paused = true)]
async fn never_two_leaders_when_some_are_stopped_or_cut_off() {
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut server = Server::default();
    let mut all = ["a", "b", "c"].map(|identity| (contender(identity), Instant::now()));
    let mut terms = 0;
    for _ in 0..20_000 {
        pass(1).await;
        for (one, wakes) in &mut all {
            if Instant::now() >= *wakes {
                let was = leads(one);
                terms += u64::from(attempt(one, &mut server, 0) && !was);
                // Mostly on time; now and then stopped or cut off for up to a minute.
                let pause = if random(20) == 0 { random(60) } else { 2 };
                *wakes = Instant::now() + Duration::from_secs(pause);
            }
        }
        assert!(all.iter().filter(|(one, _)| leads(one)).count() <= 1);
    }
    assert!(terms > 100, "leadership moved only {terms} times");
}

#[test]
fn durations_that_allow_two_leaders_are_refused() {
    assert_eq!(TIMING.check(), Ok(()));
    let equal = Timing { duration: TIMING.deadline, ..TIMING };
    assert_eq!(equal.check(), Err(UnusableTiming::Duration));
    let slow = Timing { retry: TIMING.deadline, ..TIMING };
    assert_eq!(slow.check(), Err(UnusableTiming::Deadline));
}
