//! What an action does to a state.

use crate::model::{Action, Protocol, Swap};
use crate::proof::{self, Heard, Kind};
use crate::rules::Without;
use crate::state::{FLUSHED, Installed, LIVES, Lease, MEMBERS, NOBODY, Pos, Set, State, id};
use crate::truth::{Broken, Seen};

impl State {
    /// A guard pledges when its sidecar sees that the Lease has moved on; a deposed primary's does so at any time.
    pub fn may_pledge(&self, m: usize) -> bool {
        let (member, lease) = (&self.members[m], &self.lease);
        if lease.record.term < lease.term {
            let has_told = self.pledged[m][usize::from(member.life)].timeline != 0;
            return !member.is_empty && (!has_told || member.highest < lease.term);
        }
        member.writes && !self.leads_by_record(m) && member.highest < lease.term
    }

    /// A guard starts its server read-write: its sidecar has a basis for the permit, and no later term was seen here.
    pub fn may_open(&self, m: usize, without: &Without) -> bool {
        let member = &self.members[m];
        let installed = self.installed[usize::from(member.leads)];
        let is_own = (installed.member, installed.life) == (id(m), member.life);
        let allowed = member.leads > 0 && !member.is_empty && !member.writes;
        let fork = self.lease.record.promotions[usize::from(installed.timeline)];
        let fits = member.pos.timeline == installed.timeline || member.pos == fork || without.receiver_gone;
        allowed && is_own && fits && member.highest <= member.leads
    }

    /// Lives that a leader may put into its set: those of the set in force, and who streams from it.
    pub fn countable(&self, m: usize, members: usize) -> Vec<(usize, u8)> {
        let leader = &self.members[m];
        let streams = |x: &usize| {
            let standby = &self.members[*x];
            let follows = *x != m && !standby.writes && standby.highest <= leader.leads;
            follows && !standby.is_empty && standby.pos.timeline == leader.pos.timeline
        };
        let mut lives: Vec<(usize, u8)> = self.lease.record.current.standbys().collect();
        lives.extend((0..members).filter(streams).map(|x| (x, self.members[x].life)));
        lives.sort_unstable();
        lives.dedup();
        lives
    }

    /// Invariant 6 (ii): k of the set in force have flushed what the primary had once its names were in force.
    pub fn may_drop_formers(&self, m: usize, without: &Without) -> bool {
        let (member, record) = (&self.members[m], &self.lease.record);
        if member.mark == 0 || record.formers().next().is_none() || member.names != record.current {
            return false;
        }
        if member.mark == FLUSHED {
            return true;
        }
        let end = Pos {
            timeline: member.pos.timeline,
            len: member.mark - 1,
        };
        let has_flushed = |(x, life): &(usize, u8)| {
            let standby = &self.members[*x];
            !standby.is_empty && standby.life == *life && self.is_within(end, standby.pos)
        };
        let have = record.current.standbys().filter(has_flushed).count();
        without.flushed || u32::try_from(have).unwrap() >= record.current.k()
    }

