//! A fault of any kind at any moment, and in half of the cases a second one on top.

use anyhow::Result;

use super::Fault;
use crate::local::rig::Rig;
use crate::oracles::chance::Choice;
use crate::oracles::trial::Inflicted;

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

/// Left out: the control, and those that are two faults already, whose second one counts on what the first one left or made.
const NEVER: [Fault; 6] = [
    Fault::Nothing,
    Fault::StandbyAwayPostmasterKill,
    Fault::StandbyAwayPodKill,
    Fault::StandbyLeavesPostmasterKill,
    Fault::StandbyLeavesPodKill,
    Fault::ReportHoldsReplay,
];

/// Inflicts one, or two that overlap.
pub async fn any(rig: &Rig) -> Result<Inflicted> {
    let all: Vec<Fault> = Fault::ALL
        .into_iter()
        .filter(|fault| !NEVER.contains(fault))
        .collect();
    Choice::inflict_any(&all, &ON_TOP, async |fault| Box::pin(fault.inflict(rig)).await).await
}
