//! A scenario of any kind at any moment, and in half of the cases a second one while the first one lasts or is being recovered from.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum as _;
use tokio::time::{Instant, sleep};

use super::Scenario;
use crate::cluster::target::Target;
use crate::oracles::chance::Chance;
use crate::oracles::trial::Inflicted;

/// Longest wait before the first one, and before the second one after the beginning of the first.
const WAIT_MS: u64 = 3_000;
/// Left out: what takes many minutes, or ends the cluster's own control plane in a way that says nothing about another fault beside it.
const NEVER: [Scenario; 5] = [
    Scenario::Random,
    Scenario::SidecarCrashloop,
    Scenario::Rollout,
    Scenario::SidecarUpgrade,
    Scenario::StsOriginal,
];
/// What may come on top. None of them loses data, and none changes what the first one has to take back.
const ON_TOP: [Scenario; 6] = [
    Scenario::PostmasterKill,
    Scenario::ContainerKill,
    Scenario::SidecarKill,
    Scenario::PodKill,
    Scenario::Switchover,
    Scenario::ApiCut,
];

/// What a seed stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    first: Scenario,
    after: Duration,
    second: Option<(Scenario, Duration)>,
}

fn choose(seed: u64, possible: impl Fn(&Scenario) -> bool) -> Option<Choice> {
    let mut chance = Chance(seed);
    let wait = |chance: &mut Chance| Duration::from_millis(chance.below(WAIT_MS));
    let after = wait(&mut chance);
    let all: Vec<Scenario> = Scenario::value_variants()
        .iter()
        .copied()
        .filter(|one| !NEVER.contains(one) && possible(one))
        .collect();
    let on_top: Vec<Scenario> = ON_TOP.into_iter().filter(|one| possible(one)).collect();
    let first = *chance.one_of(&all)?;
    let second = if chance.below(2) == 0 {
        Some((*chance.one_of(&on_top)?, wait(&mut chance)))
    } else {
        None
    };
    Some(Choice { first, after, second })
}

/// Inflicts one, or two that overlap.
pub async fn any(target: &Target) -> Result<Inflicted> {
    let seed = Chance::seed()?;
    let possible = |one: &Scenario| target.hosts.is_some() || !one.needs_hosts();
    let choice = choose(seed, possible).context("nothing to choose from")?;
    sleep(choice.after).await;
    let began = Instant::now();
    let on_top = async {
        let (scenario, after) = choice.second?;
        sleep(after).await;
        Some((scenario, after, Box::pin(scenario.inflict(target)).await))
    };
    let (first, second) = tokio::join!(Box::pin(choice.first.inflict(target)), on_top);
    let second = second.map(|(scenario, after, done)| (scenario.to_string(), after, done));
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
        let all: Vec<Choice> = (0..1_000).map(|seed| choose(seed, |_| true).unwrap()).collect();
        assert_eq!(choose(7, |_| true), choose(7, |_| true));
        for scenario in Scenario::value_variants() {
            let comes = all.iter().any(|c| c.first == *scenario);
            assert_eq!(comes, !NEVER.contains(scenario), "{scenario}");
        }
        for scenario in ON_TOP {
            let on_top = |c: &Choice| c.second.is_some_and(|(second, _)| second == scenario);
            assert!(all.iter().any(on_top), "{scenario} never comes on top");
        }
        let api_only = |one: &Scenario| !one.needs_hosts();
        assert!((0..200).all(|seed| !choose(seed, api_only).unwrap().first.needs_hosts()));
    }
}
