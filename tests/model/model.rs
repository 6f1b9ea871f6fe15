//! The protocol as a model: who may do what in a state. No clock: whatever may happen at some time may happen now, or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stateright::{Model, Property};

use crate::rules::{Bounds, Faults, Without};
use crate::state::{
    FORMERS, Installed, LIVES, Lease, MEMBERS, Member, NO_SET, Pos, Record, Set, State, TERMS, id,
};
use crate::truth::{Broken, Seen};

/// A change of the Lease, as its sender composes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swap {
    /// Takes the Lease in the next term; the recorded primary continues with it.
    Claim,
    /// Renews, after a swap that gave the Lease up and may not have landed.
    Renew,
    /// Writes itself down as primary with this set: the point of no return.
    Install(Set),
    /// Puts this set in force.
    ChangeSet(Set),
    /// Releases the former sets.
    DropFormers,
    /// Gives the Lease up, with the position at rest.
    GiveUp,
}

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client's commit is written by this primary.
    Write(usize),
    /// A standby gets the next record from the primary installed in this term.
    Stream(usize, u8),
    /// A member's data is made anew from the primary installed in this term.
    Rejoin(usize, u8),
    /// A guard pledges to the Lease's term.
    Pledge(usize),
    /// A swap lands, and its sender learns it.
    Swap(usize, Swap),
    /// A swap is sent and its sender gives up on it.
    SendLate(usize, Swap),
    /// It lands after all.
    LandLate,
    /// A guard gets its permit and starts the server in place, or promotes it to the recorded timeline.
    Open(usize),
    /// A leader has seen that its names are in force, and notes how far it was.
    InForce(usize),
    /// A server, its guard or its permit ends.
    Crash(usize),
    /// A volume is lost.
    LoseVolume(usize),
    /// A sidecar restarts and has forgotten all.
    Forget(usize),
    /// The Lease is emptied.
    LoseRecord,
    /// A server that runs writes the record back that its sidecar led with.
    WriteBack(usize),
    /// A server uses a set before it is recorded: only where that rule is out.
    UseUnrecorded(usize, Set),
}

/// The property that is broken first when a set is dropped too early, some steps before anything can be lost.
pub const COVERED: &str = "some recorded set covers what was acknowledged";

/// The model.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub bounds: Bounds,
    pub faults: Faults,
    pub without: Without,
    /// Members are the same but for the order in which they are numbered: those that begin as standbys are told apart by their states alone.
    pub symmetric: bool,
    /// How often what was gone through.
    pub counts: Arc<[AtomicUsize; Seen::ALL.len()]>,
}

impl Protocol {
    fn first(&self, set: Set) -> State {
        let root = Pos { timeline: 1, len: 0 };
        let mut members = [Member {
            life: 0,
            is_empty: true,
            pos: Pos::default(),
            writes: false,
            highest: 1,
            leads: 0,
            names: Set::EMPTY,
            obeyed: Set::EMPTY,
            mark: 0,
        }; MEMBERS];
        for (m, member) in members.iter_mut().enumerate() {
            if m < self.bounds.members {
                (member.is_empty, member.pos) = (false, root);
            } else {
                member.highest = self.bounds.terms;
            }
        }
        let primary = &mut members[0];
        (primary.writes, primary.leads) = (true, 1);
        (primary.names, primary.obeyed) = (set, set);
        let record = Record {
            term: 1,
            primary: (0, 0),
            timeline: 1,
            given: 1,
            promotions: [Pos::default(); TERMS],
            current: set,
            formers: [NO_SET; FORMERS],
            rest: Pos::default(),
        };
        let mut state = State {
            lease: Lease {
                term: 1,
                holder: 0,
                record,
                is_lost: false,
            },
            members,
            installed: [Installed::default(); TERMS],
            pledged: Default::default(),
            before: None,
            in_flight: None,
            forks: [Pos::default(); TERMS],
            acked: root,
            opened: root,
            writes: 0,
            faults: 0,
            changes: 0,
            broken: 0,
        };
        state.installed[1] = Installed {
            member: 0,
            life: 0,
            timeline: 1,
        };
        state
    }

