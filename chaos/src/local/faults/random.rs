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

/// Inflicts one, or two that overlap.
pub async fn any(rig: &Rig) -> Result<Inflicted> {
    Choice::inflict_any(&Fault::ALL, &ON_TOP, async |fault| {
        Box::pin(fault.inflict(rig)).await
    })
    .await
}
