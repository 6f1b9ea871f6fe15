//! Replication and acknowledgements, as PostgreSQL does them: each walsender counts by the names that it has read.

use pgbaton::core::observe::ReplicationRow;
use pgbaton::core::record::{Durability, Member};

use crate::machine::{Names, Proc, Sender};
use crate::wal::{self, Entry};
use crate::world::World;

/// Without an answer for this long a walsender ends.
const SENDER_TIMEOUT: u64 = 1_500;
/// Records a step that a connection carries.
const WIDTH: usize = 200;

impl World {
    /// Every standby receives what it can; every walsender hears what was flushed.
    pub fn replicate(&mut self) {
        for member in 0..self.plan.members {
            self.receive(member);
        }
        let now = self.now;
        let streams: Vec<_> = self.machines.iter().map(|m| m.stream).collect();
        let linked: Vec<Vec<bool>> = (0..self.plan.members)
            .map(|a| (0..self.plan.members).map(|b| self.linked(a, b)).collect())
            .collect();
        for (member, machine) in self.machines.iter_mut().enumerate() {
            if !machine.is_live(now) {
                continue;
            }
            for sender in &mut machine.senders {
                if sender.reload.is_some_and(|at| at <= now) {
                    sender.conf = Names::parse(&machine.names);
                    sender.reload = None;
                }
            }
            machine.senders.retain(|s| {
                let there = streams[s.peer] == Some((member, machine.boot, s.pid));
                (there || !linked[member][s.peer]) && now < s.heard + SENDER_TIMEOUT
            });
            if machine.defined_due.is_some_and(|at| at <= now) {
                machine.defined_due = None;
                machine.defined = !machine.names.is_empty();
            }
        }
    }

    fn receive(&mut self, member: usize) {
        let now = self.now;
        let machine = &self.machines[member];
        if !machine.is_live(now) {
            return;
        }
        let upstream = machine
            .following
            .as_ref()
            .and_then(|f| self.machines.iter().position(|m| m.name == *f));
        let running = machine.proc == Proc::Standby
            || matches!(machine.proc, Proc::Stopping { .. } if machine.stream.is_some());
        let (Some(upstream), true) = (upstream, running && upstream != Some(member)) else {
            self.machines[member].stream = None;
            return;
        };
        let source = &self.machines[upstream];
        let serves = source.is_live(now)
            && now >= source.hung_until
            && matches!(source.proc, Proc::Primary | Proc::Stopping { clean: true, .. });
        if !self.linked(member, upstream) || now < source.frozen_until || source.gone {
            // Nothing comes; the connection is not known to be dead.
            return;
        }
        let (Some(theirs), Some(own), true) = (&source.data, &machine.data, serves) else {
            self.machines[member].stream = None;
            return;
        };
        if own.system != theirs.system || !wal::is_within(&own.wal, &theirs.wal) {
            self.machines[member].stream = None;
            return;
        }
        let connected = machine.stream.is_some_and(|(to, boot, pid)| {
            to == upstream && boot == source.boot && source.senders.iter().any(|s| s.pid == pid)
        });
        if !connected {
            return self.connect(member, upstream);
        }
        let slow = now < machine.slow_until;
        let new: Vec<Entry> = theirs.wal[own.wal.len()..].iter().take(WIDTH).copied().collect();
        let held = own.wal.len();
        let pid = machine.stream.map(|(_, _, pid)| pid);
        if !slow && let Some(data) = &mut self.machines[member].data {
            data.wal.extend(new);
        }
        if let Some(sender) = self.machines[upstream]
            .senders
            .iter_mut()
            .find(|s| Some(s.pid) == pid)
        {
            // What was held a step ago is flushed and told by now.
            sender.flush = Some(held);
            sender.heard = now;
        }
    }

