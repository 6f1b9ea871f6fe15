//! Replication and acknowledgements, as PostgreSQL does them: a server sends what it has flushed, a standby tells what it has flushed, and
//! each walsender counts by the names that it has read.

use pgbaton::core::observe::ReplicationRow;
use pgbaton::core::record::{Durability, Member};

use crate::machine::{Names, Proc, SENDER_TIMEOUT, Sender};
use crate::touches;
use crate::wal::{self, Entry};
use crate::world::{Event, World};

/// Between two looks of a standby at its connection; it tells its position then, too.
const LOOK: u64 = 200;
/// A receiver that hears nothing for this long ends.
const RECEIVER_TIMEOUT: u64 = 3_000;

/// Log on its way to a standby.
#[derive(Debug, Clone, Copy)]
pub struct WalSent {
    pub to: usize,
    pub from: usize,
    pub boot: u64,
    pub pid: i32,
    pub up_to: usize,
    /// The last record of it.
    pub last: Entry,
}

/// The end of a connection on its way to the walsender.
#[derive(Debug, Clone, Copy)]
pub struct Closed {
    pub to: usize,
    pub boot: u64,
    pub pid: i32,
    pub from: usize,
}

/// A standby's position on its way to the walsender that serves it.
#[derive(Debug, Clone, Copy)]
pub struct Flushed {
    pub to: usize,
    pub boot: u64,
    pub pid: i32,
    pub from: usize,
    pub held: usize,
}

impl World {
    /// What is due at a running server.
    pub fn tick_server(&mut self, member: usize) {
        let now = self.now;
        let machine = &mut self.machines[member];
        if machine.is_down() || now < machine.hung_until {
            return;
        }
        if machine.flush_due.is_some_and(|at| at <= now) && now >= machine.stalled_until {
            machine.flush_due = None;
            machine.flushed = machine.length();
            self.send_all(member);
            self.report(member);
            self.acknowledge(member);
        }
        if self.machines[member].proc == Proc::Primary && self.machines[member].next_write <= now {
            self.write(member);
        }
        self.tick_senders(member);
        if self.machines[member].is_receiving() && self.machines[member].next_look <= now {
            self.look_at_connection(member);
            let next = now + LOOK / 2 + self.rng.between(0, LOOK);
            self.machines[member].next_look = next;
        }
    }

    fn tick_senders(&mut self, member: usize) {
        let now = self.now;
        let machine = &mut self.machines[member];
        let mut changed = false;
        for sender in &mut machine.senders {
            if sender.reload.is_some_and(|at| at <= now) {
                sender.conf = Names::parse(&machine.names);
                sender.reload = None;
                changed = true;
            }
        }
        let before = machine.senders.len();
        machine.keep_senders(|s| now < s.heard + SENDER_TIMEOUT);
        changed |= machine.senders.len() != before;
        if machine.defined_due.is_some_and(|at| at <= now) {
            machine.defined_due = None;
            machine.defined = !machine.names.is_empty();
            changed = true;
        }
        if changed {
            self.acknowledge(member);
        }
    }

    /// A client's commit begins.
    fn write(&mut self, member: usize) {
        let (shortest, longest) = self.plan.write_pause;
        let pause = self.rng.between(shortest, longest);
        let flush = self.rng.between(1, 6);
        let id = self.id();
        let now = self.now;
        let machine = &mut self.machines[member];
        machine.next_write = now + pause;
        if now < machine.full_until {
            return;
        }
        let Some(data) = &mut machine.data else { return };
        let timeline = wal::timeline(&data.wal);
        data.wal.push(Entry { timeline, id });
        machine.waiting.push(data.wal.len() - 1);
        machine.flush_due.get_or_insert(now + flush);
    }

