//! The volume of a server that leads is full: it lives, and takes no more writes. Another one may have room.

use super::Mind;
use crate::core::record::Record;
use crate::core::types::Millis;
use crate::core::why::{StepDown, Why};
use crate::guard::protocol::{Server, Status};

/// Fewer free bytes are none: two WAL segments of PostgreSQL's default size, for the one in use and the next.
const LEAST: u64 = 32 << 20;
/// A successor has more, or it is full itself in a moment.
const LEAST_OF_SUCCESSOR: u64 = 2 * LEAST;

/// Whether a server on this volume can take no more writes.
#[must_use]
pub(super) fn is_full(guard: &Status) -> bool {
    guard.disk_total > 0 && guard.disk_free < LEAST
}

/// Whether a server on this volume is no help to one that is full.
#[must_use]
pub(super) fn is_nearly_full(guard: &Status) -> bool {
    guard.disk_total > 0 && guard.disk_free < LEAST_OF_SUCCESSOR
}

impl Mind<'_> {
    /// For how long the volume here has been full while its server led.
    pub(super) fn full_for(&mut self, guard: &Status) -> Option<Millis> {
        if guard.server != Server::Primary || !is_full(guard) {
            self.state.full_since = None;
            return None;
        }
        let now = self.now();
        Some(now.since(*self.state.full_since.get_or_insert(now)))
    }

    /// A reason to hand over: full for as long as a server may be unhealthy, and somebody has room.
    pub(super) fn gives_up_full_volume(&mut self, record: &Record, guard: &Status) -> Option<StepDown> {
        let for_ms = self.full_for(guard)?;
        let free = guard.disk_free;
        let may = for_ms >= self.settings.health_timeout && self.successor(record, None).is_ok();
        may.then_some(StepDown::VolumeFull { free })
    }

    /// What a leader with a full volume says when nobody has taken over.
    pub(super) fn unless_full(&mut self, record: &Record, guard: &Status, why: Why) -> Why {
        let full = self
            .full_for(guard)
            .is_some_and(|f| f >= self.settings.health_timeout);
        if why != Why::Leading || !full {
            return why;
        }
        let nobody_because = match self.successor(record, None) {
            Ok(_) => "the last handovers did not help, or it is paused".to_owned(),
            Err(why) => why,
        };
        Why::VolumeFull {
            free: guard.disk_free,
            nobody_because,
        }
    }
}
