//! The one loop: gather what came in, decide, act, feed outcomes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::convert;
use super::ending::may_end;
use super::guard_link::REFUSES;
use super::hands::Hands;
use super::knock;
use super::memory::Memory;
use super::preflight::{Rights, recorded};
use super::settings::SidecarSettings;
use super::sight::Sight;
use super::steering::{AskPlan, Steering};
use super::survey;
use super::unguarded::{Unguarded, suspects};
use super::words::{log_decision, log_outcome};
use crate::core::adoption::Survey;
use crate::core::decide::{Decision, decide};
use crate::core::observe::{GuardView, HolderSight, LeaseView, Observation, Outcome, PeerReport, Promised};
use crate::core::phase::Phase;
use crate::core::probe::Probe;
use crate::core::record::{Evidence, Member, Record};
use crate::core::state::State;
use crate::core::types::{Address, MemberName, Millis, Term};
use crate::guard::protocol::Status;
use crate::lease::{self, LiveClock, boottime};
use crate::peers::{People, Told};

/// Inputs that may wait to be taken in.
pub const INPUTS_MAX: usize = 256;
/// A guard status older than this is not passed on to peers.
const STATUS_FRESH: Millis = Millis(3_000);

/// Something that came in.
#[derive(Debug)]
pub enum Input {
    /// The guard's status.
    Guard(Box<Evidence<Status>>),
    /// The guard's status in the answer to an order: as new as its revision.
    Told(Box<Evidence<Status>>),
    /// The guard cannot be reached.
    GuardLost {
        /// For people.
        reason: String,
    },
    /// A look at the local server.
    Probe(Box<Evidence<Probe>>),
    /// A peer's answer.
    Peer(MemberName, Box<Result<Evidence<PeerReport>, String>>),
    /// What a peer's answer says for people, before the answer itself.
    People(MemberName, Option<Box<People>>),
    /// A member's promise, in answer to a heartbeat.
    Promised(MemberName, Promised),
    /// What was found at the door of the Lease's holder.
    Holder(HolderSight),
    /// A member introduced itself by asking, and told the term it leads.
    Asked(MemberName, Address, Option<Term>),
    /// An action ended.
    Ended(Lane, Box<Outcome>),
    /// The Service leads to this member (none: nowhere), on behalf of this term.
    ServicePoints(Term, Option<MemberName>),
    /// The Service carries this term.
    ServiceTerm(Term),
    /// This order of a person has been answered.
    Answered(String),
    /// A warning of the effects or chores, by its source; empty: all well.
    Warning(&'static str, String),
    /// Read-write servers of this cluster that no guard holds, in words.
    Unguarded(Vec<Unguarded>),
    /// What is known of this account's rights.
    Rights(Box<Rights>),
    /// What the servers of the namespace are.
    Survey(Box<Survey>),
    /// The process should end.
    Terminate,
}

/// Which lane an action was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Swaps.
    Swap,
    /// Guard orders.
    Guard,
    /// Statements.
    Sql,
}

/// The loop.
#[derive(Debug)]
pub struct Brain {
    /// Settings.
    pub settings: Arc<SidecarSettings>,
    /// Keeps the record that is led over a restart of this process.
    pub memory: Memory,
    /// What it held at the start.
    pub led: Option<Box<Record>>,
    /// Live clock.
    pub clock: LiveClock,
    /// The Lease.
    pub lease: watch::Receiver<lease::LeaseView>,
    /// Everything else.
    pub inputs: mpsc::Receiver<Input>,
    /// Does what is decided.
    pub hands: Hands,
    /// Tasks around.
    pub steering: Steering,
    /// Kubernetes events.
    pub events: crate::kubernetes::events::Events,
    /// What they are about.
    pub news: super::events::News,
    /// Where decisions are shown.
    pub shown: super::page::Shown,
}

