//! Clocks of the lease: the boot clock, which permits are counted on, and the live clock, which other holders are judged by.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::core::types::Millis;

/// How often [`LiveClock::tick`] reads the clock.
pub const TICK: Duration = Duration::from_millis(100);
/// Most that one reading of the live clock adds: two ticks, so that an ordinary delay costs nothing.
pub const STEP_MAX: Millis = Millis(200);

/// `CLOCK_BOOTTIME` in milliseconds: it counts suspended time too, and is one clock for all processes of this kernel.
#[must_use]
pub fn boottime() -> Millis {
    // The call fails only for an unknown clock or a bad pointer (clock_gettime(2)). Zero would make a permit end in the
    // past, which is the safe side.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Millis(0), |now| {
        let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
        Millis(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
    })
}

/// A monotonic clock in which time that this process itself stood still (stopped, starved, suspended) is not counted.
///
/// Whoever was away cannot tell whether the holder of the Lease renewed meanwhile: on any ordinary clock the Lease looks
/// expired at the first glance after the thaw. Here each reading adds at most `step_max`, so only time in which this process
/// kept reading (see [`LiveClock::tick`]) counts. The clock can be slow, never fast.
#[derive(Clone)]
pub struct LiveClock {
    inner: Arc<Inner>,
}

struct Inner {
    source: Box<dyn Fn() -> Millis + Send + Sync>,
    step_max: Millis,
    state: Mutex<State>,
}

struct State {
    last_read: Millis,
    live: Millis,
}

impl fmt::Debug for LiveClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveClock").field("now", &self.now()).finish()
    }
}

impl LiveClock {
    /// The live clock of this process, on `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn system() -> Self {
        Self::with_source(boottime, STEP_MAX)
    }

    /// A live clock on `source`, a clock that never goes back; each reading adds at most `step_max`. It starts at zero.
    #[must_use]
    pub fn with_source(source: impl Fn() -> Millis + Send + Sync + 'static, step_max: Millis) -> Self {
        let last_read = source();
        Self {
            inner: Arc::new(Inner {
                source: Box::new(source),
                step_max,
                state: Mutex::new(State {
                    last_read,
                    live: Millis(0),
                }),
            }),
        }
    }

    /// Reads the clock.
    #[must_use]
    pub fn now(&self) -> Millis {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: a reading taken earlier by another thread would count its time twice.
        let read = (self.inner.source)();
        let step = read.since(state.last_read).0.min(self.inner.step_max.0);
        state.last_read = state.last_read.max(read);
        state.live = state.live.plus(Millis(step));
        state.live
    }

    /// Keeps the clock going: without it only `step_max` passes between two readings. Run it as a task of its own.
    pub async fn tick(self) -> Infallible {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let _ = self.now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn manual() -> (Arc<AtomicU64>, LiveClock) {
        let time = Arc::new(AtomicU64::new(5_000));
        let source = time.clone();
        let clock = LiveClock::with_source(move || Millis(source.load(Ordering::SeqCst)), Millis(200));
        (time, clock)
    }

    #[test]
    fn counts_time_in_which_it_is_read() {
        let (time, clock) = manual();
        for _ in 0..50 {
            time.fetch_add(100, Ordering::SeqCst);
            let _ = clock.now();
        }
        assert_eq!(clock.now(), Millis(5_000));
    }

    #[test]
    fn leaves_out_time_in_which_the_process_stood_still() {
        let (time, clock) = manual();
        time.fetch_add(3_600_000, Ordering::SeqCst);
        assert_eq!(clock.now(), Millis(200));
        assert_eq!(clock.now(), Millis(200));
    }

    #[test]
    fn never_goes_back_when_its_source_does() {
        let (time, clock) = manual();
        time.store(5_100, Ordering::SeqCst);
        assert_eq!(clock.now(), Millis(100));
        time.store(4_000, Ordering::SeqCst);
        assert_eq!(clock.now(), Millis(100));
        time.store(5_150, Ordering::SeqCst);
        assert_eq!(clock.now(), Millis(150));
    }

    #[test]
    fn boot_clock_advances_with_real_time() {
        let before = boottime();
        std::thread::sleep(Duration::from_millis(5));
        assert!(boottime().since(before) >= Millis(4));
    }
}
