//! A scenario of any kind at any moment, and in half of the cases a second one on top.

use anyhow::Result;

use super::Scenario;
use crate::cluster::target::Target;
use crate::oracles::chance::Choice;
use crate::oracles::trial::Inflicted;

/// Left out: the control, what takes many minutes, or ends the cluster's own control plane in a way that says nothing about another fault beside it.
const NEVER: [Scenario; 5] = [
    Scenario::Nothing,
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

/// Inflicts one, or two that overlap; of those that are possible there.
pub async fn any(target: &Target) -> Result<Inflicted> {
    let has_hosts = target.hosts.is_some();
    let all: Vec<Scenario> = possible(has_hosts).collect();
    let on_top: Vec<Scenario> = ON_TOP.into_iter().filter(|one| all.contains(one)).collect();
    let inflict = async |scenario: Scenario| Box::pin(scenario.inflict(target)).await;
    Choice::inflict_any(&all, &on_top, inflict).await
}

fn possible(has_hosts: bool) -> impl Iterator<Item = Scenario> {
    Scenario::once_each().filter(move |one| !NEVER.contains(one) && (has_hosts || !one.needs_hosts()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_on_top_may_come_first_and_without_hosts_something_is_left() {
        let all: Vec<Scenario> = possible(true).collect();
        assert!(ON_TOP.iter().all(|one| all.contains(one)));
        assert!(NEVER.iter().all(|one| !all.contains(one)));
        assert!(possible(false).all(|one| !one.needs_hosts()));
        assert!(
            ON_TOP
                .iter()
                .any(|one| possible(false).any(|other| other == *one))
        );
    }
}
