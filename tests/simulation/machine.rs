//! The model guard with its server: what DESIGN.md section 2 promises of the real one, no more.

use std::collections::BTreeMap;

use pgbaton::core::action::GuardOrder;
use pgbaton::core::types::{DataId, Lsn, MemberData, MemberName, SystemId, Term, Timeline};
use pgbaton::guard::protocol::{
    DataState, DownReason, FoundData, Operation, OperationEnd, Permit, Pledge, RestPosition, Server, Status,
};

use crate::clock::Clock;
use crate::wal::{self, Wal};

#[derive(Debug, Clone)]
pub struct Data {
    pub id: DataId,
    pub system: SystemId,
    pub wal: Wal,
    pub clean: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proc {
    Down(DownReason),
    Starting { until: u64, primary: bool },
    Standby,
    Primary,
    Stopping { until: u64, clean: bool },
}

/// Without an answer for this long a walsender ends.
pub const SENDER_TIMEOUT: u64 = 1_500;
/// How long a fast stop waits for standbys that do not take what they are sent.
pub const STOP_WAITS: u64 = 1_000;

/// `synchronous_standby_names` as one process read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub k: usize,
    pub names: Vec<String>,
}

impl Names {
    /// Reads `ANY k ("a","b")`.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() {
            return Self::default();
        }
        let mut quoted = text.split('"');
        let head = quoted.next().unwrap();
        let k = head.split_whitespace().nth(1).unwrap().parse().unwrap();
        let names = text.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        Self { k, names }
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }
}

/// A walsender: it reads the names at its start, and again some time after a reload.
#[derive(Debug, Clone)]
pub struct Sender {
    pub pid: i32,
    pub name: String,
    pub peer: usize,
    pub conf: Names,
    pub reload: Option<u64>,
    pub flush: Option<usize>,
    pub heard: u64,
    /// How far it has sent, and whether that is under way.
    pub sent: usize,
    pub in_flight: bool,
}

impl Sender {
    pub fn counts(&self) -> bool {
        self.conf.has(&self.name)
    }
}

/// An order under way, and who waits for its end.
#[derive(Debug, Clone)]
pub struct Busy {
    pub until: u64,
    pub term: Term,
    pub order: GuardOrder,
    pub life: u64,
}

#[derive(Debug, Clone)]
pub struct Running {
    pub until: u64,
    pub order: GuardOrder,
    pub life: u64,
    pub number: u64,
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub name: MemberName,
    /// The container runs.
    pub up: bool,
    pub boot: u64,
    /// CLOCK_BOOTTIME of the node.
    pub boot_clock: Clock,
    pub frozen_until: u64,
    /// The whole node stands still with its clocks, as a paused virtual machine.
    pub suspended_until: u64,
    /// Nothing can be written any more.
    pub full_until: u64,
    /// The pod is gone with its address: nobody there even refuses.
    pub gone: bool,
    /// The server accepts nothing and answers nothing.
    pub hung_until: u64,
    pub data: Option<Data>,
    /// Length of the log that survives a power failure.
    pub flushed: usize,
    pub flush_due: Option<u64>,
    /// The disk takes nothing until then.
    pub stalled_until: u64,
    pub next_write: u64,
    /// When a standby looks after its connection again, and when it last heard of its upstream.
    pub next_look: u64,
    pub heard_upstream: u64,
    /// A fast stop has written its checkpoint and waits for standbys, at most until then.
    pub stop_waits_until: Option<u64>,
    pub incomplete: bool,
    /// A copy that no server has recovered yet: where its log ends is not told.
    pub fresh: bool,
    /// The pod has no guard and no sidecar: the server runs as its own files say.
    pub plain: bool,
    /// The data has none of pgbaton's files.
    pub unadopted: bool,
    /// Without pgbaton's files: `standby.signal` lies in it.
    pub signal: bool,
    /// A primary's data was adopted and not started since.
    pub adopting: bool,
    pub highest_term: Term,
    pub knows_term: bool,
    pub pledge: Option<Pledge>,
    pub permit: Option<(Term, u64)>,
    pub proc: Proc,
    pub names: String,
    /// Backends wait for standbys: told by the checkpointer only.
    pub defined: bool,
    pub defined_due: Option<u64>,
    /// A checkpoint runs until then.
    pub checkpoint_until: u64,
    pub senders: Vec<Sender>,
    /// Walsenders that ended: peer, boot and process id, until their kernel has told the other end.
    pub ended: Vec<(usize, u64, i32)>,
    /// Commits waiting for standbys: places in the log.
    pub waiting: Vec<usize>,
    pub following: Option<MemberName>,
    pub standby_name: String,
    /// Process id of the walsender that serves this standby, and boot of its server.
    pub stream: Option<(usize, u64, i32)>,
    /// Records that are held and not replayed: a standby that was restarted tells only what it has replayed.
    pub unreplayed: usize,
    /// No WAL arrives until then, though the connection stands.
    pub slow_until: u64,
    pub busy: Option<Busy>,
    pub running: Option<Running>,
    pub last_operation: Option<OperationEnd>,
    pub stopping: bool,
    pub stop_by: u64,
    pub rest: Option<RestPosition>,
    /// Every pledge that was given, with the log at that moment: for the checks.
    pub given: BTreeMap<(MemberData, Term), Wal>,
}

