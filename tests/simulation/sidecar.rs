//! The model sidecar: gathers what it saw, asks the core, and sends what the core wants on its way.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgbaton::core::action::Action;
use pgbaton::core::adoption::Survey;
use pgbaton::core::decide::{Decision, decide};
use pgbaton::core::observe::{
    GuardView, Lanes, LeaseView, Observation, Outcome, PeerReport, Promised, SeenLease, ServerView, Settings,
};
use pgbaton::core::record::Evidence;
use pgbaton::core::state::State;
use pgbaton::core::types::{MemberName, Millis, Term};

use crate::api::Lease;
use crate::clock::Clock;

/// Something that comes in.
#[derive(Debug, Clone)]
pub enum Input {
    Outcome(Lane, Outcome),
    Probe(Evidence<ServerView>),
    Peer(Box<Evidence<PeerReport>>, Option<Promised>),
    Service(Term, Option<MemberName>),
    Survey(Survey),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Swap,
    Guard,
    Sql,
    /// The end of an operation of the guard: no lane waits for it.
    None,
}

#[derive(Debug, Clone)]
pub struct Sidecar {
    pub settings: Settings,
    pub up: bool,
    /// Its process stands still, its pod's other ones do not.
    pub stuck_until: u64,
    /// Rises with each start of the process.
    pub life: u64,
    pub pod: u64,
    /// Its live clock: stands still while it does.
    pub clock: Clock,
    pub state: State,
    /// All that it sees; times and the Lease are brought up to date for each decision.
    pub seen: Observation,
    pub lease: Option<Option<Rc<Lease>>>,
    /// Which of the watch's versions that is.
    pub lease_number: u64,
    pub spec_seen: (u64, u64),
    /// The guard's word is under way.
    pub is_told: bool,
    pub next_survey: u64,
    pub next_probe: u64,
    pub next_ask: u64,
    pub next_knock: u64,
    pub next_guard: u64,
    /// When it decides because something came in, by the world's time.
    pub think_at: u64,
    /// The swap whose answer it waits for.
    pub pending: Option<u64>,
    pub last: Option<Decision>,
    pub terminating: bool,
}

fn nothing() -> Observation {
    Observation {
        now: Millis(0),
        now_boot: Millis(0),
        unix_ms: 0,
        lease: LeaseView::Unknown,
        guard: GuardView::Unknown,
        server: None,
        peers: BTreeMap::new(),
        survey: Survey::NotYet,
        promises: BTreeMap::new(),
        promised_until: None,
        holder: None,
        told_term: None,
        lanes: Lanes::default(),
        outcomes: Vec::new(),
        service_points_to: None,
        service_term: None,
        answered_orders: std::collections::BTreeSet::new(),
    }
}

