//! What the tools and the kernel fail with.

use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;
use std::sync::Arc;

use nix::errno::Errno;
use policy_engine::cidr::Family;

use crate::dataplane::name::SetName;

/// A tool or the kernel did not do what it was asked for. The messages say what the fields are.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tool is not there, or cannot be started.
    #[error("failed to start `{command}`; install iptables and ipset")]
    Start {
        command: String,
        #[source]
        source: io::Error,
    },
    /// The tool said no.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed { command: String, status: ExitStatus, stderr: String },
    /// The tool did not end.
    #[error(
        "`{command}` did not end within {seconds} s and was killed; who holds the xtables lock?"
    )]
    TimedOut { command: String, seconds: u64 },
    /// Netlink failed: it is not known what was done.
    #[error("failed to {what}")]
    Netlink {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// nftables refused a transaction, because of this part of it.
    #[error("nftables refused {what}: {}", errno.desc())]
    Refused { what: String, errno: Errno },
    /// The kernel refused a member.
    #[error("failed to change {address} in set {set}: {message}")]
    Member { set: SetName, address: IpAddr, message: String },
    /// A set that the chains of a family need was refused.
    #[error("failed to change set {set}: {why}")]
    Set { set: SetName, why: Arc<str> },
    /// What was read back makes no sense.
    #[error("failed to read back what is applied")]
    ReadBack(#[from] ParseError),
    /// Pods have addresses of a family that cannot be enforced.
    #[error("{count} IPv6 addresses of pods are not enforced: {command} is not there; install it")]
    Unenforced { count: usize, command: &'static str },
    /// A tool reported a change that it did not make.
    #[error("a tool reported success, and the kernel was not changed: {found}")]
    Unchanged { found: String },
    /// The chains of a family are applied without sets, because these cannot be used.
    #[error(
        "ipsets cannot be used ({why}): connections to and from pods that policies isolate are denied if \
         they need an ipset, and packets are not compared with the interface of their pod"
    )]
    NoSets { why: Arc<str> },
    /// One family failed. What was to be done is done for the other.
    #[error("policies are not enforced for {}", family.as_str())]
    Family {
        family: Family,
        #[source]
        source: Box<Error>,
    },
    /// Neither variant of iptables is installed.
    #[error("found no iptables; install it (iptables-nft or iptables-legacy)")]
    NoIptables,
}

impl Error {
    /// The only family that failed. `None` if nothing, or not all, is done for the other.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Family { family, .. } => Some(*family),
            // IPv4 is always enforced.
            Self::Unenforced { .. } => Some(Family::V6),
            Self::Start { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::Netlink { .. }
            | Self::Refused { .. }
            | Self::Member { .. }
            | Self::Set { .. }
            | Self::ReadBack(_)
            | Self::NoSets { .. }
            | Self::Unchanged { .. }
            | Self::NoIptables => None,
        }
    }

    /// Whether the policies are applied without sets, and not left as they were.
    #[must_use]
    pub fn is_without_sets(&self) -> bool {
        matches!(self, Self::NoSets { .. })
    }

    /// Whether a tool refused its input and did nothing, as restore tools do. A tool that was killed
    /// may have done it.
    pub(in crate::dataplane) fn is_refusal(&self) -> bool {
        match self {
            Self::Failed { status, .. } => status.code().is_some(),
            Self::Refused { .. } => true,
            _ => false,
        }
    }

    /// The error of a family if it is the only one of these that failed.
    pub(in crate::dataplane) fn of_family((family, error): (Family, Self)) -> Self {
        Self::Family { family, source: Box::new(error) }
    }
}

/// What a tool printed is not what it prints when it succeeds. The messages say what the fields are.
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// The dump of the table does not end as it should, or there is none.
    #[error("the table was cut off after {lines} lines; it is read again on the next try")]
    TableCutOff { lines: usize },
    /// A line that no version of the tool should print.
    #[error("did not understand this line of {tool}: {line}")]
    Line { tool: &'static str, line: String },
    /// `ipset save` printed other sets than `ipset list -name`.
    #[error("ipset save printed {saved} of {listed} sets; they are read again on the next try")]
    SetsCutOff { saved: usize, listed: usize },
}

/// The error for a line of a tool's output that makes no sense.
pub(super) fn unknown(tool: &'static str, line: &str) -> ParseError {
    ParseError::Line { tool, line: line.to_owned() }
}