    /// A standby looks whether it is still connected, and connects.
    fn look_at_connection(&mut self, member: usize) {
        let now = self.now;
        let machine = &self.machines[member];
        let upstream = machine
            .following
            .as_ref()
            .and_then(|f| self.machines.iter().position(|m| m.name == *f));
        let Some(upstream) = upstream.filter(|u| *u != member) else {
            self.machines[member].stream = None;
            return;
        };
        self.touches(touches::member(upstream));
        let source = &self.machines[upstream];
        if !self.linked(member, upstream)
            || now < source.frozen_until
            || source.gone
            || now < source.hung_until
        {
            // Nothing comes; the connection is not known to be dead.
            if now >= machine.heard_upstream + RECEIVER_TIMEOUT {
                self.machines[member].stream = None;
            }
            return;
        }
        let serves = source.up && matches!(source.proc, Proc::Primary | Proc::Stopping { clean: true, .. });
        let (Some(theirs), Some(own), true) = (&source.data, &machine.data, serves) else {
            self.machines[member].stream = None;
            return;
        };
        let flushed = &theirs.wal[..source.held()];
        if own.system != theirs.system || !wal::is_within(&own.wal, flushed) {
            self.machines[member].stream = None;
            return;
        }
        let connected = machine.stream.is_some_and(|(to, boot, pid)| {
            to == upstream && boot == source.boot && source.senders.iter().any(|s| s.pid == pid)
        });
        self.machines[member].heard_upstream = now;
        if connected {
            self.report(member);
        } else {
            self.connect(member, upstream);
        }
    }

    fn connect(&mut self, member: usize, upstream: usize) {
        self.machines[member].stream = None;
        if self.machines[upstream].proc != Proc::Primary {
            return;
        }
        let pid = i32::try_from(self.id() % 1_000_000).unwrap();
        let (now, name) = (self.now, self.machines[member].standby_name.clone());
        let held = self.machines[member].length();
        self.machines[member].flushed = held;
        let source = &mut self.machines[upstream];
        source.senders.push(Sender {
            pid,
            name,
            peer: member,
            conf: Names::parse(&source.names),
            reload: None,
            flush: None,
            heard: now,
            sent: held,
            in_flight: false,
        });
        let boot = source.boot;
        self.machines[member].stream = Some((upstream, boot, pid));
        self.report(member);
        self.touch(upstream);
        self.send_all(upstream);
    }

    /// Sends what is flushed to everybody who waits for it.
    pub fn send_all(&mut self, member: usize) {
        let (held, boot) = (self.machines[member].held(), self.machines[member].boot);
        for place in 0..self.machines[member].senders.len() {
            let sender = &mut self.machines[member].senders[place];
            if sender.in_flight || sender.sent >= held {
                continue;
            }
            sender.in_flight = true;
            sender.sent = held;
            let peer = sender.peer;
            let pid = sender.pid;
            let Some(last) = self.machines[member]
                .data
                .as_ref()
                .and_then(|d| d.wal.get(held - 1).copied())
            else {
                continue;
            };
            let sent = WalSent {
                to: peer,
                from: member,
                boot,
                pid,
                up_to: held,
                last,
            };
            let when = self.now + self.latency();
            self.at(when, Event::Wal(sent));
        }
    }

    /// A standby tells its walsender how far it has flushed.
    fn report(&mut self, member: usize) {
        let Some((to, boot, pid)) = self.machines[member].stream else {
            return;
        };
        let message = Flushed {
            to,
            boot,
            pid,
            from: member,
            held: self.machines[member].held(),
        };
        let when = self.now + self.latency();
        self.at(when, Event::Flushed(message));
    }

    pub fn wal_comes(&mut self, sent: WalSent) {
        let WalSent {
            to,
            from,
            boot,
            pid,
            up_to,
            last,
        } = sent;
        let now = self.now;
        let machine = &self.machines[to];
        if machine.stream != Some((from, boot, pid)) || !machine.is_receiving() {
            return;
        }
        let later = self
            .cut_until(from, to)
            .max(machine.frozen_until)
            .max(machine.slow_until);
        if now < later.max(machine.hung_until) {
            return self.wait(later.max(machine.hung_until), Event::Wal(sent));
        }
        let (Some(theirs), Some(own)) = (&self.machines[from].data, &machine.data) else {
            return;
        };
        let held = own.wal.len();
        // What was sent is flushed there, unless all of that data was replaced since.
        let is_same = theirs.wal.get(up_to - 1) == Some(&last);
        if !is_same || held > up_to || !wal::is_within(&own.wal, &theirs.wal) {
            return;
        }
        let new: Vec<Entry> = theirs.wal[held..up_to].to_vec();
        let flush = now + self.rng.between(1, 6);
        let machine = &mut self.machines[to];
        machine.heard_upstream = now;
        if let Some(data) = &mut machine.data {
            data.wal.extend(new);
        }
        machine.flush_due.get_or_insert(flush);
        self.touch(to);
    }

