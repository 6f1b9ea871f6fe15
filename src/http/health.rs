//! Whether the process lives: its loop ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A loop that has not ticked for this long is not alive.
pub const ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// When the loop last ticked. Clones share it.
#[derive(Debug, Clone)]
pub struct Pulse {
    began: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// Counts the moment of its making as the first tick.
    #[must_use]
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            last_ms: Arc::default(),
        }
    }

    /// The loop ticked.
    pub fn tick(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Time since the last tick.
    #[must_use]
    pub fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    /// Ticked within `ALIVE_WITHIN`.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.age() <= ALIVE_WITHIN
    }
}
