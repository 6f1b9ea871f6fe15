//! A clock that runs at its own rate: nanoseconds, so that no rate is lost in short spans.

/// Nanoseconds of a millisecond.
const MILLI: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    nanos: u64,
    /// Parts in a million that it runs too fast.
    fast: i64,
}

impl Clock {
    pub fn new(shows: u64, fast: i64) -> Self {
        Self {
            nanos: shows * MILLI,
            fast,
        }
    }

    /// From now on at another rate.
    pub fn set_rate(&mut self, fast: i64) {
        self.fast = fast;
    }

    /// Milliseconds.
    pub fn shows(self) -> u64 {
        self.nanos / MILLI
    }

    /// So many milliseconds of the world pass.
    pub fn pass(&mut self, millis: u64) {
        self.nanos += self.span(millis);
    }

    fn span(self, millis: u64) -> u64 {
        let rate = MILLI.checked_add_signed(self.fast).unwrap_or(MILLI);
        millis * rate
    }

    /// Milliseconds of the world until it shows this; zero: it does now.
    pub fn until(self, shows: u64) -> u64 {
        let missing = shows.saturating_mul(MILLI).saturating_sub(self.nanos);
        missing.div_ceil(self.span(1))
    }
}
