//! Questions that are asked with packets, and their answers. Sending them is
//! [`volley`](super::volley)'s work.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;

use super::Lab;
use super::pod::Endpoint;
use super::volley;

/// What a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Connects and reads the banner. A time-out below one second sends exactly one SYN.
    Tcp,
    /// Sends a datagram and waits for the answer; sends up to three times.
    Udp,
    /// Sends an INIT and waits for INIT ACK; sends up to three times.
    SctpInit,
    /// Sends an echo request and waits for the reply; sends up to three times. Has no port.
    Icmp,
}

/// One question: does this source reach this address and port?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Where the packet starts.
    pub from: Endpoint,
    /// The address it is sent to: of a pod, a node, a service.
    pub to: IpAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// The port it is sent to; zero with ICMP.
    pub port: u16,
    /// The port it comes from; by default any free one. Bound with `SO_REUSEADDR`.
    pub source_port: Option<u16>,
}

impl Probe {
    /// A probe of any protocol from a free port.
    #[must_use]
    pub fn new(from: Endpoint, to: IpAddr, protocol: Protocol, port: u16) -> Self {
        Self { from, to, protocol, port, source_port: None }
    }

    /// A TCP connection.
    #[must_use]
    pub fn tcp(from: Endpoint, to: IpAddr, port: u16) -> Self {
        Self::new(from, to, Protocol::Tcp, port)
    }

    /// A UDP exchange.
    #[must_use]
    pub fn udp(from: Endpoint, to: IpAddr, port: u16) -> Self {
        Self::new(from, to, Protocol::Udp, port)
    }

    /// The first exchange of an SCTP association.
    #[must_use]
    pub fn sctp_init(from: Endpoint, to: IpAddr, port: u16) -> Self {
        Self::new(from, to, Protocol::SctpInit, port)
    }

    /// An ICMP or `ICMPv6` echo.
    #[must_use]
    pub fn icmp(from: Endpoint, to: IpAddr) -> Self {
        Self::new(from, to, Protocol::Icmp, 0)
    }

    /// The same probe from a fixed source port.
    #[must_use]
    pub fn from_port(mut self, port: u16) -> Self {
        self.source_port = Some(port);
        self
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = SocketAddr::new(self.to, self.port);
        match self.protocol {
            Protocol::Icmp => write!(f, "{} -> {} icmp", self.from, self.to),
            Protocol::Tcp => write!(f, "{} -> {target}/tcp", self.from),
            Protocol::Udp => write!(f, "{} -> {target}/udp", self.from),
            Protocol::SctpInit => write!(f, "{} -> {target}/sctp", self.from),
        }
    }
}

/// What became of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, by this pod (`namespace/name`), node (`node/n1`) or `internet`. An ICMP echo
    /// names the owner of the address that was asked.
    Open(String),
    /// Turned away with RST, ABORT, or an ICMP port or protocol unreachable (REJECT's default).
    Refused,
    /// TCP only: connected, then reset or closed before the banner.
    Reset,
    /// No answer within the time-out. A connection whose banner does not come counts as this.
    Dropped,
    /// Another ICMP error or no route: `EHOSTUNREACH`, `ENETUNREACH`, `EACCES` (prohibited).
    Unreachable(Errno),
}

impl Outcome {
    /// True when somebody answered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(identity) => write!(f, "open ({identity})"),
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Dropped => f.write_str("dropped"),
            Self::Unreachable(errno) => write!(f, "unreachable ({})", errno.desc()),
        }
    }
}

/// An outcome and what else was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What became of the probe.
    pub outcome: Outcome,
    /// When open, and not ICMP: the source address as the server saw it, after any NAT.
    pub seen_from: Option<SocketAddr>,
    /// From sending to the outcome.
    pub took: Duration,
}

/// What a probe should find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Anybody answers.
    Open,
    /// This pod, node or `internet` answers.
    OpenAt(String),
    /// Exactly this.
    Exactly(Outcome),
    /// Nobody answers: dropped, refused, reset or unreachable.
    Closed,
}

impl Expected {
    /// True when the outcome is as expected.
    #[must_use]
    pub fn agrees(&self, outcome: &Outcome) -> bool {
        match self {
            Self::Open => outcome.is_open(),
            Self::OpenAt(who) => matches!(outcome, Outcome::Open(identity) if identity == who),
            Self::Exactly(expected) => expected == outcome,
            Self::Closed => !outcome.is_open(),
        }
    }
}

