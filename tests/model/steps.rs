//! What an action does to a state.

use crate::model::{Action, Protocol, Swap};
use crate::proof::{self, Kind};
use crate::state::{Installed, Lease, Member, NOBODY, Pos, Record, State, id};
use crate::truth::{Broken, Seen};

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
            Action::Crash(_) | Action::LoseVolume(_) | Action::Forget(_) | Action::LoseRecord => {
                state.faults += 1;
                self.fail(state, action);
            }
            Action::WriteBack(m) => self.write_back(state, m),
        }
    }

    fn fail(&self, state: &mut State, fault: Action) {
        match fault {
            Action::Crash(m) => {
                let member = &mut state.members[m];
                member.writes = false;
                if self.without.pledge_on_disk {
                    member.highest = 0;
                }
            }
            Action::LoseVolume(m) => {
                let member = &mut state.members[m];
                (member.is_empty, member.writes) = (true, false);
                (member.highest, member.pos) = (0, Pos::default());
            }
            Action::LoseRecord => {
                (state.lease.is_lost, state.lease.holder) = (true, NOBODY);
                state.pledged = Default::default();
                state.in_flight = None;
            }
            Action::Forget(m) => {
                let lease = &state.lease;
                let leads =
                    lease.holder == id(m) && state.leads_by_record(m) && lease.record.term == lease.term;
                let member = &mut state.members[m];
                member.mark = 0;
                if leads {
                    (member.leads, member.names) = (lease.term, lease.record.current);
                } else {
                    member.leads = 0;
                }
            }
            _ => {}
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

    fn write_back(&self, state: &mut State, m: usize) {
        let Some(mut record) = state.led(m).copied() else {
            return;
        };
        let term = record.term + 1;
        (record.term, record.rest) = (term, Pos::default());
        let other = |(x, member): (usize, &Member)| x != m && member.writes && member.leads == term;
        if state.members.iter().enumerate().any(other) {
            state.break_rule(Broken::TermTwice);
        }
        if !state.is_within(state.acked, state.members[m].pos) {
            state.break_rule(Broken::Lost);
        }
        let lease = Lease {
            term,
            holder: id(m),
            record,
            is_lost: false,
        };
        self.land(state, m, lease);
    }

    fn rejoin(&self, state: &mut State, m: usize, term: u8) {
        let source = state.installed[usize::from(term)].member;
        let pos = state.members[usize::from(source)].pos;
        let member = &mut state.members[m];
        self.count(if member.is_empty {
            Seen::Refilled
        } else {
            Seen::Rejoined
        });
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

    fn remove_rest(&self, record: &mut Record) {
        if !self.without.rest_removed {
            record.rest = Pos::default();
        }
    }

    /// The Lease becomes what a swap says. Whatever else was composed on the version before cannot land any more.
    fn land(&self, state: &mut State, by: usize, lease: Lease) {
        if lease.term != state.lease.term && !self.without.pledges_of_this_term {
            state.pledged = Default::default();
        }
        let before = state.lease.record;
        if self.faults.lost_record
            && (before.primary, before.timeline) != (lease.record.primary, lease.record.timeline)
        {
            state.before = Some(before);
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
            if member.leads != lease.term
                || member.names != record.current
                || record.formers().next().is_none()
            {
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