    /// Every set with which a member that holds the Lease can write itself down, on whatever answers it may have heard.
    pub fn sets_to_install(&self, m: usize, protocol: &Protocol) -> Vec<Set> {
        let mut sets: Vec<Set> = self
            .proofs(m, protocol)
            .into_iter()
            .flat_map(|(heard, _)| {
                let own = heard[m].map_or(Pos::default(), |(_, pos)| pos);
                let others = (0..protocol.bounds.members).filter(|x| *x != m);
                let with_it = others.filter_map(|x| heard[x].map(|(life, pos)| (x, life, pos)));
                let within = with_it.filter(|(_, _, pos)| proof::is_within(&self.lease.record, *pos, own));
                protocol.sets_of(&within.map(|(x, life, _)| (x, life)).collect::<Vec<_>>())
            })
            .collect();
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    /// What it may have heard that makes a proof.
    pub fn proofs(&self, m: usize, protocol: &Protocol) -> Vec<(Heard, Kind)> {
        let (member, lease) = (&self.members[m], &self.lease);
        let own = self.pledged[m][usize::from(member.life)];
        if member.is_empty || member.writes || own.timeline == 0 || self.leads_by_record(m) {
            return Vec::new();
        }
        let primary = &self.members[usize::from(lease.record.primary.0)];
        let rests = !primary.is_empty && !primary.writes && primary.life == lease.record.primary.1;
        let at_rest = (protocol.without.rest_after_pledge && rests).then_some(primary.pos);
        let mut all: Vec<Heard> = vec![[None; MEMBERS]];
        for x in 0..protocol.bounds.members {
            let answers = (0..LIVES).filter(|l| self.pledged[x][*l].timeline != 0);
            let mut choices: Vec<Option<(u8, Pos)>> = answers.map(|l| Some((id(l), self.pledged[x][l]))).collect();
            if x == m {
                choices = vec![Some((member.life, own))];
            } else {
                choices.push(None);
            }
            let with = |heard: &Heard, choice: &Option<(u8, Pos)>| {
                let mut heard = *heard;
                heard[x] = *choice;
                heard
            };
            all = all
                .iter()
                .flat_map(|heard| choices.iter().map(move |choice| with(heard, choice)))
                .collect();
        }
        let judged = |heard: Heard| {
            let kind = proof::judge(&protocol.without, lease.term, &lease.record, m, &heard, at_rest)?;
            Some((heard, kind))
        };
        all.into_iter().filter_map(judged).collect()
    }

    /// Invariant 6: of some recorded set, k have what was acknowledged (or had it in a life that is over).
    pub fn is_covered(&self) -> bool {
        let covers = |set: Set| {
            let has = |(x, life): &(usize, u8)| {
                let member = &self.members[*x];
                member.life != *life || member.is_empty || self.is_within(self.acked, member.pos)
            };
            u32::try_from(set.standbys().filter(has).count()).unwrap() >= set.k()
        };
        let record = &self.lease.record;
        covers(record.current) || record.formers().any(covers)
    }
}

impl Protocol {
    /// Carries an action out.
    pub fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::Write(m) => {
                state.writes += 1;
                state.members[m].pos.len += 1;
            }
            Action::Stream(m, term) => {
                let source = state.members[usize::from(state.installed[usize::from(term)].member)].pos;
                let next = state.next_towards(state.members[m].pos, source);
                let member = &mut state.members[m];
                (member.pos, member.highest) = (next.unwrap_or(member.pos), member.highest.max(term));
            }
            Action::Rejoin(m, term) => self.rejoin(state, m, term),
            Action::Pledge(m) => self.pledge(state, m),
            Action::Swap(m, swap) => {
                self.count_swap(state, m, swap);
                let lease = self.composed(state, m, swap);
                state.changes += u8::from(matches!(swap, Swap::ChangeSet(_)));
                self.send(state, m, swap);
                self.land(state, m, lease);
            }
            Action::SendLate(m, swap) => {
                state.faults += 1;
                state.in_flight = Some((id(m), self.composed(state, m, swap)));
                state.changes += u8::from(matches!(swap, Swap::ChangeSet(_)));
                self.send(state, m, swap);
            }
            Action::LandLate => {
                self.count(Seen::LateSwap);
                if let Some((by, lease)) = state.in_flight.take() {
                    self.land(state, usize::from(by), lease);
                }
            }
            Action::Open(m) => self.open(state, m),
            Action::UseUnrecorded(m, set) => {
                state.changes += 1;
                let member = &mut state.members[m];
                member.obeyed = member.obeyed.mixed_with(set);
            }
            Action::InForce(m) => {
                let member = &mut state.members[m];
                member.mark = member.pos.len + 1;
                if !self.without.in_force {
                    member.obeyed = member.names;
                }
            }
            Action::Crash(m) => {
                state.faults += 1;
                let member = &mut state.members[m];
                member.writes = false;
                if self.without.pledge_on_disk {
                    member.highest = 0;
                }
            }
            Action::LoseVolume(m) => {
                state.faults += 1;
                let member = &mut state.members[m];
                (member.is_empty, member.writes) = (true, false);
                (member.highest, member.pos) = (0, Pos::default());
            }
            Action::Forget(m) => {
                state.faults += 1;
                let lease = &state.lease;
                let leads = lease.holder == id(m) && state.leads_by_record(m) && lease.record.term == lease.term;
                let member = &mut state.members[m];
                member.mark = 0;
                if leads {
                    (member.leads, member.names) = (lease.term, lease.record.current);
                } else {
                    member.leads = 0;
                }
            }
        }
    }

    /// Who gives the Lease up has given up its permit, and its server is at rest, before it sends that.
    fn send(&self, state: &mut State, m: usize, swap: Swap) {
        if swap == Swap::GiveUp {
            let member = &mut state.members[m];
            member.writes = false;
            if !self.without.fresh_swap {
                member.leads = 0;
            }
        }
    }

    fn rejoin(&self, state: &mut State, m: usize, term: u8) {
        let source = state.installed[usize::from(term)].member;
        let pos = state.members[usize::from(source)].pos;
        let member = &mut state.members[m];
        self.count(if member.is_empty { Seen::Refilled } else { Seen::Rejoined });
        member.life += u8::from(!self.without.new_life);
        (member.is_empty, member.pos) = (false, pos);
        member.highest = member.highest.max(term);
    }

    fn pledge(&self, state: &mut State, m: usize) {
        let term = state.lease.term;
        let member = &mut state.members[m];
        state.pledged[m][usize::from(member.life)] = member.pos;
        if member.writes {
            member.writes = self.without.permit_given_up;
        } else if self.without.receiver_gone {
            return;
        }
        member.highest = member.highest.max(term);
    }

    fn open(&self, state: &mut State, m: usize) {
        let term = state.members[m].leads;
        let timeline = state.installed[usize::from(term)].timeline;
        let twice = state
            .members
            .iter()
            .any(|other| other.writes && other.leads == term);
        if twice {
            state.break_rule(Broken::TermTwice);
        }
        let left = state.members[m].pos;
        if left.timeline != timeline {
            if state.forks[usize::from(timeline)].timeline != 0 {
                state.break_rule(Broken::TimelineTwice);
                return;
            }
            if state.lease.record.promotions[usize::from(timeline)] != left {
                state.break_rule(Broken::SwitchPoint);
            }
            state.forks[usize::from(timeline)] = left;
            let member = &mut state.members[m];
            member.pos.timeline = timeline;
        }
        let member = &mut state.members[m];
        (member.writes, member.highest) = (true, member.highest.max(term));
        member.obeyed = member.names;
        let pos = member.pos;
        state.open(pos);
    }

    fn count_swap(&self, state: &State, m: usize, swap: Swap) {
        match swap {
            Swap::Install(_) => {
                for (_, kind) in state.proofs(m, self) {
                    self.count(match kind {
                        Kind::AtRest => Seen::AtRest,
                        Kind::Quorums => Seen::Quorums,
                    });
                }
            }
            Swap::Claim if state.leads_by_record(m) => self.count(Seen::Continued),
            Swap::DropFormers => self.count(Seen::Released),
            Swap::Claim | Swap::Renew | Swap::ChangeSet(_) | Swap::GiveUp => {}
        }
    }

    /// The Lease as this swap writes it.
    fn composed(&self, state: &State, m: usize, swap: Swap) -> Lease {
        let mut lease = state.lease;
        let member = &state.members[m];
        let record = &mut lease.record;
        match swap {
            Swap::Claim => {
                (lease.term, lease.holder) = (lease.term + 1, id(m));
                if state.leads_by_record(m) {
                    record.term = lease.term;
                    self.remove_rest(record);
                }
            }
            Swap::Renew => self.remove_rest(record),
            Swap::Install(set) => {
                let own = state.pledged[m][usize::from(member.life)];
                let timeline = if self.without.fresh_timeline {
                    own.timeline + 1
                } else {
                    proof::next_timeline(record, own.timeline)
                };
                record.term = lease.term;
                record.primary = (id(m), member.life);
                (record.timeline, record.given) = (timeline, record.given.max(timeline));
                record.promotions[usize::from(timeline)] = own;
                proof::change_set(record, set, false);
                if self.without.added_at_promotion {
                    record.set_formers(std::iter::empty());
                }
                record.rest = Pos::default();
            }
            Swap::ChangeSet(set) => {
                let before = *record;
                proof::change_set(record, set, true);
                if self.without.formers_kept {
                    record.set_formers(std::iter::empty());
                } else if self.without.mixture {
                    let formers = before.formers().chain([before.current]).filter(|s| *s != set);
                    record.set_formers(formers);
                }
                self.remove_rest(record);
            }
            Swap::DropFormers => record.set_formers(std::iter::empty()),
            Swap::GiveUp => (lease.holder, record.rest) = (NOBODY, member.pos),
        }
        lease
    }

    fn remove_rest(&self, record: &mut crate::state::Record) {
        if !self.without.rest_removed {
            record.rest = Pos::default();
        }
    }

    /// The Lease becomes what a swap says. Whatever else was composed on the version before cannot land any more.
    fn land(&self, state: &mut State, by: usize, lease: Lease) {
        if lease.term != state.lease.term && !self.without.pledges_of_this_term {
            state.pledged = Default::default();
        }
        state.lease = lease;
        if !self.without.conditional_swaps {
            state.in_flight = None;
        }
        let record = &state.lease.record;
        let (primary, life) = record.primary;
        if record.term == lease.term {
            state.installed[usize::from(record.term)] = Installed {
                member: primary,
                life,
                timeline: record.timeline,
            };
        }
        let leads = record.term == lease.term && lease.holder == id(by) && state.leads_by_record(by);
        let member = &mut state.members[by];
        if leads {
            if member.leads != lease.term || member.names != record.current || record.formers().next().is_none() {
                member.mark = 0;
            }
            (member.leads, member.names) = (lease.term, record.current);
            if member.writes {
                // A server that runs gets the permit and the names. That they come late is no worse: the old names count on meanwhile.
                member.highest = member.highest.max(lease.term);
                member.obeyed = member.obeyed.mixed_with(member.names);
            }
        } else if lease.holder == NOBODY && !self.without.fresh_swap {
            member.leads = 0;
        }
    }
}