/// How one probe of [`Lab::probe_until`] ended.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The last outcome.
    pub outcome: Outcome,
    /// True when it is as expected.
    pub agrees: bool,
    /// How often it was sent.
    pub attempts: u32,
    /// From the call to the last outcome.
    pub after: Duration,
}

impl Lab {
    /// Sends all probes in parallel; their outcomes, in the order of the probes.
    ///
    /// Nothing is tried again: [`Outcome::Dropped`] means that no answer came within `timeout`
    /// (counted for each probe from its own start; see
    /// [`DEFAULT_TIMEOUT`](super::DEFAULT_TIMEOUT)).
    ///
    /// # Errors
    /// When a source does not exist or a socket cannot be made (a source port in use, too many
    /// open files): a fault of the test, never an outcome.
    pub fn probe_all(&self, probes: &[Probe], timeout: Duration) -> Result<Vec<Outcome>> {
        Ok(self.observe_all(probes, timeout)?.into_iter().map(|seen| seen.outcome).collect())
    }

    /// As [`Lab::probe_all`], for probes of which none should be answered. They load no server, so
    /// more of them are on their way at a time, and fewer time-outs are waited for.
    ///
    /// # Errors
    /// As [`Lab::probe_all`].
    pub fn probe_silent(&self, probes: &[Probe], timeout: Duration) -> Result<Vec<Outcome>> {
        let seen = self.fly(probes, timeout, volley::MAX_SILENT)?;
        Ok(seen.into_iter().map(|seen| seen.outcome).collect())
    }

    /// As [`Lab::probe_all`], with what else was seen.
    ///
    /// # Errors
    /// As [`Lab::probe_all`].
    pub fn observe_all(&self, probes: &[Probe], timeout: Duration) -> Result<Vec<Observation>> {
        self.fly(probes, timeout, volley::MAX_IN_FLIGHT)
    }

    fn fly(&self, probes: &[Probe], timeout: Duration, most: usize) -> Result<Vec<Observation>> {
        let mut seen = Vec::with_capacity(probes.len());
        for some in probes.chunks(most) {
            let sources = some.iter().map(|probe| self.netns(&probe.from));
            seen.extend(volley::fly(some, &sources.collect::<Result<Vec<_>>>()?, timeout)?);
        }
        for (probe, observation) in probes.iter().zip(&mut seen) {
            if let (Protocol::Icmp, Outcome::Open(identity)) =
                (probe.protocol, &mut observation.outcome)
            {
                *identity = self.owner(probe.to).unwrap_or_else(|| probe.to.to_string());
            }
        }
        Ok(seen)
    }

    /// Sends one probe.
    ///
    /// # Errors
    /// As [`Lab::probe_all`].
    pub fn probe(&self, probe: &Probe, timeout: Duration) -> Result<Outcome> {
        let outcomes = self.probe_all(std::slice::from_ref(probe), timeout)?;
        Ok(outcomes.into_iter().next().unwrap_or(Outcome::Dropped))
    }

    /// Repeats each probe until it agrees with its expectation or `limit` is over; what agreed once
    /// is not sent again. For waiting until a policy is enforced.
    ///
    /// One round is always made, and one that began within `limit` ends: this can take `limit` and
    /// one `timeout` more. The result has the order of `probes`.
    ///
    /// # Errors
    /// As [`Lab::probe_all`]; a disagreement is not an error, see [`Settled::agrees`].
    pub fn probe_until(
        &self,
        probes: &[(Probe, Expected)],
        timeout: Duration,
        limit: Duration,
    ) -> Result<Vec<Settled>> {
        let start = Instant::now();
        let mut settled: Vec<Settled> = probes
            .iter()
            .map(|_| Settled {
                outcome: Outcome::Dropped,
                agrees: false,
                attempts: 0,
                after: Duration::ZERO,
            })
            .collect();
        loop {
            let mut open: Vec<_> =
                settled.iter_mut().zip(probes).filter(|(state, _)| !state.agrees).collect();
            let round: Vec<Probe> = open.iter().map(|(_, (probe, _))| probe.clone()).collect();
            for ((state, (_, expected)), outcome) in
                open.iter_mut().zip(self.probe_all(&round, timeout)?)
            {
                state.agrees = expected.agrees(&outcome);
                state.outcome = outcome;
                state.attempts += 1;
                state.after = start.elapsed();
            }
            if settled.iter().all(|state| state.agrees) || start.elapsed() >= limit {
                return Ok(settled);
            }
            // A refusal comes at once; without a pause it would be asked for in a busy loop.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
