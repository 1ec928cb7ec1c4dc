//! One API server for all tests of a test binary that do not change what others read.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result};

use super::api_server::{ApiServer, Options};

/// Waits until the test process has ended, and then until its servers have, which may still write.
const REMOVE: &str = r#"read -r _; until rm -rf "$1" 2>/dev/null; do sleep 0.1; done"#;

/// The place of a shared API server: a `static` of a test module.
///
/// A `static` is never dropped. The servers end with the process all the same, and a process that
/// waits for that removes their files.
#[derive(Default)]
pub struct Shared(OnceLock<Result<(ApiServer, Child), String>>);

impl Shared {
    /// A place without a server yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The server. The first caller starts it and has it prepared; the others wait for that.
    ///
    /// # Errors
    /// When it does not start, or `prepare` fails; every caller gets the same error.
    pub fn get(&self, prepare: impl FnOnce(&ApiServer) -> Result<()>) -> Result<&ApiServer> {
        let started = self.0.get_or_init(|| {
            let start = || {
                let server = ApiServer::start(Options::default())?;
                prepare(&server)?;
                let remover = remove_at_end(&server)?;
                anyhow::Ok((server, remover))
            };
            start().map_err(|error| format!("{error:#}"))
        });
        let started = started.as_ref().map_err(|failure| anyhow::Error::msg(failure.clone()));
        started.map(|(server, _)| server)
    }
}

fn remove_at_end(server: &ApiServer) -> Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", REMOVE, "remove"]).arg(server.directory());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A terminal's Ctrl-C is for the test, whose end is enough.
    command.current_dir("/").process_group(0);
    command.spawn().context("failed to start sh")
}
