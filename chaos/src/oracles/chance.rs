//! Chance that can be repeated: one fault at some moment, and in half of the cases a second one while the first one lasts or is being
//! recovered from.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

use super::trial::Inflicted;

/// Longest wait before the first one, and before the second one after the beginning of the first.
const WAIT_MS: u64 = 3_000;

/// Splitmix64: one number says which run it was.
struct Chance(u64);

impl Chance {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    fn one_of<F: Copy>(&mut self, all: &[F]) -> Option<F> {
        let place = usize::try_from(self.below(all.len() as u64)).ok()?;
        all.get(place).copied()
    }

    fn wait(&mut self) -> Duration {
        Duration::from_millis(self.below(WAIT_MS))
    }
}

/// What a seed stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<F> {
    /// The first one.
    pub first: F,
    /// When it begins.
    pub after: Duration,
    /// What comes on top, and how long after the first one's beginning.
    pub second: Option<(F, Duration)>,
}

impl<F: Copy + Display> Choice<F> {
    /// One of `all`, and in half of the cases one of `on_top`; none: there is nothing to choose from.
    #[must_use]
    pub fn of(seed: u64, all: &[F], on_top: &[F]) -> Option<Self> {
        let mut chance = Chance(seed);
        let after = chance.wait();
        let first = chance.one_of(all)?;
        let second = if chance.below(2) == 0 {
            Some((chance.one_of(on_top)?, chance.wait()))
        } else {
            None
        };
        Some(Self { first, after, second })
    }

    /// Chooses by the system's chance and inflicts it, or both.
    ///
    /// # Errors
    /// When the first one could not be done. Of the second one it counts only that it was tried: the first may have taken away what it needs.
    pub async fn inflict_any(
        all: &[F],
        on_top: &[F],
        inflict: impl AsyncFn(F) -> Result<Inflicted>,
    ) -> Result<Inflicted> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes)
            .map_err(|error| anyhow::anyhow!("the system gave no random bytes: {error}"))?;
        let seed = u64::from_le_bytes(bytes);
        let choice = Self::of(seed, all, on_top).context("nothing to choose from")?;
        sleep(choice.after).await;
        let began = Instant::now();
        let second = async {
            let (fault, after) = choice.second?;
            sleep(after).await;
            Some((fault, after, inflict(fault).await))
        };
        let (first, second) = tokio::join!(inflict(choice.first), second);
        let first = first?;
        let mut did = format!("seed {seed:016x}: {}", first.did);
        let mut over = first.over;
        if let Some((fault, after, done)) = second {
            let what = match done {
                Ok(done) => {
                    over = over.max(done.over);
                    done.did
                }
                Err(error) => format!("{fault} could not be done: {error:#}"),
            };
            did = format!("{did}; {} ms later: {what}", after.as_millis());
        }
        Ok(Inflicted {
            at: first.at.min(began),
            over,
            hit: first.hit,
            did,
            cast: first.cast,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_choice_and_everything_comes() {
        let (first, on_top) = ([1, 2, 3], [7, 8]);
        let all: Vec<Choice<i32>> = (0..200)
            .map(|seed| Choice::of(seed, &first, &on_top).unwrap())
            .collect();
        assert_eq!(Choice::of(7, &first, &on_top), Choice::of(7, &first, &on_top));
        for fault in first {
            assert!(all.iter().any(|c| c.first == fault), "{fault} never comes");
        }
        for fault in on_top {
            let comes = |c: &Choice<i32>| c.second.is_some_and(|(second, _)| second == fault);
            assert!(all.iter().any(comes), "{fault} never comes on top");
        }
        assert!(all.iter().any(|c| c.second.is_none()));
        assert_eq!(Choice::<i32>::of(1, &[], &on_top), None);
    }
}
