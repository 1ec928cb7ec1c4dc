//! Detects a task that hangs, for the liveness probe.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The last sign of life of a task. Clones share it.
#[derive(Clone, Debug)]
pub struct Pulse {
    epoch: Instant,
    /// Milliseconds from `epoch` to the last beat, plus one; 0 before the first.
    last: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { epoch: Instant::now(), last: Arc::default() }
    }
}

impl Pulse {
    /// Records that the task makes progress.
    pub fn beat(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// The time since the last beat; `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_millis(last)))
    }

    /// Whether the last beat is at most `age_max` old. A task that has not begun does not count as
    /// hanging.
    ///
    /// # Errors
    /// When the last beat is older; the error contains the time since then.
    pub fn alive(&self, age_max: Duration) -> Result<(), String> {
        match self.age() {
            Some(age) if age > age_max => Err(format!("no progress for {} s", age.as_secs())),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE_MAX: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_task_without_a_beat_for_long_hangs() {
        let pulse = Pulse::default();
        tokio::time::advance(AGE_MAX * 2).await;
        assert_eq!(pulse.alive(AGE_MAX), Ok(()), "it has not begun");
        pulse.beat();
        tokio::time::advance(AGE_MAX).await;
        assert_eq!(pulse.alive(AGE_MAX), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse.alive(AGE_MAX), Err("no progress for 31 s".to_owned()));
    }
}