impl Brain {
    /// Runs until told to end and nothing is half done.
    pub async fn run(mut self) {
        let mut state = State {
            led_recalled: self.led.is_some(),
            led: self.led.take(),
            ..State::default()
        };
        let mut sight = Sight::new();
        let mut last: Option<String> = None;
        let mut told: Option<Millis> = None;
        loop {
            let decision = self.step(&mut state, &mut sight, &mut last);
            let now = self.clock.now();
            if sight.terminating {
                let told_for = now.since(*told.get_or_insert(now));
                let stepping_down = state.stepping_down.is_some();
                if may_end(told_for, self.holds(), &sight.guard, stepping_down) {
                    tracing::info!("told to end, and nothing is half done: ending");
                    return;
                }
            }
            let pause = Duration::from_millis(decision.wake_at.since(now).0.clamp(1, 1_000));
            tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => self.take_in(&mut sight, input),
                    None => return,
                },
                changed = self.lease.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
            // Whatever else has come meanwhile is seen by the same decision; bounded by the queue.
            for _ in 0..INPUTS_MAX {
                let Ok(input) = self.inputs.try_recv() else { break };
                self.take_in(&mut sight, input);
            }
        }
    }

    fn step(&mut self, state: &mut State, sight: &mut Sight, last: &mut Option<String>) -> Decision {
        let seen = self.observe(sight);
        let decision = decide(&self.settings.core, state, &seen);
        if !decision.listed {
            tracing::error!(from = ?state.phase, to = ?decision.phase, "a change of phase that core/phase.rs does not list: report this");
        }
        log_decision(&decision, &seen, last);
        if let Some(lease) = self.lease.borrow().state.seen() {
            self.events.regard(&lease.uid);
        }
        let holder = &self.settings.core.holder;
        for note in self.news.of(holder, state.phase, &decision, &seen, sight) {
            self.events.post(note);
        }
        let shown = &mut self.shown;
        let me = &self.settings.core.me;
        shown
            .tally
            .note(&shown.metrics, me, state.phase, &decision, &seen);
        state.clone_from(&decision.state);
        // Before anything is sent: a promise must not follow a claim.
        self.steering.promises.allow(decision.may_promise.clone());
        self.memory.note(state.led.as_deref());
        if decision.phase != Phase::Leading {
            self.hands.rest(sight);
        }
        for action in &decision.actions {
            self.hands.act(action, &seen, sight, &mut self.lease);
        }
        for action in &decision.actions {
            use crate::core::action::Action;
            match action {
                Action::Swap(_) => sight.lanes.swap = true,
                Action::Guard { .. } => sight.lanes.guard = true,
                Action::Sql(_) => sight.lanes.sql = true,
                _ => {}
            }
        }
        super::rotation::follow_again(&mut self.hands, &decision, &seen, sight);
        self.steer(&decision, &seen, sight);
        self.shown.show(
            &self.settings,
            &decision,
            &seen,
            sight,
            &self.lease.borrow().clone(),
        );
        decision
    }

    fn observe(&mut self, sight: &mut Sight) -> Observation {
        let now = self.clock.now();
        let view = self.lease.borrow_and_update().clone();
        let configured = Duration::from_millis(self.settings.core.lease_duration.0);
        let lease = convert::lease_view(&view.state, now, configured);
        if !survey::is_wanted(&self.settings, &lease, &sight.guard) {
            sight.survey = Survey::NotYet;
        }
        Observation {
            now,
            now_boot: boottime(),
            unix_ms: super::clocks::wall_ms(),
            lease,
            guard: sight.guard.clone(),
            server: sight.probe.as_ref().map(|p| Evidence {
                value: convert::server_view(&p.value),
                asked_at: p.asked_at,
            }),
            peers: sight.peers.clone(),
            survey: sight.survey.clone(),
            promises: sight.promises.clone(),
            promised_until: self.steering.promises.until(),
            holder: sight.holder.clone(),
            told_term: sight.told_term,
            lanes: sight.lanes.clone(),
            outcomes: std::mem::take(&mut sight.outcomes),
            service_points_to: sight.service_points_to.clone(),
            service_term: sight.service_term,
            answered_orders: sight.answered.clone(),
        }
    }

    fn take_in(&mut self, sight: &mut Sight, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Guard(status) => {
                let changed = sight
                    .status()
                    .is_none_or(|old| old.value.server != status.value.server);
                if changed {
                    self.steering.probe_now.notify_one();
                }
                self.hands.note_operation(sight, &status.value);
                sight.guard_trouble.clear();
                sight.guard = GuardView::Heard(status);
            }
            Input::Told(mut status) => {
                let newer = sight.status().is_none_or(|old| {
                    old.value.boot_id == status.value.boot_id && old.value.revision < status.value.revision
                });
                if newer {
                    status.asked_at = now;
                    self.take_in(sight, Input::Guard(status));
                }
            }
            Input::GuardLost { reason } => {
                if reason.starts_with(REFUSES) && sight.guard_trouble != reason {
                    tracing::warn!("{reason}");
                }
                sight.guard_trouble = reason;
                let before = std::mem::replace(&mut sight.guard, GuardView::Unknown);
                sight.guard = match before {
                    GuardView::Heard(last) => GuardView::Lost { since: now, last },
                    other => other,
                };
            }
            Input::Probe(probe) => sight.probe = Some(*probe),
            Input::Peer(member, answer) => sight.note_peer(member, *answer),
            Input::People(member, people) => sight.note_people(member, people.map(|people| *people)),
            Input::Promised(member, promised) => sight.note_promise(member, promised),
            Input::Holder(found) => {
                if sight.note_holder(found) {
                    // Whether this member's receiver has ended too.
                    self.steering.probe_now.notify_one();
                }
            }
            Input::Asked(member, address, leads) => sight.note_asker(member, address, leads),
            Input::Ended(lane, outcome) => {
                match lane {
                    Lane::Swap => sight.lanes.swap = false,
                    Lane::Guard => sight.lanes.guard = false,
                    Lane::Sql => sight.lanes.sql = false,
                }
                log_outcome(&outcome);
                sight.outcomes.push(*outcome);
            }
            Input::ServicePoints(term, member) => {
                sight.service_term = sight.service_term.max(Some(term));
                sight.service_points_to = Some((term, member));
            }
            Input::ServiceTerm(term) => sight.service_term = sight.service_term.max(Some(term)),
            Input::Answered(id) => {
                sight.answered.insert(id);
            }
            Input::Warning(source, text) => sight.note_warning(source, text),
            Input::Unguarded(found) => sight.unguarded = found,
            Input::Rights(rights) => sight.note_rights(*rights),
            Input::Survey(survey) => sight.survey = *survey,
            Input::Terminate => sight.terminating = true,
        }
    }

    fn steer(&self, decision: &Decision, seen: &Observation, sight: &Sight) {
        let every = Duration::from_millis(decision.probe_every.0);
        set(&self.steering.probe_every, every);
        let plan = AskPlan {
            whom: whom_to_ask(&self.settings.core.me, &seen.lease, sight),
            every: Duration::from_millis(decision.ask_peers_every.0),
            told: Told {
                leads: decision.state.taking.map(|(term, _)| term),
                heartbeat: decision.heartbeat,
            },
        };
        let door = knock::door(&self.settings.core.holder, seen, |member| {
            plan.whom.get(member).cloned()
        });
        set(&self.steering.door, door);
        set(&self.steering.ask, plan);
        set(&self.steering.suspects, suspects(&self.settings, seen, sight));
        set(&self.steering.damaged, decision.phase == Phase::Damaged);
        if let Some(record) = record_of(&seen.lease) {
            set(&self.steering.recorded, recorded(record));
        }
        let survey = survey::is_wanted(&self.settings, &seen.lease, &seen.guard);
        set(&self.steering.survey, survey);
        let fresh = |e: &Evidence<Status>| seen.now.since(e.asked_at) <= STATUS_FRESH;
        let report = PeerReport {
            member: self.settings.core.me.clone(),
            pod_uid: self.settings.pod_uid.clone(),
            address: self.settings.core.address.clone(),
            guard: sight.status().filter(|s| fresh(s)).map(|s| s.value.clone()),
            server: seen
                .server
                .as_ref()
                .filter(|s| seen.now.since(s.asked_at) <= STATUS_FRESH)
                .map(|s| s.value.clone()),
            terminating: sight.terminating,
            stepped_down_in_ms: self.shown.tally.stepped_down_in_ms(),
            wall_ms: None,
            missing_rights: sight.rights.missing.len(),
        };
        self.steering.report.send_replace(Arc::new(report));
    }

    /// This member holds the Lease, as it is seen now.
    fn holds(&self) -> bool {
        match &self.lease.borrow().state {
            lease::LeaseState::Present(seen) => {
                seen.holder.as_deref() == Some(self.settings.core.holder.as_str())
            }
            _ => false,
        }
    }
}

