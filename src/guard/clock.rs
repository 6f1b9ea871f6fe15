//! CLOCK_BOOTTIME: what permits are counted in. It goes on while the machine is suspended.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of CLOCK_BOOTTIME. If the clock cannot be read the end of time is answered, at which every permit has ended.
#[must_use]
pub fn boot_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(u64::MAX, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}