impl Sidecar {
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self::begun(settings, 1, 1, clock)
    }

    /// A new process that remembers nothing but the record it led.
    pub fn restart(&mut self, clock: Clock) {
        let settings = Settings {
            holder: format!("{}_{}", self.settings.me, self.pod),
            ..self.settings.clone()
        };
        *self = Self {
            stuck_until: self.stuck_until,
            is_told: self.is_told,
            state: State {
                led: self.state.led.take(),
                led_recalled: true,
                ..State::default()
            },
            ..Self::begun(settings, self.pod, self.life + 1, clock)
        };
    }

    fn begun(settings: Settings, pod: u64, life: u64, clock: Clock) -> Self {
        Self {
            settings,
            up: true,
            stuck_until: 0,
            life,
            pod,
            clock,
            state: State::default(),
            seen: nothing(),
            lease: None,
            lease_number: 0,
            spec_seen: (0, 0),
            is_told: false,
            next_survey: 0,
            next_probe: 0,
            next_ask: 0,
            next_knock: 0,
            next_guard: 0,
            think_at: 0,
            pending: None,
            last: None,
            terminating: false,
        }
    }

    /// What its live clock shows, in milliseconds.
    pub fn live(&self) -> u64 {
        self.clock.shows()
    }

    /// The Lease that it sees names it.
    pub fn holds_lease(&self) -> bool {
        let lease = self.lease.as_ref().and_then(Option::as_ref);
        lease.is_some_and(|l| l.holder.as_ref() == Some(&self.settings.holder))
    }

    /// The watch, or a swap's answer, shows this version.
    pub fn see_lease(&mut self, number: u64, lease: Option<Rc<Lease>>) {
        if number <= self.lease_number && self.lease.is_some() {
            return;
        }
        self.lease_number = number;
        let live = self.live();
        if let Some(new) = &lease
            && (self.spec_seen.0 != new.spec || self.lease.is_none())
        {
            self.spec_seen = (new.spec, live);
        }
        self.seen.lease = match &lease {
            None => LeaseView::Absent,
            Some(lease) => LeaseView::Seen(Box::new(self.shown(lease))),
        };
        self.lease = Some(lease);
    }

    pub fn shown(&self, lease: &Lease) -> SeenLease {
        SeenLease {
            version: lease.version.to_string(),
            holder: lease.holder.clone(),
            term: lease.term,
            duration: self.settings.lease_duration,
            record: lease.record.clone(),
            unchanged_for: Millis(self.unchanged_for(lease.spec)),
            order: lease.order.clone(),
        }
    }

    fn unchanged_for(&self, spec: u64) -> u64 {
        let (seen, since) = self.spec_seen;
        if seen == spec { self.live() - since } else { 0 }
    }

    pub fn take_in(&mut self, input: Input) {
        let seen = &mut self.seen;
        match input {
            Input::Outcome(lane, outcome) => {
                match lane {
                    Lane::Swap => seen.lanes.swap = false,
                    Lane::Guard => seen.lanes.guard = false,
                    Lane::Sql => seen.lanes.sql = false,
                    Lane::None => {}
                }
                seen.outcomes.push(outcome);
            }
            Input::Probe(view) => seen.server = Some(view),
            Input::Peer(report, promised) => {
                let member = report.value.member.clone();
                if let Some(promised) = promised {
                    seen.promises.insert(member.clone(), promised);
                }
                seen.peers.insert(member, *report);
            }
            Input::Service(term, member) => seen.service_points_to = Some((term, member)),
            Input::Survey(survey) => seen.survey = survey,
        }
    }

    /// All that is seen, as of now.
    pub fn observe(&mut self, now_boot: u64) -> &Observation {
        self.seen.now = Millis(self.live());
        self.seen.now_boot = Millis(now_boot);
        self.seen.unix_ms = now_boot;
        if let Some(Some(lease)) = &self.lease
            && let LeaseView::Seen(shown) = &mut self.seen.lease
        {
            shown.unchanged_for = Millis(match self.spec_seen {
                (spec, since) if spec == lease.spec => self.clock.shows() - since,
                _ => 0,
            });
        }
        &self.seen
    }

    /// Decides; gives what is to be done.
    pub fn decide(&mut self, now_boot: u64) -> Vec<Action> {
        self.observe(now_boot);
        let mut decision = decide(&self.settings, &self.state, &self.seen);
        self.seen.outcomes.clear();
        // As the real loop does: not without a pause.
        decision.wake_at = decision.wake_at.max(Millis(self.live() + 1));
        std::mem::swap(&mut self.state, &mut decision.state);
        let actions = std::mem::take(&mut decision.actions);
        self.last = Some(decision);
        actions
    }

    /// Something came in: it decides soon.
    pub fn wake(&mut self, when: u64) {
        self.think_at = self.think_at.min(when);
    }

    pub fn is_due_to_think(&self, now: u64) -> bool {
        let wake_at = self.last.as_ref().map_or(0, |d| d.wake_at.0);
        now >= self.think_at || self.live() >= wake_at
    }
}
