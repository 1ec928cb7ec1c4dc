//! Lines that wait to be written. Bounded: a line without room is counted and dropped.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The most bytes of waiting lines. Lines that are being written can have as many bytes again.
pub(super) const BYTES_MAX: usize = 4 << 20;

/// Lines of all threads, for the thread that writes them. It is not locked during a write.
#[derive(Default, Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default, Debug)]
struct Waiting {
    batch: Batch,
    bytes: usize,
    is_closed: bool,
}

/// Lines in their order, and how many were lost after them.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    pub(super) lines: Vec<Vec<u8>>,
    pub(super) lost: u64,
}

impl Queue {
    /// Adds a line. Returns `false` if there is no room for it, or the queue is closed.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut waiting = self.lock();
        self.changed.notify_one();
        // Lines after a lost line are dropped too, so that the loss is reported in the right place.
        let has_room = waiting.batch.lost == 0 && waiting.bytes + line.len() <= BYTES_MAX;
        if waiting.is_closed || !has_room {
            waiting.batch.lost = waiting.batch.lost.saturating_add(1);
            return false;
        }
        waiting.bytes += line.len();
        waiting.batch.lines.push(line.to_vec());
        true
    }

    /// Waits for lines and takes all of them. Returns `None` when the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Batch> {
        let is_idle =
            |waiting: &mut Waiting| waiting.batch == Batch::default() && !waiting.is_closed;
        let waiting = self.changed.wait_while(self.lock(), is_idle);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        waiting.bytes = 0;
        let batch = std::mem::take(&mut waiting.batch);
        (batch != Batch::default()).then_some(batch)
    }

    /// Closes the queue: it accepts no more lines, and waiting lines can still be taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_lost_when_there_is_no_room_and_the_loss_is_counted_after_them() {
        let queue = Queue::default();
        let long = vec![b'x'; BYTES_MAX];
        assert!(queue.push(&long));
        assert!(!queue.push(b"y\n"), "full");
        assert!(!queue.push(b""), "none that came later may look as if nothing was lost before it");
        assert_eq!(queue.take(), Some(Batch { lines: vec![long.clone()], lost: 2 }));
        assert!(queue.push(b"z\n"), "there is room again");
        assert!(!queue.push(&[long.as_slice(), b"x"].concat()), "one line that is too long");
        assert_eq!(queue.take(), Some(Batch { lines: vec![b"z\n".to_vec()], lost: 1 }));
    }

    #[test]
    fn what_waits_is_taken_after_the_end() {
        let queue = Queue::default();
        assert!(queue.push(b"last\n"));
        queue.close();
        assert_eq!(queue.take().map(|batch| batch.lines), Some(vec![b"last\n".to_vec()]));
        assert_eq!(queue.take(), None);
        assert!(!queue.push(b"later\n"));
    }
}