impl Machine {
    pub fn new(name: MemberName, boot_clock: Clock) -> Self {
        Self {
            name,
            up: true,
            boot: 1,
            boot_clock,
            suspended_until: 0,
            frozen_until: 0,
            flushed: 0,
            flush_due: None,
            stalled_until: 0,
            next_write: 0,
            next_look: 0,
            heard_upstream: 0,
            stop_waits_until: None,
            gone: false,
            full_until: 0,
            hung_until: 0,
            data: None,
            incomplete: false,
            fresh: false,
            highest_term: Term(0),
            knows_term: false,
            pledge: None,
            permit: None,
            unreplayed: 0,
            plain: false,
            unadopted: false,
            signal: false,
            adopting: false,
            proc: Proc::Down(DownReason::NotStarted),
            names: String::new(),
            defined: false,
            defined_due: None,
            checkpoint_until: 0,
            senders: Vec::new(),
            ended: Vec::new(),
            waiting: Vec::new(),
            following: None,
            standby_name: String::new(),
            stream: None,
            slow_until: 0,
            busy: None,
            running: None,
            last_operation: None,
            stopping: false,
            stop_by: 0,
            rest: None,
            given: BTreeMap::new(),
        }
    }

    pub fn is_live(&self, now: u64) -> bool {
        self.up && now >= self.frozen_until
    }

    pub fn is_down(&self) -> bool {
        matches!(self.proc, Proc::Down(_))
    }

    pub fn boot_now(&self) -> u64 {
        self.boot_clock.shows()
    }

    /// Its data is this.
    pub fn is(&self, data: &MemberData) -> bool {
        let id = self.data.as_ref().filter(|_| !self.unadopted).map(|d| &d.id);
        self.name == data.member && id == Some(&data.data_id)
    }

    pub fn length(&self) -> usize {
        self.data.as_ref().map_or(0, |d| d.wal.len())
    }

    /// What is on disk of the log.
    pub fn held(&self) -> usize {
        self.flushed.min(self.length())
    }

    /// Read-write and able to answer.
    pub fn writes(&self, now: u64) -> bool {
        self.is_live(now) && self.proc == Proc::Primary
    }

    pub fn may_become_primary(&self) -> bool {
        matches!(self.proc, Proc::Primary | Proc::Starting { primary: true, .. })
    }

    pub fn member_data(&self) -> Option<MemberData> {
        Some(MemberData {
            member: self.name.clone(),
            data_id: self.data_id()?,
        })
    }

    /// None while the data has none of pgbaton's files.
    pub fn data_id(&self) -> Option<DataId> {
        let data = self.data.as_ref().filter(|_| !self.unadopted)?;
        Some(data.id.clone())
    }

    /// As the real guard tells it: of data that is not a member's own yet.
    pub fn found(&self) -> Option<FoundData> {
        let data = self.data.as_ref().filter(|_| self.unadopted || self.adopting)?;
        let mut history = Vec::new();
        for (place, entry) in data.wal.iter().enumerate() {
            if history.last().is_none_or(|(t, _)| *t != Timeline(entry.timeline)) {
                let begins = if place == 0 { Lsn(0) } else { wal::end(place) };
                history.push((Timeline(entry.timeline), begins));
            }
        }
        history.reverse();
        Some(FoundData {
            standby: self.unadopted && self.signal,
            upstream: None,
            application_name: None,
            slot: None,
            end: self.rest.as_ref().map(|_| wal::end(data.wal.len())),
            history,
        })
    }

    pub fn permitted(&self, term: Term) -> bool {
        let now = self.boot_now();
        self.permit.is_some_and(|(t, until)| t == term && until > now)
    }

    pub fn permit_has_ended(&self) -> bool {
        self.permit.is_some_and(|(_, until)| until <= self.boot_now())
    }

    /// The node loses its power, or what the server had not written yet is lost.
    pub fn lose_unflushed(&mut self) {
        let held = self.held();
        if let Some(data) = &mut self.data {
            data.wal.truncate(held);
        }
    }

