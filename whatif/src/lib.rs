//! `kubectl whatif`: which connections policies allow, and why, before anything is applied.
//!
//! ```text
//! args ──► source: files, or a live cluster ────────► model::Inventory   objects by name
//!                       --with, --without ─────────►       │
//!                                                    model::Cluster     world + workloads
//!          endpoint: words of the user ──────────────►     │
//!                                                    judge, command     questions and answers
//!                                                          │
//!                                                    output             text, JSON, YAML, …
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`args`] | the command line, and nothing that acts on it |
//! | [`source`] | where objects come from; the only place that reads files and asks an API server |
//! | [`model`] | objects by name, and the cluster that they make: pods, workloads, Services |
//! | [`gap`] | what could not be read, and why |
//! | [`endpoint`] | the words by which a user names one side of a connection |
//! | [`judge`] | one question between two sides: verdict, decisions, near misses |
//! | [`advice`] | policies that would allow what is denied, tried before they are shown |
//! | [`lint`] | what is probably a mistake, found by `portcullis_lint` |
//! | [`plan`] | what a change of objects changes, and which object does it |
//! | [`suggest`] | the least policies that allow given connections, from several kinds of lists |
//! | [`exposure`] | what is allowed to and from pods that do not exist yet |
//! | [`policytest`] | test files: their format, and their lines against a cluster |
//! | [`status`] | how far policies are applied, according to the reports of the nodes |
//! | [`denials`] | what agents log about denied connections |
//! | [`verify`] | what nodes enforce, compared with what the API objects say |
//! | [`ui`] | the live page of a cluster: what it shows, and its server at 127.0.0.1 |
//! | [`command`] | one file per subcommand |
//! | [`output`] | the JSON contract and its schemas, texts, tables, graphs |

pub mod advice;
pub mod args;
pub mod command;
pub mod denials;
pub mod endpoint;
pub mod exposure;
pub mod gap;
pub mod judge;
pub mod lint;
pub mod model;
pub mod output;
pub mod plan;
pub mod policytest;
pub mod source;
pub mod status;
pub mod suggest;
pub mod ui;
pub mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

/// The answer is yes, or there is nothing to report.
pub const YES: u8 = 0;
/// The answer is no.
pub const NO: u8 = 1;
/// The tool failed: no answer.
pub const FAILED: u8 = 2;
/// The answer is neither yes nor no: it depends on the connection, or could not be determined.
pub const MIXED: u8 = 3;

/// The exit code that shells give a program which a closed pipe ended: 128 + SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// Reads the command line, and writes the answer to standard output and warnings to standard error.
#[must_use]
pub fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers. Every other error means a wrong question.
            let code = if error.use_stderr() { FAILED } else { YES };
            return if error.print().is_ok() { code.into() } else { FAILED.into() };
        }
    };
    let stdout = io::stdout().lock();
    let style = output::terminal::Style::of(args.color, args.command.is_for_people(), &stdout);
    let mut out = output::terminal::Terminal::new(io::BufWriter::new(stdout), style);
    let answered = command::run(args, &mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match answered {
        Ok(code) => code.into(),
        // The reader has closed the pipe, as `head` does, so the answer may not be complete.
        Err(error) if is_broken_pipe(&error) => BROKEN_PIPE.into(),
        Err(error) if error.is::<endpoint::Unread>() => {
            let _ = writeln!(io::stderr(), "{error}");
            MIXED.into()
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            FAILED.into()
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(broken)
            || cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind)
                == Some(io::ErrorKind::BrokenPipe)
    })
}
