//! What the guard knows and shares between its threads. The lock is never held over a disk, a process or the socket.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::children::Children;
use super::clock::boot_ms;
use super::command::ServerCommand;
use super::control::Control;
use super::disk::{State, StateFile};
use super::last_words::{Output, Secrets};
use super::prepare::Settings;
use super::processes::Belongs;
use super::programs::Versions;
use super::protocol::{
    DataState, DownReason, FoundData, Operation, OperationEnd, Permit, Pledge, RestPosition, Server, Status,
};
use crate::core::types::{DataId, MemberName, SystemId, Term};

/// What the server was started to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing runs.
    None,
    /// To stay in recovery.
    Standby,
    /// A standby that an order promotes; under a permit.
    Promoting,
    /// Read-write; under a permit.
    Primary,
    /// The image's entrypoint makes the database; under a permit.
    Initialising,
}

impl Role {
    /// True for what may only be under a permit.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(self, Self::Promoting | Self::Primary | Self::Initialising)
    }
}

/// Everything in memory.
#[derive(Debug)]
pub struct Live {
    /// As in `Status`.
    pub revision: u64,
    /// As in `Status`.
    pub data: DataState,
    /// As in `Status`.
    pub system_identifier: Option<SystemId>,
    /// As in `Status`.
    pub major_version: Option<u32>,
    /// As in `Status`.
    pub data_id: Option<DataId>,
    /// As on disk.
    pub highest_term: Term,
    /// As on disk.
    pub knows_term: bool,
    /// As on disk, with the position.
    pub pledge: Option<Pledge>,
    /// A pledge in the making: permits below it are refused already.
    pub barred_below: Term,
    /// The permit.
    pub permit: Option<Permit>,
    /// As in `Status`.
    pub server: Server,
    /// What the server was started to be.
    pub role: Role,
    /// The process that the guard started for the server.
    pub server_pid: Option<i32>,
    /// An order stops the server: its end is no crash.
    pub stopping_server: bool,
    /// The server was seen in recovery since it started.
    pub seen_recovery: bool,
    /// A primary ended by itself under a permit that still lives: a restart by hand is taken over.
    pub restartable: bool,
    /// Counts fences; a start that meets one undoes itself.
    pub fences: u64,
    /// Last term and sequence number of an order.
    pub last_sequence: (Term, u64),
    /// The last order gave up the permit: one asked for before it comes too late.
    pub barred_permits: bool,
    /// As in `Status`.
    pub rest: Option<RestPosition>,
    /// PGDATA holds a backup_label: see `Status::fresh_copy`.
    pub fresh_copy: bool,
    /// As in `Status`.
    pub found: Option<FoundData>,
    /// The control file when the WAL of found data was last looked at.
    pub found_as: Option<Control>,
    /// And that look was made.
    pub found_tried: bool,
    /// As in `Status`.
    pub names: String,
    /// As in `Status`.
    pub following: Option<MemberName>,
    /// What runs, and when it began (boot clock).
    pub operation: Option<(Operation, u64)>,
    /// As in `Status`.
    pub last_operation: Option<OperationEnd>,
    /// The operation's process.
    pub operation_pid: Option<i32>,
    /// An order wants the operation to end.
    pub cancelled: bool,
    /// As in `Status`.
    pub stopping: bool,
    /// As in `Status`.
    pub disk: (u64, u64),
    /// Warnings by subject.
    pub warnings: BTreeMap<&'static str, String>,
    /// When the sidecar last spoke (boot clock).
    pub last_contact: Option<u64>,
    /// Last lines that the server wrote.
    pub output: Arc<Output>,
}

/// The guard.
#[derive(Debug)]
pub struct Guard {
    /// What was asked for at start.
    pub settings: Settings,
    /// The user's command.
    pub command: ServerCommand,
    /// New at each start.
    pub boot_id: String,
    /// Tells the server's processes.
    pub belongs: Belongs,
    /// Starts and reaps.
    pub children: Children,
    /// The process that ends the server when a guard that is not PID 1 dies; zero: none.
    pub keeper: AtomicI32,
    /// Passwords that nobody shall read in a status.
    pub secrets: Secrets,
    /// Versions of PostgreSQL's programs.
    pub versions: Versions,
    live: Mutex<Live>,
    changed: Condvar,
    state: Mutex<State>,
    state_file: StateFile,
    /// Held by whatever changes the server or PGDATA.
    pub orders: Mutex<()>,
    /// Held while the server's configuration is written.
    pub desired: Mutex<super::settings::Desired>,
}

