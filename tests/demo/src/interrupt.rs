//! Signals that ask the demo to end, noticed between its steps, and waiting for Enter.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How soon a signal is noticed while waiting.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// Somebody pressed Ctrl-C, or the like.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Whether the demo should end.
pub(super) struct Interrupt {
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP no longer kill: they are for [`Interrupt::check`].
    pub(super) fn watch() -> Result<Self> {
        let requested = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&requested))
                .context("failed to handle signals")?;
        }
        Ok(Self { requested })
    }

    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    pub(super) fn check(&self) -> Result<(), Interrupted> {
        if self.is_requested() { Err(Interrupted) } else { Ok(()) }
    }
}

/// Where the demo waits for Enter, if it was asked to.
pub(super) struct Pauses {
    lines: Option<Receiver<()>>,
}

impl Pauses {
    pub(super) fn new(wanted: bool) -> Self {
        Self { lines: wanted.then(lines) }
    }

    /// Waits for a line; the end of standard input counts as one.
    pub(super) fn wait(&self, interrupt: &Interrupt) -> Result<(), Interrupted> {
        let Some(lines) = &self.lines else { return interrupt.check() };
        eprint!("Enter: on, Ctrl-C: end ");
        loop {
            interrupt.check()?;
            match lines.recv_timeout(PATIENCE) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Reads on a thread of its own: a signal does not end a read.
fn lines() -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = io::stdin().lines();
        while let Some(Ok(_)) = lines.next() {
            if sender.send(()).is_err() {
                return;
            }
        }
    });
    receiver
}
