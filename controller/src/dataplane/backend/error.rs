//! The errors of the tools and the kernel.

use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;
use std::sync::Arc;

use nix::errno::Errno;
use policy_engine::cidr::Family;

use crate::dataplane::TableName;
use crate::dataplane::name::SetName;

/// A request to a tool or the kernel failed. The messages explain the fields.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tool is not installed, or cannot be started.
    #[error("failed to start `{command}`; install iptables and ipset")]
    Start {
        command: String,
        #[source]
        source: io::Error,
    },
    /// The tool ended with an error.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed { command: String, status: ExitStatus, stderr: String },
    /// The tool did not end in time, and was killed.
    #[error(
        "`{command}` did not end within {seconds} s and was killed; who holds the xtables lock?"
    )]
    TimedOut { command: String, seconds: u64 },
    /// Netlink failed: whether the change was made is not known.
    #[error("failed to {what}")]
    Netlink {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// nftables refused a transaction because of this part.
    #[error("nftables refused {what}: {}", errno.desc())]
    Refused { what: String, errno: Errno },
    /// The kernel refused to add or remove a member.
    #[error("failed to change {address} in set {set}: {message}")]
    Member { set: SetName, address: IpAddr, message: String },
    /// A set that the chains of a family need was refused.
    #[error("failed to change set {set}: {why}")]
    Set { set: SetName, why: Arc<str> },
    /// The output of a tool that was read back cannot be parsed.
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
    /// One family failed. The change is made for the second family.
    #[error("policies are not enforced for {}", family.as_str())]
    Family {
        family: Family,
        #[source]
        source: Box<Error>,
    },
    /// Rules of ours cannot be removed, because the tool is not installed.
    #[error(
        "the table {table} of iptables-nft has {} chains of Portcullis, which deny packets until they are removed, and \
         `{command}` is not installed; start the agent once from the image that has iptables, with --backend nftables",
        family.as_str()
    )]
    NotRemoved { family: Family, table: TableName, command: &'static str },
    /// Neither variant of iptables is installed.
    #[error("found no iptables; install it (iptables-nft or iptables-legacy)")]
    NoIptables,
}

impl Error {
    /// The only family that failed. `None` if the change is not made, or only in part, for the
    /// second family too.
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
            | Self::NotRemoved { .. }
            | Self::NoIptables => None,
        }
    }

    /// Whether the policies are applied, but without sets.
    #[must_use]
    pub fn is_without_sets(&self) -> bool {
        matches!(self, Self::NoSets { .. })
    }

    /// Whether a tool refused its input and changed nothing, as restore tools do. A tool that was
    /// killed may have made the change.
    pub(in crate::dataplane) fn is_refusal(&self) -> bool {
        match self {
            Self::Failed { status, .. } => status.code().is_some(),
            Self::Refused { .. } => true,
            _ => false,
        }
    }

    /// The error of a family, if only that family failed.
    pub(in crate::dataplane) fn of_family((family, error): (Family, Self)) -> Self {
        Self::Family { family, source: Box::new(error) }
    }
}

/// The output of a tool is incomplete or unknown. The messages explain the fields.
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// The dump of the table lacks its end, or is empty.
    #[error("the table was cut off after {lines} lines; it is read again on the next try")]
    TableCutOff { lines: usize },
    /// A line that no version of the tool should print.
    #[error("did not understand this line of {tool}: {line}")]
    Line { tool: &'static str, line: String },
    /// `ipset save` printed other sets than `ipset list -name`.
    #[error("ipset save printed {saved} of {listed} sets; they are read again on the next try")]
    SetsCutOff { saved: usize, listed: usize },
}

/// The error for an unknown line in a tool's output.
pub(super) fn unknown(tool: &'static str, line: &str) -> ParseError {
    ParseError::Line { tool, line: line.to_owned() }
}
