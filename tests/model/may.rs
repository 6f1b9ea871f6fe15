//! What a member may do in a state, on what it can know there.

use crate::model::Protocol;
use crate::proof::{self, Heard, Kind};
use crate::rules::Without;
use crate::state::{FLUSHED, LIVES, MEMBERS, Pos, Record, Set, State, id};

impl State {
    /// A guard pledges when its sidecar sees that the Lease has moved on; a deposed primary's does so at any time.
    pub fn may_pledge(&self, m: usize) -> bool {
        let (member, lease) = (&self.members[m], &self.lease);
        if lease.is_lost {
            return false;
        }
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

    /// The record that a member led with last.
    pub fn led(&self, m: usize) -> Option<&Record> {
        let member = &self.members[m];
        let known = [Some(&self.lease.record), self.before.as_ref()];
        let own = |r: &&Record| r.term == member.leads && r.primary == (id(m), member.life);
        known.into_iter().flatten().find(own)
    }

    /// Whether a server that runs writes the record back that it led with. It knows of no later term; that nobody was installed in one is
    /// certain when k of one of its sets have pledged to none.
    pub fn may_write_back(&self, m: usize, protocol: &Protocol) -> bool {
        let member = &self.members[m];
        let Some(led) = self.led(m).filter(|_| member.writes && member.leads > 0) else {
            return false;
        };
        let heard = |set: Set| {
            let have = set.standbys().filter(|(x, life)| {
                let standby = &self.members[*x];
                !standby.is_empty && standby.life == *life && standby.highest <= led.term
            });
            u32::try_from(have.count()).unwrap() >= set.k()
        };
        let sure = protocol.without.heard_before_write_back || heard(led.current) || led.formers().any(heard);
        led.term < protocol.bounds.terms && sure
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
            let mut choices: Vec<Option<(u8, Pos)>> =
                answers.map(|l| Some((id(l), self.pledged[x][l]))).collect();
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
