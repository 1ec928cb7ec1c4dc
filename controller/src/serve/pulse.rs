//! Tells a task that goes on from one that hangs: what the liveness probe reports.

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
    /// The task goes on.
    pub fn beat(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now.saturating_add(1), Ordering::Relaxed);
    }

    /// How long ago the last beat was; `None` before the first.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_millis(last)))
    }

    /// Whether the last beat is at most `patience` old. A task that has not begun is none that
    /// hangs.
    ///
    /// # Errors
    /// Says how long it has been silent.
    pub fn alive(&self, patience: Duration) -> Result<(), String> {
        match self.age() {
            Some(age) if age > patience => Err(format!("no progress for {} s", age.as_secs())),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_task_without_a_beat_for_long_hangs() {
        let pulse = Pulse::default();
        tokio::time::advance(PATIENCE * 2).await;
        assert_eq!(pulse.alive(PATIENCE), Ok(()), "it has not begun");
        pulse.beat();
        tokio::time::advance(PATIENCE).await;
        assert_eq!(pulse.alive(PATIENCE), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse.alive(PATIENCE), Err("no progress for 31 s".to_owned()));
    }
}
