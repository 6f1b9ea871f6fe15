//! The model sidecar: gathers what it saw, asks the core, and sends what the core wants on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pgbaton::core::adoption::Survey;
use pgbaton::core::decide::{Decision, decide};
use pgbaton::core::observe::{
    GuardView, HolderSight, Lanes, LeaseView, Observation, Outcome, PeerReport, Promised, SeenLease,
    ServerView, Settings,
};
use pgbaton::core::record::Evidence;
use pgbaton::core::state::State;
use pgbaton::core::types::{MemberName, Millis, Term};

use crate::api::Lease;

/// Something that comes in later.
#[derive(Debug, Clone)]
pub enum Input {
    Outcome(Lane, Outcome),
    Probe(Evidence<ServerView>),
    Peer(Box<Evidence<PeerReport>>),
    Promised(MemberName, Promised),
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
    /// Its monotonic clock: stands still while it is frozen.
    pub live: u64,
    pub state: State,
    pub lease: Option<Option<Rc<Lease>>>,
    pub spec_seen: (u64, u64),
    pub guard: GuardView,
    pub server: Option<Evidence<ServerView>>,
    pub peers: BTreeMap<MemberName, Evidence<PeerReport>>,
    pub survey: Survey,
    pub next_survey: u64,
    pub told_term: Option<Term>,
    pub holder: Option<HolderSight>,
    pub promises: BTreeMap<MemberName, Promised>,
    pub promised_until: Option<Millis>,
    pub lanes: Lanes,
    pub outcomes: Vec<Outcome>,
    pub service: Option<(Term, Option<MemberName>)>,
    pub answered: BTreeSet<String>,
    pub next_probe: u64,
    pub next_ask: u64,
    pub last: Option<Decision>,
    pub terminating: bool,
}

impl Sidecar {
    pub fn new(settings: Settings) -> Self {
        let mut fresh = Self {
            settings,
            up: true,
            stuck_until: 0,
            life: 0,
            pod: 1,
            live: 0,
            state: State::default(),
            lease: None,
            spec_seen: (0, 0),
            guard: GuardView::Unknown,
            server: None,
            peers: BTreeMap::new(),
            survey: Survey::NotYet,
            next_survey: 0,
            told_term: None,
            holder: None,
            promises: BTreeMap::new(),
            promised_until: None,
            lanes: Lanes::default(),
            outcomes: Vec::new(),
            service: None,
            answered: BTreeSet::new(),
            next_probe: 0,
            next_ask: 0,
            last: None,
            terminating: false,
        };
        fresh.restart(1_000);
        fresh
    }

    /// A new process that remembers nothing but the record it led; its clock begins anywhere.
    pub fn restart(&mut self, clock: u64) {
        let (settings, pod, life) = (self.settings.clone(), self.pod, self.life + 1);
        self.up = true;
        self.life = life;
        self.live = clock;
        self.state = State {
            led: self.state.led.take(),
            led_recalled: true,
            ..State::default()
        };
        self.lease = None;
        self.spec_seen = (0, 0);
        self.guard = GuardView::Unknown;
        self.server = None;
        self.peers.clear();
        self.survey = Survey::NotYet;
        self.next_survey = 0;
        self.told_term = None;
        self.holder = None;
        self.promises.clear();
        self.promised_until = None;
        self.lanes = Lanes::default();
        self.outcomes.clear();
        self.service = None;
        self.answered.clear();
        self.next_probe = 0;
        self.next_ask = 0;
        self.last = None;
        self.terminating = false;
        self.settings = Settings {
            holder: format!("{}_{pod}", settings.me),
            ..settings
        };
    }

    pub fn see_lease(&mut self, lease: Option<Rc<Lease>>) {
        if let (Some(new), Some(Some(old))) = (&lease, &self.lease)
            && new.version < old.version
        {
            return;
        }
        if let Some(new) = &lease
            && (self.spec_seen.0 != new.spec || self.lease.is_none())
        {
            self.spec_seen = (new.spec, self.live);
        }
        self.lease = Some(lease);
    }

    pub fn seen(&self, lease: &Lease) -> SeenLease {
        let since = if self.spec_seen.0 == lease.spec {
            self.spec_seen.1
        } else {
            self.live
        };
        SeenLease {
            version: lease.version.to_string(),
            holder: lease.holder.clone(),
            term: lease.term,
            duration: self.settings.lease_duration,
            record: lease.record.clone(),
            unchanged_for: Millis(self.live - since),
            order: lease.order.clone(),
        }
    }

    pub fn take_in(&mut self, input: Input) {
        match input {
            Input::Outcome(lane, outcome) => {
                match lane {
                    Lane::Swap => self.lanes.swap = false,
                    Lane::Guard => self.lanes.guard = false,
                    Lane::Sql => self.lanes.sql = false,
                    Lane::None => {}
                }
                self.outcomes.push(outcome);
            }
            Input::Probe(view) => self.server = Some(view),
            Input::Peer(report) => {
                self.peers.insert(report.value.member.clone(), *report);
            }
            Input::Promised(member, promised) => {
                self.promises.insert(member, promised);
            }
            Input::Service(term, member) => self.service = Some((term, member)),
            Input::Survey(survey) => self.survey = survey,
        }
    }

    pub fn observe(&mut self, now_boot: u64) -> Observation {
        let lease = match &self.lease {
            None => LeaseView::Unknown,
            Some(None) => LeaseView::Absent,
            Some(Some(lease)) => LeaseView::Seen(Box::new(self.seen(lease))),
        };
        Observation {
            service_term: None,
            now: Millis(self.live),
            now_boot: Millis(now_boot),
            unix_ms: now_boot,
            lease,
            guard: self.guard.clone(),
            server: self.server.clone(),
            peers: self.peers.clone(),
            survey: self.survey.clone(),
            holder: self.holder.clone(),
            promises: self.promises.clone(),
            promised_until: self.promised_until,
            told_term: self.told_term,
            lanes: self.lanes.clone(),
            outcomes: std::mem::take(&mut self.outcomes),
            service_points_to: self.service.clone(),
            answered_orders: self.answered.clone(),
        }
    }

    pub fn decide(&mut self, now_boot: u64) -> Decision {
        let seen = self.observe(now_boot);
        let decision = decide(&self.settings, &self.state, &seen);
        self.state.clone_from(&decision.state);
        self.last = Some(decision.clone());
        decision
    }
}

impl Sidecar {
    /// A swap's own answer is seen at once by the process that sent it.
    pub fn see_lease_if(&mut self, life: u64, lease: &Rc<Lease>) {
        if self.life == life {
            self.see_lease(Some(lease.clone()));
        }
    }
}