    /// How many a set of `n` standbys may wait for.
    pub fn ks(&self, n: usize) -> std::ops::RangeInclusive<u16> {
        let n = u16::try_from(n).unwrap();
        match self.bounds.k {
            _ if n == 0 => 0..=0,
            0 => 1..=n,
            k => k.min(n)..=k.min(n),
        }
    }

    /// All sets of some of these lives.
    pub fn sets_of(&self, lives: &[(usize, u8)]) -> Vec<Set> {
        let mut sets = Vec::new();
        for chosen in 0..1_u32 << lives.len() {
            let some = || {
                lives
                    .iter()
                    .enumerate()
                    .filter(move |(i, _)| chosen & 1 << i != 0)
                    .map(|(_, l)| *l)
            };
            // The record knows one life of a member's data.
            if some().zip(some().skip(1)).any(|(a, b)| a.0 == b.0) {
                continue;
            }
            sets.extend(self.ks(some().count()).map(|k| Set::of(some(), k)));
        }
        sets
    }

    fn others(&self, m: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.bounds.members).filter(move |x| *x != m)
    }

    fn server_actions(&self, state: &State, m: usize, actions: &mut Vec<Action>) {
        let member = &state.members[m];
        if member.writes {
            if state.writes < self.bounds.writes && !self.is_last(state, m) {
                actions.push(Action::Write(m));
            }
            self.leader_actions(state, m, actions);
        } else {
            self.standby_actions(state, m, actions);
        }
        if state.may_pledge(m) && !self.is_over(state) {
            actions.push(Action::Pledge(m));
        }
        if state.may_open(m, &self.without) {
            actions.push(Action::Open(m));
        }
        let forgets = self.without.pledge_on_disk && member.highest > 1;
        if (member.writes || forgets) && state.faults < self.bounds.faults {
            actions.push(Action::Crash(m));
        }
    }

    /// The last term's primary is written down: nobody leads after it, so what can still break is what earlier ones acknowledge.
    pub fn is_over(&self, state: &State) -> bool {
        state.lease.record.term == self.bounds.terms
    }

    /// The last term's Lease is taken, and nobody is written down yet.
    pub fn is_last_claim(&self, state: &State) -> bool {
        state.lease.term == self.bounds.terms && !self.is_over(state)
    }

    fn is_last(&self, state: &State, m: usize) -> bool {
        self.is_over(state) && state.leads_by_record(m)
    }

    fn leader_actions(&self, state: &State, m: usize, actions: &mut Vec<Action>) {
        let member = &state.members[m];
        if self.without.recorded_first && state.changes < self.bounds.changes {
            let sets = self.sets_of(&state.countable(m, self.bounds.members)).into_iter();
            let other = sets.filter(|set| *set != member.names);
            actions.extend(other.map(|set| Action::UseUnrecorded(m, set)));
        }
        let record = &state.lease.record;
        let settles = state.lease.holder == id(m) && state.leads_by_record(m) && record.term == member.leads;
        let is_set = member.names == record.current && member.mark == 0;
        if settles && is_set && record.formers().next().is_some() && !self.is_over(state) {
            actions.push(Action::InForce(m));
        }
    }

    fn standby_actions(&self, state: &State, m: usize, actions: &mut Vec<Action>) {
        let member = &state.members[m];
        for term in member.highest.max(1)..=self.bounds.terms {
            let installed = state.installed[usize::from(term)];
            let p = usize::from(installed.member);
            let source = &state.members[p];
            if installed.timeline == 0 || p == m || !source.writes || self.is_last(state, p) {
                continue;
            }
            if !member.is_empty && state.next_towards(member.pos, source.pos).is_some() {
                actions.push(Action::Stream(m, term));
            }
            let is_off = member.is_empty || !state.is_within(member.pos, source.pos);
            let has_life = usize::from(member.life) + 1 < LIVES || self.without.new_life;
            if is_off && source.life == installed.life && has_life {
                actions.push(Action::Rejoin(m, term));
            }
        }
    }

    fn fault_actions(&self, state: &State, swaps: &[(usize, Swap)], actions: &mut Vec<Action>) {
        if state.in_flight.is_some() {
            actions.push(Action::LandLate);
        }
        if state.lease.is_lost {
            let able = (0..self.bounds.members).filter(|m| state.may_write_back(*m, self));
            actions.extend(able.map(Action::WriteBack));
        }
        if state.faults >= self.bounds.faults {
            return;
        }
        if self.faults.lost_record && !state.lease.is_lost {
            actions.push(Action::LoseRecord);
        }
        for m in 0..self.bounds.members {
            let member = &state.members[m];
            if self.faults.lost_volume && !member.is_empty && !self.is_over(state) {
                actions.push(Action::LoseVolume(m));
            }
            if self.faults.forgetful && (member.leads > 0 || member.mark > 0) {
                actions.push(Action::Forget(m));
            }
        }
        if self.faults.late_swap && state.in_flight.is_none() {
            actions.extend(swaps.iter().map(|(m, swap)| Action::SendLate(*m, *swap)));
        }
    }

    /// Every swap that somebody may send now.
    fn swaps(&self, state: &State) -> Vec<(usize, Swap)> {
        let mut swaps = Vec::new();
        let lease = &state.lease;
        if lease.is_lost {
            return swaps;
        }
        for m in 0..self.bounds.members {
            let member = &state.members[m];
            if lease.holder != id(m) {
                // A Lease below what a member has on disk is damaged to it.
                let is_sound = lease.term >= member.highest;
                if lease.term < self.bounds.terms && !member.is_empty && is_sound {
                    swaps.push((m, Swap::Claim));
                }
                continue;
            }
            let record = &lease.record;
            if record.term < lease.term {
                let sets = state.sets_to_install(m, self);
                swaps.extend(sets.into_iter().map(|set| (m, Swap::Install(set))));
            } else if state.leads_by_record(m) && !self.is_over(state) {
                swaps.push((
                    m,
                    if member.leads == 0 {
                        Swap::Renew
                    } else {
                        Swap::GiveUp
                    },
                ));
                if member.writes && state.changes < self.bounds.changes {
                    let sets = self.sets_of(&state.countable(m, self.bounds.members)).into_iter();
                    swaps.extend(
                        sets.filter(|s| *s != record.current)
                            .map(|s| (m, Swap::ChangeSet(s))),
                    );
                }
                if member.writes && state.may_drop_formers(m, &self.without) {
                    swaps.push((m, Swap::DropFormers));
                }
            }
        }
        swaps
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let standbys: Vec<(usize, u8)> = self.others(0).map(|m| (m, 0)).collect();
        let mut firsts: Vec<State> = self
            .sets_of(&standbys)
            .into_iter()
            .map(|set| self.first(set))
            .collect();
        for state in &mut firsts {
            self.tidy(state);
        }
        firsts.sort_by_key(|s| s.lease.record.current);
        firsts.dedup();
        firsts
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken != 0 {
            return;
        }
        let swaps = self.swaps(state);
        actions.extend(swaps.iter().map(|(m, swap)| Action::Swap(*m, *swap)));
        for m in 0..self.bounds.members {
            self.server_actions(state, m, actions);
        }
        self.fault_actions(state, &swaps, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        self.take(&mut next, action);
        next.acknowledge(&self.without);
        self.tidy(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(
                "no acknowledged write is missing on a later primary",
                |_, s: &State| !s.has_broken(Broken::Lost),
            ),
            Property::always("acknowledged writes lie on one history", |_, s: &State| {
                !s.has_broken(Broken::Diverged)
            }),
            Property::always("no timeline is made twice", |_, s: &State| {
                !s.has_broken(Broken::TimelineTwice)
            }),
            Property::always("a timeline begins where the record says", |_, s: &State| {
                !s.has_broken(Broken::SwitchPoint)
            }),
            Property::always("one server at most runs in a term", |_, s: &State| {
                !s.has_broken(Broken::TermTwice)
            }),
            Property::always(COVERED, |p: &Self, s: &State| {
                s.lease.term == p.bounds.terms || s.lease.is_lost || s.is_covered()
            }),
        ];
        properties.extend(crate::reach::properties(self));
        properties
    }
}

impl Protocol {
    pub fn count(&self, what: Seen) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn tidy(&self, state: &mut State) {
        crate::tidy::tidy(state, self);
        if self.symmetric {
            *state = crate::symmetry::representative(state, self.bounds.members);
        }
    }
}
