//! A fault of any kind at any moment, and in half of the cases a second one while the first one lasts or is being recovered from.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

use super::Fault;
use crate::local::rig::Rig;
use crate::oracles::chance::Chance;
use crate::oracles::trial::Inflicted;

/// Longest wait before the first fault, and before the second one after the beginning of the first.
const WAIT_MS: u64 = 3_000;
/// What may come on top. None of them loses data: one loss at a time is what k = 1 stands for.
const ON_TOP: [Fault; 8] = [
    Fault::PostmasterKill,
    Fault::PodKill,
    Fault::SidecarKill,
    Fault::GuardKill,
    Fault::StandbyKill,
    Fault::StandbyFreeze,
    Fault::Switchover,
    Fault::ApiRestart,
];

/// What a seed stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    first: Fault,
    after: Duration,
    second: Option<(Fault, Duration)>,
}

fn choose(seed: u64) -> Option<Choice> {
    let mut chance = Chance(seed);
    let wait = |chance: &mut Chance| Duration::from_millis(chance.below(WAIT_MS));
    let after = wait(&mut chance);
    let first = *chance.one_of(&Fault::ALL)?;
    let second = if chance.below(2) == 0 {
        Some((*chance.one_of(&ON_TOP)?, wait(&mut chance)))
    } else {
        None
    };
    Some(Choice { first, after, second })
}

/// Inflicts one, or two that overlap. Of the second one it counts only that it was tried: the first may have taken away what it needs.
pub async fn any(rig: &Rig) -> Result<Inflicted> {
    let seed = Chance::seed()?;
    let choice = choose(seed).context("nothing to choose from")?;
    sleep(choice.after).await;
    let began = Instant::now();
    let on_top = async {
        let (fault, after) = choice.second?;
        sleep(after).await;
        Some((fault, after, Box::pin(fault.inflict(rig)).await))
    };
    let (first, second) = tokio::join!(Box::pin(choice.first.inflict(rig)), on_top);
    let second = second.map(|(fault, after, done)| (fault.to_string(), after, done));
    Ok(Inflicted::both(
        began,
        &format!("seed {seed:016x}"),
        first?,
        second,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_choice_and_seeds_differ() {
        let all: Vec<Choice> = (0..500).map(|seed| choose(seed).unwrap()).collect();
        assert_eq!(choose(7), choose(7));
        for fault in Fault::ALL {
            assert!(all.iter().any(|c| c.first == fault), "{fault} never comes");
        }
        for fault in ON_TOP {
            let on_top = |c: &Choice| c.second.is_some_and(|(second, _)| second == fault);
            assert!(all.iter().any(on_top), "{fault} never comes on top");
        }
        assert!(all.iter().any(|c| c.second.is_none()));
    }
}
