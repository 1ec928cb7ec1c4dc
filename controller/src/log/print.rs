//! Writes the lines of the queue, and reports those that were lost.

use std::io::{self, Write};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use super::queue::{Batch, Queue};

/// How long to wait before writing again to an output that does not block and has no room.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes lines to an output that may stall or fail.
pub(super) struct Printer<W, N> {
    output: W,
    lost: Counter,
    /// Formats the line that reports a number of lost lines.
    notice: N,
    /// Lost lines that no line has reported yet.
    unreported: u64,
}

impl<W: Write, N: Fn(u64) -> Vec<u8>> Printer<W, N> {
    pub(super) fn new(output: W, lost: Counter, notice: N) -> Self {
        Self { output, lost, notice, unreported: 0 }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(&mut self, queue: &Queue) {
        while let Some(batch) = queue.take() {
            self.print(&batch);
        }
    }

    fn print(&mut self, batch: &Batch) {
        for line in &batch.lines {
            if self.unreported > 0 {
                self.report();
            }
            if write(&mut self.output, line).is_err() {
                self.lost.inc();
                self.unreported = self.unreported.saturating_add(1);
            }
        }
        if batch.lost > 0 {
            self.unreported = self.unreported.saturating_add(batch.lost);
            self.report();
        }
    }

    /// Reports lost lines, if the output works.
    fn report(&mut self) {
        if write(&mut self.output, &(self.notice)(self.unreported)).is_ok() {
            self.unreported = 0;
        }
    }
}

/// Like `write_all`, also if the output is non-blocking: the process that started this one shares
/// the output, and may have set that mode.
fn write(output: &mut impl Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match output.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::rc::Rc;

    use super::*;

    /// An output whose first writes fail as `faults` lists, and whose later writes work.
    #[derive(Clone, Default)]
    struct Output {
        written: Rc<RefCell<String>>,
        faults: Rc<RefCell<VecDeque<Option<io::ErrorKind>>>>,
    }

    impl Write for Output {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            if let Some(Some(fault)) = self.faults.borrow_mut().pop_front() {
                return Err(fault.into());
            }
            // At most two bytes at a time: a pipe accepts only as many bytes as it has room for.
            let some = &line[..line.len().min(2)];
            self.written.borrow_mut().push_str(std::str::from_utf8(some).unwrap());
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(faults: &[Option<io::ErrorKind>], batches: &[(&[&str], u64)], expected: &str) -> u64 {
        let output = Output::default();
        output.faults.borrow_mut().extend(faults);
        let lost = Counter::default();
        let notice = |lines| format!("lost {lines}\n").into_bytes();
        let mut printer = Printer::new(output.clone(), lost.clone(), notice);
        for (lines, lost) in batches {
            let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
            printer.print(&Batch { lines, lost: *lost });
        }
        assert_eq!(*output.written.borrow(), expected);
        lost.get()
    }

    #[test]
    fn lost_lines_are_reported_where_they_are_missing() {
        let batches: &[(&[&str], u64)] = &[(&["one\n", "two\n"], 3), (&["six\n"], 0)];
        assert_eq!(check(&[], batches, "one\ntwo\nlost 3\nsix\n"), 0, "the queue has counted them");
    }

    #[test]
    fn an_output_that_fails_loses_lines_and_is_tried_again() {
        let broken = Some(io::ErrorKind::BrokenPipe);
        let batches: &[(&[&str], u64)] = &[(&["a\n", "b\n"], 0), (&["c\n"], 0), (&["d\n"], 0)];
        // Each line after the first fails twice: the report, and the line.
        let faults = [broken, broken, broken, None];
        assert_eq!(check(&faults, batches, "lost 2\nc\nd\n"), 2);
    }

    #[test]
    fn an_output_that_does_not_block_is_waited_for() {
        let faults = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].map(Some);
        assert_eq!(check(&faults, &[(&["a\n"], 0)], "a\n"), 0);
    }
}
