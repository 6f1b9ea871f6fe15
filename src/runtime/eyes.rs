//! Looks at the local server and asks the other members, at the pace that the loop sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::brain::Input;
use super::hands::send;
use super::steering::AskPlan;
use crate::core::observe::Promised;
use crate::core::record::Evidence;
use crate::core::types::MemberName;
use crate::lease::{LiveClock, boottime};
use crate::peers::{Asker, People};
use crate::postgres::{Health, Prober};

/// Longest time for a look: what takes longer is hung.
const PROBE_BUDGET: Duration = Duration::from_millis(1_500);
/// Longest time for a peer's answer.
const ASK_BUDGET: Duration = Duration::from_millis(1_000);

/// Looks at the local server, each time on a new connection: a kept one says "healthy" while no one can log in.
pub async fn probe(
    prober: Prober,
    clock: LiveClock,
    mut every: watch::Receiver<Duration>,
    now: Arc<Notify>,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        let asked_at = clock.now();
        let value = prober.probe_fresh(PROBE_BUDGET, Health::Write).await;
        if inputs
            .send(Input::Probe(Box::new(Evidence { value, asked_at })))
            .await
            .is_err()
        {
            return;
        }
        let pause = *every.borrow_and_update();
        let paused = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = now.notified() => {}
                // A shorter pace counts at once.
                _ = every.changed() => {}
            }
        };
        paused.await;
    }
}

/// Asks every member of the plan, each at most once at a time.
pub async fn ask(
    asker: Asker,
    clock: LiveClock,
    mut plan: watch::Receiver<AskPlan>,
    inputs: mpsc::Sender<Input>,
) {
    let mut asking: JoinSet<MemberName> = JoinSet::new();
    let mut under_way: BTreeMap<MemberName, ()> = BTreeMap::new();
    loop {
        let wanted = plan.borrow_and_update().clone();
        for (member, address) in &wanted.whom {
            if under_way.insert(member.clone(), ()).is_some() {
                continue;
            }
            let (asker, clock, inputs, told) = (asker.clone(), clock.clone(), inputs.clone(), wanted.told);
            let (member, address) = (member.clone(), address.clone());
            asking.spawn(async move {
                // A promise counts from before the heartbeat was sent.
                let (asked_at, asked_boot) = (clock.now(), boottime());
                let answer = match asker.ask(&address, told, ASK_BUDGET).await {
                    Ok(answer) if answer.report.member != member => Err(format!(
                        "{} answered at the address of {member}",
                        answer.report.member
                    )),
                    other => other,
                };
                let promise = answer.as_ref().ok().and_then(|a| a.promise.clone());
                if let Some(promise) = promise.filter(|p| Some(p.term) == told.heartbeat) {
                    let promised = Promised {
                        term: promise.term,
                        data_id: promise.data_id,
                        for_ms: promise.for_ms,
                        asked_boot,
                        asked_at,
                    };
                    send(&inputs, Input::Promised(member.clone(), promised)).await;
                }
                let mut people = None;
                let value = answer.map(|answer| {
                    people = Some(answer.people.and_then(People::read).map(Box::new));
                    answer.report
                });
                if let Some(people) = people {
                    send(&inputs, Input::People(member.clone(), people)).await;
                }
                let input = value.map(|value| Evidence { value, asked_at });
                send(&inputs, Input::Peer(member.clone(), Box::new(input))).await;
                member
            });
        }
        let round = tokio::time::sleep(wanted.every.max(Duration::from_millis(10)));
        tokio::pin!(round);
        loop {
            tokio::select! {
                () = &mut round => break,
                changed = plan.changed() => {
                    if changed.is_err() { return }
                    break;
                }
                Some(done) = asking.join_next(), if !asking.is_empty() => {
                    if let Ok(member) = done { under_way.remove(&member); }
                }
            }
        }
    }
}
