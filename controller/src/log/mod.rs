//! The log: lines on standard error that can neither delay the program nor end it.
//!
//! ```text
//! any thread ─ event ─► subscriber ─ line ─► Queue, bounded ─► thread `log` ─► standard error
//!                                              └─ full: the line is counted and dropped
//! ```
//!
//! If a container runtime stops reading the pipe of a container, each write to it blocks. Therefore,
//! only the thread `log` writes. When lines were lost, a line in the log reports how many.

mod print;
mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tracing::{Dispatch, dispatcher, error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use self::print::Printer;
use self::queue::Queue;
use crate::args::{Cli, LogFormat};

/// How long the end of the program waits until all lines are written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The running log. When dropped, it waits at most two seconds until queued lines are written.
#[derive(Debug)]
pub struct Log {
    queue: Arc<Queue>,
    lost: Counter,
    /// Disconnected once all lines are written.
    written: Receiver<()>,
}

impl Log {
    /// Starts to log with the flags of `cli`.
    ///
    /// # Errors
    /// When the filter cannot be parsed, or the thread cannot be started.
    pub fn start(cli: &Cli) -> anyhow::Result<Self> {
        let (queue, lost) = (Arc::new(Queue::default()), Counter::default());
        let sink = QueueWriter { queue: queue.clone(), lost: lost.clone() };
        let main = subscriber(cli, move || sink.clone())?;
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let notices = subscriber(cli, move || writer.clone())?;
        let mut printer = Printer::new(io::stderr(), lost.clone(), move |lines| {
            dispatcher::with_default(&notices, || {
                warn!(lines, "log lines were lost: standard error was not read or not writable");
            });
            buffer.take()
        });
        let (done, written) = mpsc::channel();
        let from = queue.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        let printing = move || {
            printer.run(&from);
            drop(done);
        };
        thread.spawn(printing).context("failed to start to log")?;
        dispatcher::set_global_default(main).context("failed to start to log")?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self { queue, lost, written })
    }

    /// The counter of lines that were not written.
    #[must_use]
    pub fn lost(&self) -> Counter {
        self.lost.clone()
    }
}

/// Registers the counter of [`Log::lost`].
pub fn register(registry: &mut Registry, lost: &Counter) {
    let help = "Log lines that were not written, as nobody read them or the output failed";
    registry.register("log_lines_lost", help, lost.clone());
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
        // A reader that does not read must not keep the program from ending.
        let _ = self.written.recv_timeout(FLUSH_LIMIT);
    }
}

/// Logs a panic. The hook of the standard library waits for the reader of standard error.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let is_captured = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = is_captured.then(|| backtrace.to_string());
    error!(thread = std::thread::current().name(), backtrace, "{panic}");
}

/// The filter of `--log`. The HTTP/2 library logs each frame at level debug, which nobody wants who
/// does not name it.
fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("h2=info,{text}"))
}

/// A subscriber that formats events by the flags of `cli`, for `writer`.
fn subscriber<W>(cli: &Cli, writer: W) -> anyhow::Result<Dispatch>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(&cli.log).with_context(|| format!("--log {}", cli.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(writer);
    Ok(match cli.log_format {
        LogFormat::Text => log.into(),
        LogFormat::Json => log.json().flatten_event(true).into(),
    })
}

/// Adds each event as a line to the queue. Never fails and never waits for a reader.
#[derive(Clone)]
struct QueueWriter {
    queue: Arc<Queue>,
    lost: Counter,
}

impl io::Write for QueueWriter {
    /// Adds a line: the subscriber writes each event in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.queue.push(line) {
            self.lost.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A buffer for the lines that the thread `log` itself logs: it must not wait for its own queue.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl io::Write for Buffer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn frames_of_http_2_are_logged_only_if_they_are_asked_for() {
        for (text, expected) in [
            ("debug", "h2=info,debug"),
            ("h2=trace,warn", "h2=trace,warn"),
            ("portcullis_apiserver=debug", "portcullis_apiserver=debug,h2=info"),
        ] {
            let filter = filter(text).expect("it can be parsed").to_string();
            let parts = |text: &str| text.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(parts(&filter), parts(expected), "{text}");
        }
        assert!(filter("a=b=c").is_err());
    }
}
