//! Does what was decided: each action in a task of its own, bounded, its outcome fed back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::brain::record_of;
use super::brain::{Input, Lane};
use super::chores::ReplicationWish;
use super::convert;
use super::effects::EffectsWish;
use super::guard_link::{GuardLink, stamp};
use super::orders::{self, NotDone, Secrets};
use super::readers::Readers;
use super::rotation;
use super::settings::SidecarSettings;
use super::sight::Sight;
use crate::core::action::{Action, GuardOrder, OrderState, SqlJob, Swap};
use crate::core::observe::{GuardView, Observation, Outcome, SwapResult};
use crate::core::probe::Probe;
use crate::core::types::{MemberName, Millis, Term};
use crate::guard::protocol::{Answer, Order, Status};
use crate::lease::{self, Baton, LiveClock, SwapOutcome, boottime};
use crate::postgres::Session;

/// Longest time for a swap.
const SWAP_TIMEOUT: Duration = Duration::from_millis(2_000);
/// Longest time for a permit to reach the guard.
const PERMIT_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Longest time for a checkpoint before a fence: a handover waits for no more.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time for ending walsenders.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// A promotion normally is over before the first look at what replay waits for.
const REPLAY_LOOK: Duration = Duration::from_millis(300);

/// The hands.
#[derive(Debug)]
pub struct Hands {
    /// Settings.
    pub settings: Arc<SidecarSettings>,
    /// Live clock.
    pub clock: LiveClock,
    /// The Lease.
    pub baton: Arc<Baton>,
    /// The guard.
    pub guard: Arc<GuardLink>,
    /// Where outcomes go.
    pub inputs: mpsc::Sender<Input>,
    /// What Kubernetes shall show.
    pub effects: watch::Sender<Option<EffectsWish>>,
    /// What the leader keeps.
    pub replication: watch::Sender<Option<ReplicationWish>>,
    /// Answers to people.
    pub answers: mpsc::Sender<(String, OrderState, String)>,
    /// The report that goes with the next swap.
    pub report: watch::Receiver<String>,
    /// The operation of the guard that is waited for.
    pub operation: Option<(u64, GuardOrder)>,
    /// The last order to follow: of which term, and when.
    pub followed: Option<(Term, GuardOrder, Millis)>,
    /// Who is fit to be read from.
    pub readers: Readers,
}

impl Hands {
    /// Begins one action.
    pub fn act(
        &mut self,
        action: &Action,
        seen: &Observation,
        sight: &Sight,
        lease: &mut watch::Receiver<lease::LeaseView>,
    ) {
        match action {
            Action::Swap(swap) => self.swap(swap, &lease.borrow().clone()),
            Action::Permit { term, deadline_boot } => self.permit(*term, *deadline_boot, &seen.guard),
            Action::Guard { term, order } => self.order(*term, order, &seen.guard, seen.now),
            Action::Sql(job) => self.sql(job.clone(), sight),
            Action::Effects {
                term,
                primary,
                members,
                open,
            } => {
                let not_for_reading = self.not_for_reading(seen, sight);
                let wish = EffectsWish {
                    term: *term,
                    primary: primary.clone(),
                    members: members.clone(),
                    open: *open,
                    not_for_reading,
                };
                self.effects.send_if_modified(|old| set(old, Some(wish)));
            }
            Action::KeepReplication { standbys } => {
                let failing_archive = match sight.probe.as_ref().map(|p| &p.value) {
                    Some(Probe::Primary(view)) if view.archive.failing() => Some(view.archive.clone()),
                    _ => None,
                };
                let wish = ReplicationWish {
                    standbys: Some(standbys.clone()),
                    failing_archive,
                };
                self.replication.send_if_modified(|old| set(old, Some(wish)));
            }
            Action::AnswerOrder { id, state, text } => {
                // A full queue: the same answer is decided again.
                let _ = self.answers.try_send((id.clone(), *state, text.clone()));
            }
        }
    }

    /// Stops asking for effects and chores of a leader.
    pub fn rest(&mut self, sight: &Sight) {
        self.readers.clear();
        self.effects.send_if_modified(|old| set(old, None));
        let standby = matches!(sight.probe.as_ref().map(|p| &p.value), Some(Probe::Standby(_)));
        let wish = standby.then_some(ReplicationWish {
            standbys: None,
            failing_archive: None,
        });
        self.replication.send_if_modified(|old| set(old, wish));
    }

