//! Chance that can be repeated.

use anyhow::Result;

/// Splitmix64: one number says which run it was.
#[derive(Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// A seed from the system.
    ///
    /// # Errors
    /// When it gives none.
    pub fn seed() -> Result<u64> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)
            .map_err(|error| anyhow::anyhow!("the system gave no random bytes: {error}"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below this one.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// One of these; none: there are none.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let place = usize::try_from(self.below(all.len() as u64)).ok()?;
        all.get(place)
    }
}
