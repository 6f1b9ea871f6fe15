//! What must hold after every step, judged by the truth of the world and never by the core's own functions.

use std::collections::BTreeMap;
use std::rc::Rc;

use pgbaton::core::action::SwapKind;
use pgbaton::core::record::{Durability, Member, Record, SyncSet};
use pgbaton::core::types::{MemberData, Term};

use crate::api::{Lease, Request};
use crate::machine::{Machine, Names, Proc};
use crate::wal::{self, Entry, Wal};

#[derive(Debug, Clone, Default)]
pub struct Checks {
    /// All that was ever acknowledged, with what lies before it.
    pub acked: Wal,
    /// Timelines and the first record made on each.
    pub timelines: BTreeMap<u32, u64>,
    /// A person accepted that data may be lost: the next primary's log is the truth.
    pub waived: bool,
    pub asynchronous: bool,
    pub broken: Option<String>,
    pub promotions: u64,
    pub acks: u64,
}

impl Checks {
    pub fn fail(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// `server` told a client that the record at `place` is durable.
    pub fn acknowledged(&mut self, machines: &[Machine], server: usize, place: usize, now: u64) {
        self.acks += 1;
        let Some(data) = &machines[server].data else {
            return;
        };
        let log = &data.wal;
        let entry = log[place];
        if let Some(known) = self.acked.get(place) {
            if *known != entry && !self.asynchronous {
                let name = &machines[server].name;
                self.fail(format!(
                    "{name} acknowledged {entry:?} at {place}, where {known:?} was acknowledged"
                ));
            }
            return;
        }
        if !wal::is_within(&self.acked, log) {
            if !self.asynchronous {
                let name = &machines[server].name;
                self.fail(format!(
                    "{name} acknowledges without holding all that was acknowledged before"
                ));
            }
            return;
        }
        for (other, machine) in machines.iter().enumerate() {
            let Some(theirs) = &machine.data else { continue };
            let later = wal::timeline(&theirs.wal) > wal::timeline(log);
            if other != server && later && machine.writes(now) && theirs.wal.get(place) != Some(&entry) {
                self.fail(format!(
                    "{} acknowledged {entry:?}, which the later primary {} does not hold",
                    machines[server].name, machine.name
                ));
            }
        }
        self.acked.extend_from_slice(&log[self.acked.len()..=place]);
    }

    /// `machine` is read-write from now on.
    pub fn opened(&mut self, machine: &Machine) {
        self.promotions += 1;
        let Some(data) = &machine.data else { return };
        if self.waived || self.asynchronous {
            let common = self
                .acked
                .iter()
                .zip(&data.wal)
                .take_while(|(a, b)| a == b)
                .count();
            self.acked.truncate(common);
            self.waived = false;
        } else if !wal::is_within(&self.acked, &data.wal) {
            self.fail(format!(
                "acknowledged commits are missing on {}, which runs read-write now: {} of {} held",
                machine.name,
                self.acked
                    .iter()
                    .zip(&data.wal)
                    .take_while(|(a, b)| a == b)
                    .count(),
                self.acked.len()
            ));
        }
    }

    pub fn new_timeline(&mut self, made: Entry) {
        if let Some(first) = self.timelines.insert(made.timeline, made.id)
            && first != made.id
        {
            self.fail(format!("timeline {} was made twice", made.timeline));
        }
    }

    /// In asynchronous durability the permits alone keep two servers apart.
    pub fn writers(&mut self, machines: &[Machine], now: u64) {
        let mut writing = 0;
        let mut plain = false;
        for machine in machines.iter().filter(|m| m.writes(now)) {
            writing += 1;
            plain |= machine.plain;
        }
        for machine in machines.iter().filter(|m| m.writes(now) && !m.plain) {
            if plain {
                self.fail(format!(
                    "{} takes writes beside a server without a guard",
                    machine.name
                ));
            }
            if machine
                .permit
                .is_none_or(|(_, until)| until <= machine.boot_now())
            {
                self.fail(format!("{} is read-write without a permit", machine.name));
            }
        }
        if (self.asynchronous || plain) && writing > 1 {
            let writers = machines.iter().filter(|m| m.writes(now));
            let names: Vec<String> = writers.map(|m| m.name.to_string()).collect();
            self.fail(format!("two servers take writes: {}", names.join(", ")));
        }
    }

    /// A swap went through.
    pub fn swapped(&mut self, old: Option<&Lease>, new: &Rc<Lease>, request: &Request, machines: &[Machine]) {
        let Some(record) = new.record() else { return };
        if let Err(rule) = record.check() {
            self.fail(format!("a record that breaks a rule was written: {rule}"));
        }
        let Some(before) = old.and_then(Lease::record) else {
            return;
        };
        let (was, is) = (before.primary.as_ref(), record.primary.as_ref());
        let same = was.map(Member::data) == is.map(Member::data);
        if request.swap.kind == SwapKind::Renew && !same && was.is_some() {
            let candidate = is.map(Member::data);
            if record.durability == Durability::Sync && !self.waived {
                self.proof(before, new.term, candidate, machines);
            }
            self.kept_all(before, record);
        } else if same && request.swap.kind == SwapKind::Renew {
            self.released(before, record, request.member, machines);
        } else if same {
            self.kept_all(before, record);
        }
    }

    fn kept_all(&mut self, before: &Record, record: &Record) {
        if let Some(lost) = before.sync_sets.iter().find(|s| !record.sync_sets.contains(s)) {
            self.fail(format!("a sync set left the record at a takeover: {lost:?}"));
        }
    }

    /// Invariant 6 (ii), by the truth.
    fn released(&mut self, before: &Record, record: &Record, writer: usize, machines: &[Machine]) {
        let dropped = before.sync_sets.iter().any(|s| !record.sync_sets.contains(s));
        let current = record.current_set();
        if !dropped || current.k == 0 || self.asynchronous {
            return;
        }
        let machine = &machines[writer];
        let names = Names::parse(&current.names());
        if !machine.defined && machine.proc == Proc::Primary {
            self.fail(format!(
                "{} released a set while its backends do not wait",
                machine.name
            ));
        }
        for sender in machine.senders.iter().filter(|s| s.counts()) {
            if !names.has(&sender.name) || sender.conf.k < current.k as usize {
                self.fail(format!(
                    "{} released a set while the walsender of {} counts under the old names",
                    machine.name, sender.name
                ));
            }
        }
        let have = current
            .standbys
            .iter()
            .filter(|s| self.holds_acked(s, machines))
            .count();
        if have < current.k as usize {
            self.fail(format!(
                "{} released a set, and {have} of {} hold what it acknowledged",
                machine.name, current.k
            ));
        }
    }

    fn holds_acked(&self, standby: &MemberData, machines: &[Machine]) -> bool {
        let theirs = machines
            .iter()
            .find(|m| m.member_data().as_ref() == Some(standby));
        theirs
            .and_then(|m| m.data.as_ref())
            .is_some_and(|d| wal::is_within(&self.acked, &d.wal))
    }

    /// Invariant 4, by the truth: what the guards really gave, and what really lies on the disks.
    fn proof(&mut self, before: &Record, term: Term, candidate: Option<MemberData>, machines: &[Machine]) {
        let Some(candidate) = candidate else {
            return self.fail("a record without a primary was written over one with".to_owned());
        };
        let given = |data: &MemberData| machines.iter().find_map(|m| m.given.get(&(data.clone(), term)));
        let Some(own) = given(&candidate) else {
            return self.fail(format!(
                "{candidate} was installed without a pledge to term {term}"
            ));
        };
        let primary = before.primary.as_ref().map(Member::data);
        let at_rest = primary.is_some_and(|primary| {
            let pledged = given(&primary).is_some_and(|log| wal::is_within(log, own));
            let wrote = before.rest.as_ref().is_some_and(|rest| {
                let there = machines
                    .iter()
                    .find(|m| m.member_data().as_ref() == Some(&primary));
                let log = there.and_then(|m| m.data.as_ref());
                rest.data == primary && log.is_none_or(|d| wal::is_within(&d.wal, own))
            });
            pledged || wrote
        });
        let enough = |set: &SyncSet| {
            let counted = |s: &&MemberData| given(s).is_some_and(|log| wal::is_within(log, own));
            set.k > 0 && set.standbys.iter().filter(counted).count() > set.standbys.len() - set.k as usize
        };
        let quorums = !before.sync_sets.is_empty() && before.sync_sets.iter().all(enough);
        if !at_rest && !quorums {
            self.fail(format!("{candidate} was installed in term {term} without proof"));
        }
    }
}