    fn not_for_reading(&mut self, seen: &Observation, sight: &Sight) -> Vec<MemberName> {
        let Some(record) = record_of(&seen.lease) else {
            return Vec::new();
        };
        let probe = sight.probe.as_ref().map(|p| &p.value);
        let settings = &self.settings;
        self.readers
            .unfit(&settings.core.me, record, seen, probe, settings.maximum_read_lag)
    }

    fn swap(&self, swap: &Swap, view: &lease::LeaseView) {
        let ended = |result, sent_boot, sent_at| {
            let kind = swap.kind;
            Input::Ended(
                Lane::Swap,
                Box::new(Outcome::Swap {
                    kind,
                    sent_boot,
                    sent_at,
                    result,
                }),
            )
        };
        let Some(based_on) = view
            .state
            .seen()
            .filter(|l| l.resource_version == swap.based_on)
            .cloned()
        else {
            self.feed(ended(SwapResult::Lost, boottime(), self.clock.now()));
            return;
        };
        let report = self.report.borrow().clone();
        let mut annotations = swap.annotations.clone();
        annotations.insert(crate::core::report::REPORT_ANNOTATION.to_owned(), Some(report));
        let order = lease::Swap {
            based_on,
            kind: convert::swap_kind(swap),
            record: (*swap.record).clone(),
            annotations,
            timeout: SWAP_TIMEOUT,
        };
        let (baton, inputs, clock, kind) = (
            self.baton.clone(),
            self.inputs.clone(),
            self.clock.clone(),
            swap.kind,
        );
        let configured = Duration::from_millis(self.settings.core.lease_duration.0);
        tokio::spawn(async move {
            let (boot, live) = (boottime(), clock.now());
            let (sent_boot, sent_at, result) = match baton.swap(order).await {
                SwapOutcome::Done {
                    lease,
                    sent_boot,
                    sent_live,
                } => {
                    let seen = convert::seen_lease(&lease, clock.now(), configured);
                    (sent_boot, sent_live, SwapResult::Done(Box::new(seen)))
                }
                SwapOutcome::Lost => (boot, live, SwapResult::Lost),
                SwapOutcome::Refused { message, .. } => (boot, live, SwapResult::Refused(message)),
                SwapOutcome::Unknown { reason } => (boot, live, SwapResult::Unknown(reason)),
            };
            let outcome = Outcome::Swap {
                kind,
                sent_boot,
                sent_at,
                result,
            };
            send(&inputs, Input::Ended(Lane::Swap, Box::new(outcome))).await;
        });
    }

    fn permit(&self, term: Term, deadline_boot: Millis, guard: &GuardView) {
        let GuardView::Heard(status) = guard else { return };
        let stamp = stamp(term, self.guard.next_sequence(), &status.value);
        let link = self.guard.clone();
        tokio::spawn(async move {
            let order = Order::Permit {
                deadline_boot_ms: deadline_boot.0,
            };
            // The next renewal asks again; the guard enforces what it has.
            match link.ask(order, Some(stamp), PERMIT_TIMEOUT).await {
                Ok(Answer::Ok { .. }) => {}
                Ok(answer) => tracing::warn!(?answer, "the guard did not take the permit"),
                Err(error) => tracing::warn!(error, "the permit did not reach the guard"),
            }
        });
    }

    /// Gives an order to the guard.
    pub(super) fn order(&mut self, term: Term, order: &GuardOrder, guard: &GuardView, now: Millis) {
        if matches!(order, GuardOrder::Follow { .. }) {
            self.followed = Some((term, order.clone(), now));
        }
        let GuardView::Heard(status) = guard else {
            self.feed(guard_ended(
                order.clone(),
                Some("the guard is out of sight".to_owned()),
            ));
            return;
        };
        let sequence = self.guard.next_sequence();
        if orders::is_operation(order) {
            self.operation = Some((sequence, order.clone()));
        }
        let stamp = stamp(term, sequence, &status.value);
        let settings = self.settings.clone();
        let (link, inputs, order) = (self.guard.clone(), self.inputs.clone(), order.clone());
        tokio::spawn(async move {
            let promotes = matches!(order, GuardOrder::Promote { .. });
            let own = settings.clone();
            let secrets = Secrets::of(&*rotation::fitting(settings, &order).await);
            let given = orders::give(&link, &order, stamp, &secrets, &inputs);
            let given = async move {
                tokio::select! {
                    done = given => done,
                    never = keep_replay_going(&own), if promotes => match never {},
                }
            };
            let input = match given.await {
                Ok(()) => guard_ended(order, None),
                Err(NotDone::Failed(error)) => guard_ended(order, Some(error)),
                Err(NotDone::Busy(reason)) => {
                    Input::Ended(Lane::Guard, Box::new(Outcome::GuardBusy { order, reason }))
                }
            };
            send(&inputs, input).await;
        });
    }

