//! A small generator of numbers: the same seed, the same world.

/// Lots that are drawn evenly come after all others.
const AFTER_ALL_OTHERS: u64 = 1 << 57;

#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
    /// Nothing is by chance: everything takes its middle time, and what was put first comes first.
    even: bool,
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03 | 1,
            even: false,
        }
    }

    pub fn even() -> Self {
        Self {
            state: AFTER_ALL_OTHERS,
            even: true,
        }
    }

    pub fn next(&mut self) -> u64 {
        if self.even {
            self.state += 1;
            return self.state;
        }
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        if self.even {
            return low.midpoint(high);
        }
        low + self.next() % (high - low + 1)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        if self.even {
            return chance > 50;
        }
        self.next() % 100 < chance
    }

    pub fn bytes(&mut self) -> [u8; 8] {
        self.next().wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
    }
}