/// Sends what differs from what was sent last.
fn set<T: PartialEq>(steered: &watch::Sender<T>, wanted: T) {
    steered.send_if_modified(|old| {
        let changed = *old != wanted;
        *old = wanted;
        changed
    });
}

fn whom_to_ask(me: &MemberName, lease: &LeaseView, sight: &Sight) -> BTreeMap<MemberName, Address> {
    let mut whom = survey::addresses(&sight.survey);
    whom.extend(sight.introduced.clone());
    if let Some(record) = record_of(lease) {
        let known = record.members.iter().chain(record.primary.iter());
        whom.extend(known.map(|m: &Member| (m.member.clone(), m.address.clone())));
    }
    // A member that came back elsewhere says so itself; the record follows.
    for (member, address) in &sight.introduced {
        if sight.peer_trouble.contains_key(member) {
            whom.insert(member.clone(), address.clone());
        }
    }
    whom.remove(me);
    whom
}

/// The record in the Lease, if it is one.
#[must_use]
pub fn record_of(lease: &LeaseView) -> Option<&Record> {
    use crate::core::observe::RecordView;
    match lease {
        LeaseView::Seen(seen) => match &seen.record {
            RecordView::Good(record) => Some(record),
            RecordView::Missing | RecordView::Unreadable(_) => None,
        },
        LeaseView::Unknown | LeaseView::Absent => None,
    }
}
