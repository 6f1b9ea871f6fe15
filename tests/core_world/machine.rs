//! The model guard with its server: what DESIGN.md section 2 promises of the real one, no more.

use std::collections::BTreeMap;

use pgbaton::core::action::GuardOrder;
use pgbaton::core::types::{DataId, Lsn, MemberData, MemberName, Millis, SystemId, Term, Timeline};
use pgbaton::guard::protocol::{
    DataState, DownReason, FoundData, Operation, OperationEnd, Permit, Pledge, RestPosition, Server, Status,
};

use crate::wal::{self, Entry, Wal};

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
    pub frozen_until: u64,
    /// Nothing can be written any more.
    pub full_until: u64,
    /// The pod is gone with its address: nobody there even refuses.
    pub gone: bool,
    /// The server accepts nothing and answers nothing.
    pub hung_until: u64,
    pub data: Option<Data>,
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
    /// Length of the log one step ago.
    pub before: usize,
    /// Every pledge that was given, with the log at that moment: for the checks.
    pub given: BTreeMap<(MemberData, Term), Wal>,
}

impl Machine {
    pub fn new(name: MemberName) -> Self {
        Self {
            name,
            up: true,
            boot: 1,
            frozen_until: 0,
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
            before: 0,
            given: BTreeMap::new(),
        }
    }

    pub fn is_live(&self, now: u64) -> bool {
        self.up && now >= self.frozen_until
    }

    pub fn is_down(&self) -> bool {
        matches!(self.proc, Proc::Down(_))
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
    fn found(&self) -> Option<FoundData> {
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

    pub fn permitted(&self, term: Term, now: u64) -> bool {
        self.permit.is_some_and(|(t, until)| t == term && until > now)
    }

    /// Every process of the server ends now.
    pub fn kill(&mut self, why: DownReason) {
        self.senders.clear();
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

    /// The guard reads where found data ends by itself.
    pub fn read_found(&mut self) {
        let found = (self.unadopted || self.adopting) && !self.plain;
        if found && self.is_down() && self.rest.is_none() {
            self.read_rest();
        }
    }

    pub fn end_operation(&mut self, error: Option<String>) -> Option<Running> {
        let running = self.running.take()?;
        self.last_operation = Some(OperationEnd {
            kind: kind_of(&running.order).to_owned(),
            sequence: running.number,
            error,
        });
        Some(running)
    }

    pub fn status(&self, now: u64) -> Status {
        let data = match (&self.data, self.incomplete) {
            (_, true) => DataState::Incomplete,
            (None, false) => DataState::Empty,
            (Some(_), false) => DataState::Complete,
        };
        Status {
            boot_id: format!("{}-{}", self.name, self.boot),
            revision: now,
            now_boot_ms: now,
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
                kind: kind_of(&r.order).to_owned(),
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

    pub fn permit_order(&mut self, term: Term, deadline: Millis) {
        let pledged = self.pledge.as_ref().map_or(Term(0), |p| p.term);
        if term < self.highest_term || term < pledged {
            return;
        }
        self.highest_term = term;
        self.knows_term = true;
        self.permit = match self.permit {
            Some((t, until)) if t == term => Some((t, until.max(deadline.0))),
            _ => Some((term, deadline.0)),
        };
    }

    /// What is not done with data that was never adopted.
    fn against_found(&self, order: &GuardOrder) -> Option<&'static str> {
        match order {
            GuardOrder::Adopt if self.found().is_none() || !(self.signal || self.is_down()) => {
                Some("nothing to adopt")
            }
            GuardOrder::StartPrimary { .. } | GuardOrder::Promote { .. } | GuardOrder::Rewind { .. }
                if self.unadopted =>
            {
                Some("never adopted")
            }
            GuardOrder::Follow { .. } | GuardOrder::StandAlone { .. } | GuardOrder::Clone { .. }
                if self.unadopted && !self.signal =>
            {
                Some("a primary's data that was never adopted")
            }
            _ => None,
        }
    }

    /// Checks and begins an order; the answer is how long it takes, or why it is refused.
    pub fn begin(&mut self, term: Term, order: &GuardOrder, now: u64) -> Result<u64, String> {
        let pledged = self.pledge.as_ref().map_or(Term(0), |p| p.term);
        if term < self.highest_term || term < pledged {
            return Err(format!("term {term} is old"));
        }
        let interrupts = matches!(order, GuardOrder::NoteTerm | GuardOrder::Stop { .. });
        if self.running.is_some() && !interrupts {
            return Err("busy".to_owned());
        }
        if matches!(order, GuardOrder::Stop { .. })
            && let Some(running) = self.end_operation(Some("cancelled".to_owned()))
            && !matches!(running.order, GuardOrder::Clone { .. })
        {
            self.incomplete = true;
            self.data = None;
        }
        self.highest_term = term;
        self.knows_term = true;
        if let Some(why) = self.against_found(order) {
            return Err(why.to_owned());
        }
        let whole = self.data.is_some() && !self.incomplete;
        match order {
            GuardOrder::NoteTerm => Ok(20),
            GuardOrder::Initialise if !self.permitted(term, now) => Err("no permit".to_owned()),
            GuardOrder::Initialise if whole => Err("there is data".to_owned()),
            GuardOrder::StartPrimary { .. } if !self.permitted(term, now) => Err("no permit".to_owned()),
            GuardOrder::Promote { .. } if !self.permitted(term, now) || pledged != term => {
                Err("no permit or pledge".to_owned())
            }
            GuardOrder::Promote { .. } if self.proc != Proc::Standby => Err("no standby".to_owned()),
            GuardOrder::StartPrimary { .. } | GuardOrder::Clone { .. } | GuardOrder::Rewind { .. }
                if !self.is_down() =>
            {
                Err("the server runs".to_owned())
            }
            GuardOrder::StartPrimary { .. } | GuardOrder::Rewind { .. } | GuardOrder::Follow { .. }
                if !whole =>
            {
                Err("no data".to_owned())
            }
            GuardOrder::Follow { .. } | GuardOrder::StandAlone { .. } if self.may_become_primary() => {
                Err("the server is read-write".to_owned())
            }
            GuardOrder::StandAlone { .. } if !whole => Err("no data".to_owned()),
            GuardOrder::Pledge { .. } => {
                self.permit = None;
                if self.may_become_primary() {
                    self.kill(DownReason::Stopped);
                }
                self.following = None;
                self.stream = None;
                Ok(60)
            }
            GuardOrder::Stop { fast, .. } => {
                self.permit = None;
                if self.is_down() {
                    return Ok(40);
                }
                let until = now + 100;
                let clean = fast.0 > 0 && matches!(self.proc, Proc::Primary | Proc::Standby);
                self.proc = Proc::Stopping { until, clean };
                Ok(120)
            }
            GuardOrder::Promote { .. } => Ok(160),
            _ => Ok(40),
        }
    }

    /// The number of the timeline that a promotion made, to be noted.
    pub fn promoted(&mut self, timeline: Timeline, id: u64) {
        self.proc = Proc::Primary;
        self.following = None;
        self.stream = None;
        if let Some(data) = &mut self.data {
            data.wal.push(Entry {
                timeline: timeline.0,
                id,
            });
        }
    }
}

pub fn kind_of(order: &GuardOrder) -> &'static str {
    match order {
        GuardOrder::Initialise => "initialise",
        GuardOrder::Clone { .. } => "clone",
        GuardOrder::Rewind { .. } => "rewind",
        _ => "",
    }
}