/// Locks; a panic anywhere ends the process, so no lock is ever poisoned in earnest.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guard {
    /// A guard that knows only what is on disk.
    #[must_use]
    pub fn new(settings: Settings, command: ServerCommand, state: State, state_file: StateFile) -> Self {
        let live = Live {
            revision: 1,
            data: DataState::Empty,
            system_identifier: None,
            major_version: None,
            data_id: None,
            highest_term: state.highest_term,
            knows_term: state.knows_term,
            pledge: state.pledge.map(|term| Pledge { term, position: None }),
            barred_below: Term(0),
            permit: None,
            server: Server::Down {
                reason: DownReason::NotStarted,
                detail: String::new(),
            },
            role: Role::None,
            server_pid: None,
            stopping_server: false,
            seen_recovery: false,
            restartable: false,
            fences: 0,
            last_sequence: (Term(0), 0),
            barred_permits: false,
            rest: None,
            fresh_copy: false,
            found: None,
            found_as: None,
            found_tried: false,
            names: String::new(),
            following: None,
            operation: None,
            last_operation: None,
            operation_pid: None,
            cancelled: false,
            stopping: false,
            disk: (0, 0),
            warnings: BTreeMap::new(),
            last_contact: None,
            output: Arc::default(),
        };
        Self {
            boot_id: super::prepare::random_hex(),
            belongs: Belongs {
                pgdata: settings.pgdata.clone(),
                alone: settings.is_init,
            },
            settings,
            command,
            children: Children::default(),
            keeper: AtomicI32::new(0),
            secrets: Secrets::default(),
            versions: Versions::default(),
            live: Mutex::new(live),
            changed: Condvar::new(),
            state: Mutex::new(state),
            state_file,
            orders: Mutex::new(()),
            desired: Mutex::default(),
        }
    }

    /// Looks at what is known.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    /// Changes what is known and tells those who watch.
    pub fn update<T>(&self, change: impl FnOnce(&mut Live) -> T) -> T {
        let mut live = self.live();
        let result = change(&mut live);
        live.revision += 1;
        drop(live);
        self.changed.notify_all();
        result
    }

    /// Wakes whoever waits, without a change that is worth a revision.
    pub fn nudge(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change or a nudge, at most so long.
    pub fn wait<'a>(&self, live: MutexGuard<'a, Live>, at_most: Duration) -> MutexGuard<'a, Live> {
        self.changed
            .wait_timeout(live, at_most)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Changes what is on disk; on return it survives a power failure, and is known in memory. The answer is the state before, when
    /// the disk refused: memory then still says what is on disk.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, change: impl FnOnce(&mut State)) -> std::io::Result<()> {
        let mut state = lock(&self.state);
        let mut new = state.clone();
        change(&mut new);
        if new == *state {
            return Ok(());
        }
        self.state_file.save(&new)?;
        *state = new.clone();
        // Still under the lock of what is on disk, so that two savings cannot be told in the wrong order.
        self.update(|live| {
            live.highest_term = new.highest_term;
            live.knows_term = new.knows_term;
            live.pledge = match (new.pledge, live.pledge.take()) {
                (Some(term), Some(old)) if old.term == term => Some(old),
                (Some(term), _) => Some(Pledge { term, position: None }),
                (None, _) => None,
            };
        });
        Ok(())
    }

    /// What is on disk.
    #[must_use]
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Process trees that a fence leaves alone: the keeper, and a clone (it works beside PGDATA).
    #[must_use]
    pub fn spared(&self) -> HashSet<i32> {
        let live = self.live();
        let clone = live.operation.as_ref().filter(|(o, _)| o.kind == "clone");
        let mut spared: HashSet<i32> = clone.and(live.operation_pid).into_iter().collect();
        spared.insert(self.keeper.load(Ordering::Relaxed));
        spared.remove(&0);
        spared
    }

    /// Sets or clears a warning.
    pub fn warn(&self, subject: &'static str, text: Option<String>) {
        let known = self.live().warnings.get(subject).cloned();
        if known == text {
            return;
        }
        if let Some(text) = &text {
            tracing::warn!(subject, "{text}");
        }
        self.update(|live| match text {
            Some(text) => {
                live.warnings.insert(subject, text);
            }
            None => {
                live.warnings.remove(subject);
            }
        });
    }

    /// The status as the protocol tells it.
    #[must_use]
    pub fn status(&self) -> Status {
        let live = self.live();
        let now = boot_ms();
        Status {
            boot_id: self.boot_id.clone(),
            revision: live.revision,
            now_boot_ms: now,
            data: live.data,
            system_identifier: live.system_identifier,
            major_version: live.major_version,
            data_id: live.data_id.clone(),
            found: live.found.clone(),
            highest_term: live.highest_term,
            knows_term: live.knows_term,
            pledge: live.pledge.clone(),
            permit: live.permit.filter(|p| p.deadline_boot_ms > now),
            server: live.server.clone(),
            rest: live.rest.clone(),
            fresh_copy: live.fresh_copy,
            synchronous_standby_names: live.names.clone(),
            following: live.following.clone(),
            operation: live.operation.clone().map(|(o, began)| Operation {
                running_ms: now.saturating_sub(began),
                ..o
            }),
            last_operation: live.last_operation.clone(),
            stopping: live.stopping,
            disk_free: live.disk.0,
            disk_total: live.disk.1,
            warning: live.warnings.values().cloned().collect::<Vec<_>>().join("; "),
        }
    }
}