    /// An operation that ended badly is the failure of the order that began it.
    pub fn note_operation(&mut self, sight: &mut Sight, status: &Status) {
        let Some((sequence, order)) = &self.operation else {
            return;
        };
        let Some(end) = status
            .last_operation
            .as_ref()
            .filter(|end| end.sequence == *sequence)
        else {
            return;
        };
        if let Some(error) = &end.error {
            let outcome = Outcome::Guard {
                order: order.clone(),
                error: Some(error.clone()),
            };
            sight.note_outcome(outcome);
        }
        self.operation = None;
    }

    fn sql(&self, job: SqlJob, sight: &Sight) {
        let walsenders = match sight.probe.as_ref().map(|p| &p.value) {
            Some(Probe::Primary(view)) => view.walsenders(),
            _ => std::collections::BTreeSet::new(),
        };
        let (settings, inputs) = (self.settings.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let error = run_sql(&settings, &job, walsenders).await.err();
            send(
                &inputs,
                Input::Ended(Lane::Sql, Box::new(Outcome::Sql { job, error })),
            )
            .await;
        });
    }

    fn feed(&self, input: Input) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move { send(&inputs, input).await });
    }
}

fn guard_ended(order: GuardOrder, error: Option<String>) -> Input {
    Input::Ended(Lane::Guard, Box::new(Outcome::Guard { order, error }))
}

async fn run_sql(
    settings: &SidecarSettings,
    job: &SqlJob,
    walsenders: std::collections::BTreeSet<crate::core::probe::Walsender>,
) -> Result<(), String> {
    let budget = match job {
        SqlJob::Checkpoint => CHECKPOINT_TIMEOUT,
        SqlJob::EndWalsenders { .. } => END_TIMEOUT,
    };
    let text = |e: crate::postgres::PgError| e.to_string();
    let mut session = Session::open(&settings.server, &settings.superuser, budget, END_TIMEOUT)
        .await
        .map_err(text)?;
    match job {
        SqlJob::Checkpoint => crate::postgres::leader::checkpoint(&mut session, budget)
            .await
            .map_err(text),
        SqlJob::EndWalsenders { pids } => {
            let those = walsenders.into_iter().filter(|w| pids.contains(&w.pid)).collect();
            let left = crate::postgres::leader::terminate_walsenders(&mut session, &those, budget)
                .await
                .map_err(text)?;
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{} walsenders did not end", left.len()))
            }
        }
    }
}

/// Ends what a promotion would wait for; the promotion's own end ends this.
async fn keep_replay_going(settings: &SidecarSettings) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(REPLAY_LOOK).await;
        let opened = Session::open(&settings.server, &settings.superuser, END_TIMEOUT, END_TIMEOUT).await;
        let ended = match opened {
            Ok(mut session) => {
                crate::postgres::conflict::end_what_holds_replay(&mut session, END_TIMEOUT).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(ended) if ended.is_empty() => {}
            Ok(ended) => tracing::warn!(
                sessions = ended.join(", "),
                "ended sessions that kept the promotion from replaying WAL: reports on standbys hold up a takeover"
            ),
            // The promotion goes on or not without this.
            Err(error) => tracing::debug!(%error, "it is not known whether a session holds replay"),
        }
    }
}

/// Feeds the loop; when it is gone, so is the process.
pub async fn send(inputs: &mpsc::Sender<Input>, input: Input) {
    let _ = inputs.send(input).await;
}

fn set<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    *old = new;
    changed
}