    fn connect(&mut self, member: usize, upstream: usize) {
        if self.machines[upstream].proc != Proc::Primary {
            return;
        }
        let pid = i32::try_from(self.id() % 1_000_000).unwrap();
        let (now, name) = (self.now, self.machines[member].standby_name.clone());
        let source = &mut self.machines[upstream];
        source.senders.push(Sender {
            pid,
            name,
            peer: member,
            conf: Names::parse(&source.names),
            reload: None,
            flush: None,
            heard: now,
        });
        let boot = source.boot;
        self.machines[member].stream = Some((upstream, boot, pid));
    }

    /// Clients write on every server that lets them; what may be acknowledged is.
    pub fn commit(&mut self) {
        for member in 0..self.plan.members {
            if !self.machines[member].writes(self.now) || self.now < self.machines[member].hung_until {
                continue;
            }
            let full = self.now < self.machines[member].full_until;
            if self.rng.percent(60) && !full {
                let id = self.id();
                let machine = &mut self.machines[member];
                if let Some(data) = &mut machine.data {
                    let timeline = wal::timeline(&data.wal);
                    data.wal.push(Entry { timeline, id });
                    machine.waiting.push(data.wal.len() - 1);
                }
            }
            let released = self.released_up_to(member);
            let (done, waiting): (Vec<usize>, Vec<usize>) = self.machines[member]
                .waiting
                .iter()
                .partition(|place| **place < released);
            self.machines[member].waiting = waiting;
            if !done.is_empty() {
                self.names_are_recorded(member);
            }
            for place in done {
                self.checks.acknowledged(&self.machines, member, place, self.now);
            }
        }
    }

    /// Invariant 6: nobody acknowledges by names that are not in the record.
    fn names_are_recorded(&mut self, member: usize) {
        let machine = &self.machines[member];
        let Some(record) = self.api.record() else { return };
        let mine = machine.member_data();
        let leads = mine.is_some() && record.primary.as_ref().map(Member::data) == mine;
        if !leads || record.durability == Durability::Async || self.checks.waived {
            return;
        }
        let recorded: Vec<Names> = record
            .sync_sets
            .iter()
            .map(|s| Names::parse(&s.names()))
            .collect();
        let alone = !machine.defined && recorded.iter().all(|n| n.k > 0);
        // A walsender with old names counts those whose own walsenders still count, and asks for its old k.
        let counting: Vec<&Sender> = machine.senders.iter().filter(|s| s.counts()).collect();
        let fits = |n: &Names, k: usize| n.k <= k && (n.k == 0 || counting.iter().all(|c| n.has(&c.name)));
        let other = |s: &&&Sender| recorded.iter().all(|n| !fits(n, s.conf.k));
        let strange = counting.iter().find(other).map(|s| s.name.clone());
        let name = machine.name.clone();
        if alone {
            self.checks
                .fail(format!("{name} acknowledges alone, and no empty set is recorded"));
        }
        if let Some(sender) = strange {
            self.checks.fail(format!(
                "{name} acknowledges by names of {sender} that are not recorded"
            ));
        }
    }

    /// Commits before this length are released: by any walsender that counts, by the names that it has read.
    fn released_up_to(&self, member: usize) -> usize {
        let machine = &self.machines[member];
        if !machine.defined {
            return usize::MAX;
        }
        let counting: Vec<&Sender> = machine.senders.iter().filter(|s| s.counts()).collect();
        let mut flushed: Vec<usize> = counting.iter().filter_map(|s| s.flush).collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        let by = |sender: &&Sender| flushed.get(sender.conf.k - 1).copied();
        counting.iter().filter_map(by).max().unwrap_or(0)
    }

    /// `pg_stat_replication`.
    pub fn rows(&self, member: usize) -> Vec<ReplicationRow> {
        let row = |s: &Sender| ReplicationRow {
            pid: s.pid,
            name: s.name.clone(),
            streaming: s.flush.is_some(),
            flush: s.flush.map(wal::end),
            sync_priority: i32::from(s.counts()),
            // By the standby's own clock, which is years behind.
            replied_at_ms: i64::try_from(s.heard).ok(),
        };
        self.machines[member].senders.iter().map(row).collect()
    }
}