    /// Walsenders that are not kept end.
    pub fn keep_senders(&mut self, kept: impl Fn(&Sender) -> bool) {
        let boot = self.boot;
        for sender in self.senders.iter().filter(|s| !kept(s)) {
            self.ended.push((sender.peer, boot, sender.pid));
        }
        self.senders.retain(kept);
    }

    /// Every process of the server ends now.
    pub fn kill(&mut self, why: DownReason) {
        // A standby's receiver writes what it got at once; a primary keeps it in its buffers.
        if matches!(self.proc, Proc::Primary | Proc::Stopping { .. }) && self.stream.is_none() {
            self.lose_unflushed();
        }
        self.flushed = self.length();
        self.flush_due = None;
        self.stop_waits_until = None;
        self.keep_senders(|_| false);
        self.waiting.clear();
        self.stream = None;
        self.defined_due = None;
        if !self.is_down() {
            self.proc = Proc::Down(why);
            self.rest = None;
            if let Some(data) = &mut self.data {
                data.clean = false;
            }
        }
    }

    pub fn read_rest(&mut self) {
        self.rest = self.data.as_ref().filter(|_| !self.fresh).and_then(|d| {
            Some(RestPosition {
                position: wal::position(&d.wal)?,
                clean: d.clean,
            })
        });
    }

    /// The guard reads by itself where found data ends.
    pub fn wants_to_read(&self) -> bool {
        let found = (self.unadopted || self.adopting) && !self.plain;
        found && self.is_down() && self.rest.is_none() && self.data.is_some() && !self.fresh
    }

    /// When the running server has something to do.
    pub fn server_due(&self) -> u64 {
        let mut at = self.flush_due.map_or(u64::MAX, |at| at.max(self.stalled_until));
        at = at.min(self.defined_due.unwrap_or(u64::MAX));
        for sender in &self.senders {
            at = at.min(sender.reload.unwrap_or(u64::MAX));
            at = at.min(sender.heard + SENDER_TIMEOUT);
        }
        if self.proc == Proc::Primary {
            at = at.min(self.next_write);
        }
        if self.is_receiving() {
            at = at.min(self.next_look);
        }
        at.max(self.hung_until)
    }

    /// Follows somebody, or would.
    pub fn is_receiving(&self) -> bool {
        let running =
            self.proc == Proc::Standby || matches!(self.proc, Proc::Stopping { .. } if self.stream.is_some());
        running && (self.following.is_some() || self.stream.is_some())
    }

    pub fn end_operation(&mut self, error: Option<String>) -> Option<Running> {
        let running = self.running.take()?;
        self.last_operation = Some(OperationEnd {
            kind: crate::orders::kind_of(&running.order).to_owned(),
            sequence: running.number,
            error,
        });
        Some(running)
    }

    pub fn status(&self, now: u64) -> Status {
        let boot_now = self.boot_now();
        let data = match (&self.data, self.incomplete) {
            (_, true) => DataState::Incomplete,
            (None, false) => DataState::Empty,
            (Some(_), false) => DataState::Complete,
        };
        Status {
            boot_id: format!("{}-{}", self.name, self.boot),
            revision: now,
            now_boot_ms: boot_now,
            data,
            system_identifier: self.data.as_ref().map(|d| d.system),
            major_version: Some(15),
            data_id: self.data_id(),
            found: self.found(),
            highest_term: self.highest_term,
            knows_term: self.knows_term,
            pledge: self.pledge.clone(),
            permit: self.permit.map(|(term, deadline_boot_ms)| Permit {
                term,
                deadline_boot_ms,
            }),
            server: match &self.proc {
                Proc::Down(reason) => Server::Down {
                    reason: *reason,
                    detail: String::new(),
                },
                Proc::Starting { .. } => Server::Starting,
                Proc::Standby => Server::Standby,
                Proc::Primary => Server::Primary,
                Proc::Stopping { .. } => Server::Stopping,
            },
            rest: self.rest.clone().filter(|_| self.is_down()),
            fresh_copy: self.fresh,
            synchronous_standby_names: self.names.clone(),
            following: self.following.clone(),
            operation: self.running.as_ref().map(|r| Operation {
                kind: crate::orders::kind_of(&r.order).to_owned(),
                sequence: r.number,
                bytes_done: 0,
                bytes_total: None,
                running_ms: 0,
            }),
            last_operation: self.last_operation.clone(),
            stopping: self.stopping,
            disk_free: if now < self.full_until { 4_096 } else { 1 << 40 },
            disk_total: 1 << 41,
            warning: String::new(),
        }
    }
}
