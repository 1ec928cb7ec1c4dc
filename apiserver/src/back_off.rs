//! How long to wait between attempts of an operation that fails.

use std::time::Duration;

/// Waits that double from the first to the longest.
///
/// They are not random: a caller that shares a server with a thousand others adds jitter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackOff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl BackOff {
    /// Waits from `first` to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait after this failure.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait
    }

    /// An attempt succeeded: after the next failure the first wait follows.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_start_again_after_a_success() {
        let seconds = Duration::from_secs;
        let mut back_off = BackOff::new(seconds(2), seconds(10));
        let waits: Vec<u64> = (0..5).map(|_| back_off.wait().as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 10, 10]);
        back_off.reset();
        assert_eq!(back_off.wait(), seconds(2));
    }
}