    /// Connections that ended since the last look are closed; the kernel does it, so not that of a node that is gone.
    pub fn close_connections(&mut self) {
        for from in 0..self.plan.members {
            let stream = self.machines[from].stream;
            if stream == self.streams[from] {
                continue;
            }
            let old = std::mem::replace(&mut self.streams[from], stream);
            if let Some((to, boot, pid)) = old.filter(|_| !self.machines[from].gone) {
                let when = self.now + self.latency();
                self.at(when, Event::Closed(Closed { to, boot, pid, from }));
            }
        }
        for from in 0..self.plan.members {
            let gone = self.machines[from].gone;
            for (peer, boot, pid) in std::mem::take(&mut self.machines[from].ended) {
                if !gone {
                    let when = self.now + self.latency();
                    self.at(when, Event::Reset(peer, (from, boot, pid)));
                }
            }
        }
    }

    /// The other end of a standby's connection is closed.
    pub fn connection_is_reset(&mut self, member: usize, stream: (usize, u64, i32)) {
        let machine = &self.machines[member];
        if machine.stream != Some(stream) || !self.arrives(stream.0, member) {
            return;
        }
        let later = machine.frozen_until.max(machine.hung_until);
        if self.now < later {
            return self.wait(later, Event::Reset(member, stream));
        }
        self.machines[member].stream = None;
        self.touch(member);
    }

    pub fn connection_ends(&mut self, closed: Closed) {
        let Closed { to, boot, pid, from } = closed;
        let machine = &self.machines[to];
        if !machine.up || machine.boot != boot {
            return;
        }
        let later = self
            .cut_until(from, to)
            .max(machine.frozen_until)
            .max(machine.hung_until);
        if self.now < later {
            return self.wait(later, Event::Closed(closed));
        }
        self.machines[to].keep_senders(|s| s.pid != pid);
        self.touch(to);
        self.acknowledge(to);
    }

    pub fn position_comes(&mut self, message: Flushed) {
        let Flushed {
            to,
            boot,
            pid,
            from,
            held,
        } = message;
        let machine = &self.machines[to];
        if !machine.up || machine.boot != boot || !machine.senders.iter().any(|s| s.pid == pid) {
            return;
        }
        let later = self
            .cut_until(from, to)
            .max(machine.frozen_until)
            .max(machine.hung_until);
        if self.now < later {
            return self.wait(later, Event::Flushed(message));
        }
        let now = self.now;
        let senders = &mut self.machines[to].senders;
        if let Some(sender) = senders.iter_mut().find(|s| s.pid == pid) {
            sender.flush = sender.flush.max(Some(held));
            sender.heard = now;
            sender.in_flight &= sender.sent > held;
        }
        self.touch(to);
        self.acknowledge(to);
        self.send_all(to);
    }

    /// What may be acknowledged is.
    pub fn acknowledge(&mut self, member: usize) {
        let machine = &self.machines[member];
        if machine.waiting.is_empty() || !machine.writes(self.now) || self.now < machine.hung_until {
            return;
        }
        let released = self.released_up_to(member).min(machine.held());
        let waiting = &mut self.machines[member].waiting;
        let count = waiting.iter().take_while(|place| **place < released).count();
        let done: Vec<usize> = waiting.drain(..count).collect();
        if done.is_empty() {
            return;
        }
        self.names_are_recorded(member);
        for place in done {
            self.checks.acknowledged(&self.machines, member, place, self.now);
        }
    }

    /// Invariant 6: nobody acknowledges by names that are not in the record.
    fn names_are_recorded(&mut self, member: usize) {
        let machine = &self.machines[member];
        let Some(lease) = self.api.lease() else { return };
        let Some(record) = lease.record() else { return };
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
