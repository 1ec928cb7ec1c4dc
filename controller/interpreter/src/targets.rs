//! The targets that have options, and the parsers of each option.

use crate::error::Problem;
use crate::packet::TCP;
use crate::rule::{Draft, Target};
use crate::words::{Words, known_only, text, unknown_option, value_and_mask};

/// The kernel's prefix of `xt_log_info` less its terminator.
const LOG_PREFIX_LENGTH_MAX: usize = 29;
/// The kernel's prefix of `xt_nflog_info` less its terminator.
const NFLOG_PREFIX_LENGTH_MAX: usize = 63;

/// `LOG`, into the kernel's log.
pub(crate) fn log(draft: &mut Draft, option: &str, words: &mut Words) -> Result<(), Problem> {
    match option {
        "--log-prefix" => {
            let prefix = text(words, "the prefix", LOG_PREFIX_LENGTH_MAX)?;
            draft.target = Some(Target::Log { prefix });
        }
        "--log-level" => _ = words.take("the level")?,
        "--log-tcp-sequence" | "--log-tcp-options" | "--log-ip-options" | "--log-uid"
        | "--log-macdecode" => {}
        _ => return Err(unknown_option(option)),
    }
    Ok(())
}

/// `NFLOG`, to the process that subscribes to its group.
pub(crate) fn nflog(draft: &mut Draft, option: &str, words: &mut Words) -> Result<(), Problem> {
    match option {
        "--nflog-prefix" => {
            let prefix = text(words, "the prefix", NFLOG_PREFIX_LENGTH_MAX)?;
            draft.target = Some(Target::Log { prefix });
        }
        "--nflog-group" | "--nflog-threshold" => _ = words.parse::<u16>("a number")?,
        "--nflog-size" | "--nflog-range" => _ = words.parse::<u32>("a number of bytes")?,
        _ => return Err(unknown_option(option)),
    }
    Ok(())
}

/// `MARK`, whose value is exclusively or-ed into what the mask leaves.
pub(crate) fn mark(draft: &mut Draft, option: &str, words: &mut Words) -> Result<(), Problem> {
    let (value, mask) = match (option, value_and_mask(words)?) {
        ("--set-xmark", both) => both,
        // The tool clears the value's bits too, so that the exclusive or sets them.
        ("--set-mark", (value, mask)) => (value, value | mask),
        _ => return Err(unknown_option(option)),
    };
    draft.target = Some(Target::Mark { value, mask });
    Ok(())
}

/// `REJECT`, whose answer must be one that the packet's protocol allows.
pub(crate) fn reject(draft: &mut Draft, option: &str, words: &mut Words) -> Result<(), Problem> {
    known_only(option, "--reject-with")?;
    let answer = words.take("the answer")?;
    match answer.as_str() {
        "tcp-reset" if !draft.is_about(&[TCP]) => {
            Err(Problem::Needs { what: answer, needs: "-p tcp" })
        }
        "tcp-reset"
        | "icmp-net-unreachable"
        | "icmp-host-unreachable"
        | "icmp-proto-unreachable"
        | "icmp-port-unreachable"
        | "icmp-net-prohibited"
        | "icmp-host-prohibited"
        | "icmp-admin-prohibited"
        | "icmp6-no-route"
        | "icmp6-adm-prohibited"
        | "icmp6-addr-unreachable"
        | "icmp6-port-unreachable"
        | "icmp6-policy-fail"
        | "icmp6-reject-route" => Ok(()),
        _ => Err(Problem::Unknown { what: "answer", word: answer }),
    }
}
