//! Looks at a server: on a connection made for the look (tries the postmaster), or on one kept open (cheap).

use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio_postgres::SimpleQueryRow;

use super::session::{Behaviour, Credentials, ServerAt, Session, ask_once};
use super::sql::column;
use crate::core::probe::{
    Archive, Failure, PrimaryView, Probe, Receiver, Replication, ServerView, Slot, StandbyView, classify,
};
use crate::core::types::{Lsn, SystemId, Timeline};

/// Whether a look at a primary tries a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Read only.
    Read,
    /// A few bytes of WAL are written and flushed (one transaction id is used); no standby is waited for. Does nothing on a standby.
    Write,
}

/// Looks at one server.
#[derive(Debug)]
pub struct Prober {
    server: ServerAt,
    credentials: Credentials,
    kept: Option<Session>,
}

impl Prober {
    /// For this server, as this role (a superuser).
    #[must_use]
    pub fn new(server: ServerAt, credentials: Credentials) -> Self {
        Self {
            server,
            credentials,
            kept: None,
        }
    }

    /// Uses these from the next connection on (a rotated password). The kept connection is dropped.
    pub fn set_credentials(&mut self, credentials: Credentials) {
        if credentials != self.credentials {
            self.credentials = credentials;
            self.kept = None;
        }
    }

    /// Connects, asks and closes within `budget`. The only look that proves that people can log in, and that shows the names
    /// which a new connection is given.
    pub async fn probe_fresh(&self, budget: Duration, health: Health) -> Probe {
        let behaviour = Behaviour {
            statement_timeout: budget,
            local_commit: false,
        };
        let started = Instant::now();
        let ask = async || {
            let left = budget.saturating_sub(started.elapsed());
            let rows = ask_once(&self.server, &self.credentials, behaviour, look_sql(health), left).await?;
            let look = rows.iter().find_map(|row| column(row, "look")).map(str::to_owned);
            Ok((look, wrote(&rows).then_some(Written::InLook)))
        };
        let mut answer = ask().await;
        if is_promotion_race(&answer) {
            answer = ask().await;
        }
        judge(answer, true)
    }

    /// Asks on the kept connection, connecting first when there is none, within `budget`. A fraction of a fresh look's
    /// cost, and blind to a hung postmaster. After a failure the next call connects anew.
    pub async fn probe_kept(&mut self, budget: Duration, health: Health) -> Probe {
        // A statement may outlive this call's budget on the server by no more than this.
        let behaviour = Behaviour {
            statement_timeout: budget,
            local_commit: false,
        };
        let work = async {
            let mut session = match self.kept.take() {
                Some(session) if session.usable() => session,
                _ => Session::open_as(&self.server, &self.credentials, behaviour, budget).await?,
            };
            let mut answer = look_kept(&mut session, health, budget).await;
            if is_promotion_race(&answer) {
                answer = look_kept(&mut session, health, budget).await;
            }
            if answer.is_ok() {
                self.kept = Some(session);
            }
            answer
        };
        // Taken out above: a look that runs out of time leaves no connection behind.
        let answer = tokio::time::timeout(budget, work)
            .await
            .unwrap_or(Err(Failure::TimedOut {
                after_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
            }));
        judge(answer, false)
    }

    /// Proves, after a promotion, that the server takes writes: on a new connection, out of recovery, not read-only, a write
    /// flushed. The view has the timeline and the names in force.
    ///
    /// # Errors
    /// What is missing, for people.
    pub async fn verify_writable(&self, budget: Duration) -> Result<PrimaryView, String> {
        self.probe_fresh(budget, Health::Write).await.writable().cloned()
    }
}

/// A function for recovery was called just after recovery had ended: 55000. Asked again, it cannot happen twice.
fn is_promotion_race<T>(answer: &Result<T, Failure>) -> bool {
    matches!(answer, Err(Failure::Server { sqlstate, .. }) if sqlstate == "55000")
}

/// The JSON text of a look, and how long its write took if it did one.
type Answer = (Option<String>, Option<Written>);

enum Written {
    /// Measured here.
    Took(Duration),
    /// Measured by the server, in the look itself.
    InLook,
}

async fn look_kept(session: &mut Session, health: Health, budget: Duration) -> Result<Answer, Failure> {
    let started = Instant::now();
    let mut written = None;
    if health == Health::Write {
        let rows = session.rows(WRITE, budget).await?;
        written = wrote(&rows).then(|| Written::Took(started.elapsed()));
    }
    let left = budget.saturating_sub(started.elapsed());
    Ok((session.text(LOOK, left).await?, written))
}

fn wrote(rows: &[SimpleQueryRow]) -> bool {
    rows.iter().any(|row| column(row, "written").is_some())
}

fn judge(answer: Result<Answer, Failure>, fresh: bool) -> Probe {
    match answer {
        Err(failure) => classify(failure),
        Ok((None, _)) => broken("the server answered without a row".to_owned()),
        Ok((Some(json), written)) => match serde_json::from_str::<Look>(&json) {
            Ok(look) => look.view(fresh, written),
            Err(error) => broken(format!("the server's answer is not understood: {error}")),
        },
    }
}

fn broken(detail: String) -> Probe {
    Probe::Broken {
        sqlstate: None,
        detail,
    }
}

const WRITE: &str = "BEGIN; SET LOCAL synchronous_commit = local; \
    SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_logical_emit_message(true, 'pgbaton', 'health') END AS written; COMMIT; ";

/// One statement, one row, one JSON text: one round trip, columns of PostgreSQL 13 only. `statement_timestamp()` is when the whole
/// message came in, so with `WRITE` before it the difference to now is the time of write, commit and flush.
const LOOK: &str = "
SELECT json_build_object(
 'in_recovery', pg_is_in_recovery(),
 'write_us', (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint,
 'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
 'version', current_setting('server_version_num')::int,
 'start', (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint,
 'names', current_setting('synchronous_standby_names'),
 'fsync', current_setting('fsync')::bool,
 'full_page_writes', current_setting('full_page_writes')::bool,
 'rewindable', current_setting('wal_log_hints')::bool OR current_setting('data_checksums')::bool,
 'commit', current_setting('synchronous_commit'),
 'lowered', (SELECT coalesce(json_agg(coalesce('role ' || r.rolname, 'every role') || coalesce(' in database ' || d.datname, '')), '[]')
   FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
   WHERE EXISTS (SELECT FROM unnest(s.setconfig) c WHERE lower(c) ~ '^synchronous_commit=(off|false|no|0|local|remote_write)$')),
 'slot_limit', current_setting('max_slot_wal_keep_size'),
 'standby', CASE WHEN pg_is_in_recovery() THEN json_build_object(
   'timeline', (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)
     FROM pg_control_checkpoint() c, pg_control_recovery() r),
   'receive_lsn', pg_last_wal_receive_lsn(),
   'replay_lsn', pg_last_wal_replay_lsn(),
   'replay_paused', pg_is_wal_replay_paused(),
   'conninfo_set', current_setting('primary_conninfo') <> '',
   'lag_ms', CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 ELSE
     (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::bigint END,
   'receiver', (SELECT json_build_object('pid', pid, 'status', status, 'host', sender_host, 'port', sender_port,
     'slot', slot_name, 'received_tli', received_tli, 'flushed_lsn', flushed_lsn, 'latest_end_lsn', latest_end_lsn,
     'message_age_ms', (extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000)::bigint)
     FROM pg_stat_get_wal_receiver() WHERE pid IS NOT NULL)) END,
 'primary', CASE WHEN NOT pg_is_in_recovery() THEN json_build_object(
   'insert_lsn', pg_current_wal_insert_lsn(),
   'walfile', pg_walfile_name(pg_current_wal_lsn()),
   'read_only', current_setting('default_transaction_read_only')::bool,
   'replication', (SELECT coalesce(json_agg(json_build_object('pid', w.pid,
     'backend_start_us', (extract(epoch FROM a.backend_start) * 1000000)::bigint,
     'application_name', coalesce(a.application_name, ''), 'client_addr', a.client_addr, 'state', w.state,
     'sync_state', w.sync_state, 'sync_priority', w.sync_priority, 'sent_lsn', w.sent_lsn, 'write_lsn', w.write_lsn,
     'flush_lsn', w.flush_lsn, 'replay_lsn', w.replay_lsn,
     'replied_at_ms', (extract(epoch FROM w.reply_time) * 1000)::bigint)), '[]')
     FROM pg_stat_get_wal_senders() w JOIN pg_stat_get_activity(NULL) a USING (pid)),
   'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'physical', slot_type = 'physical',
     'temporary', temporary, 'active', active, 'restart_lsn', restart_lsn, 'wal_status', wal_status,
     'retained_bytes', pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))), '[]') FROM pg_get_replication_slots()),
   'archive', (SELECT json_build_object('on', current_setting('archive_mode') <> 'off', 'failed_count', failed_count,
     'last_failed_wal', last_failed_wal,
     'last_failed_unix_ms', (extract(epoch FROM last_failed_time) * 1000)::bigint,
     'last_archived_unix_ms', (extract(epoch FROM last_archived_time) * 1000)::bigint) FROM pg_stat_get_archiver()),
   'flush_lsn', pg_current_wal_flush_lsn()) END)::text AS look";

fn look_sql(health: Health) -> &'static str {
    use std::sync::LazyLock;
    static WITH_WRITE: LazyLock<String> = LazyLock::new(|| format!("{WRITE}{LOOK}"));
    match health {
        Health::Read => LOOK,
        Health::Write => &WITH_WRITE,
    }
}

/// The row of `LOOK`.
#[derive(Deserialize)]
struct Look {
    in_recovery: bool,
    write_us: i64,
    system_identifier: SystemId,
    version: u32,
    start: i64,
    names: String,
    fsync: bool,
    full_page_writes: bool,
    rewindable: bool,
    commit: String,
    lowered: Vec<String>,
    slot_limit: String,
    standby: Option<LookStandby>,
    primary: Option<LookPrimary>,
}

#[derive(Deserialize)]
struct LookStandby {
    timeline: Timeline,
    receive_lsn: Option<Lsn>,
    replay_lsn: Option<Lsn>,
    replay_paused: bool,
    conninfo_set: bool,
    lag_ms: Option<i64>,
    receiver: Option<Receiver>,
}

#[derive(Deserialize)]
struct LookPrimary {
    insert_lsn: Lsn,
    walfile: String,
    read_only: bool,
    replication: Vec<Replication>,
    slots: Vec<Slot>,
    archive: Archive,
    flush_lsn: Lsn,
}

impl Look {
    fn warnings(&self) -> Vec<String> {
        let commit = self.commit.as_str();
        let rules = [
            (!self.fsync, "fsync is off: a crash of the machine loses acknowledged commits; set fsync = on".to_owned()),
            (
                !self.full_page_writes,
                "full_page_writes is off: a crash can damage data, and pg_rewind refuses; set it to on".to_owned(),
            ),
            (
                !self.rewindable,
                "neither data checksums nor wal_log_hints: pg_rewind cannot be used, an old primary is copied whole; \
                 set wal_log_hints = on and restart"
                    .to_owned(),
            ),
            (
                matches!(commit, "off" | "local" | "remote_write"),
                format!("synchronous_commit is {commit}: commits do not wait until a standby has flushed them; set it to on"),
            ),
            (
                !self.lowered.is_empty(),
                format!(
                    "synchronous_commit is lowered for {}: their commits do not wait until a standby has flushed them, and may be lost at a \
                     takeover; ALTER ROLE or ALTER DATABASE ... RESET synchronous_commit",
                    self.lowered.join(", ")
                ),
            ),
            (
                !self.doubles().is_empty(),
                format!(
                    "several connections replicate as {}: any of them may confirm a commit for that standby; end the one that is not the \
                     standby's own (pg_stat_replication has their addresses)",
                    self.doubles().join(", ")
                ),
            ),
            (
                self.slot_limit == "-1",
                "max_slot_wal_keep_size is not set: a member that stays away fills the disk with WAL".to_owned(),
            ),
        ];
        rules
            .into_iter()
            .filter(|(applies, _)| *applies)
            .map(|(_, text)| text)
            .collect()
    }

    /// Names that commits wait for, and that more than one connection goes by.
    fn doubles(&self) -> Vec<String> {
        let rows = self.primary.iter().flat_map(|p| &p.replication);
        let mut names: Vec<&str> = rows
            .filter(|row| row.sync_priority > 0)
            .map(|row| row.application_name.as_str())
            .collect();
        names.sort_unstable();
        let mut twice: Vec<String> = names
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| pair[0].to_owned())
            .collect();
        twice.dedup();
        twice
    }

    fn view(self, fresh: bool, written: Option<Written>) -> Probe {
        let warnings = self.warnings();
        let health_write_ms = written.map(|written| match written {
            Written::Took(time) => u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            Written::InLook => u64::try_from(self.write_us).unwrap_or(0) / 1000,
        });
        let server = |timeline| ServerView {
            system_identifier: self.system_identifier,
            server_version_num: self.version,
            timeline,
            postmaster_start_unix_ms: self.start,
            warnings,
            fresh,
        };
        match (self.standby, self.primary) {
            (Some(standby), _) => {
                let received = standby.receiver.as_ref().and_then(|r| r.received_tli);
                Probe::Standby(StandbyView {
                    server: server(received.map_or(standby.timeline, |tli| tli.max(standby.timeline))),
                    receive_lsn: standby.receive_lsn,
                    replay_lsn: standby.replay_lsn,
                    replay_paused: standby.replay_paused,
                    receiver: standby.receiver,
                    conninfo_set: standby.conninfo_set,
                    names: self.names,
                    lag_ms: standby.lag_ms,
                })
            }
            (None, Some(primary)) => match timeline_of(&primary.walfile) {
                None => broken(format!("'{}' is not the name of a WAL file", primary.walfile)),
                Some(timeline) => Probe::Primary(PrimaryView {
                    server: server(timeline),
                    insert_lsn: primary.insert_lsn,
                    flush_lsn: primary.flush_lsn,
                    names: self.names,
                    replication: primary.replication,
                    slots: primary.slots,
                    archive: primary.archive,
                    health_write_ms,
                    read_only: primary.read_only,
                }),
            },
            // Recovery ended between two parts of the statement.
            (None, None) => broken(format!(
                "the server changed its role meanwhile (recovery: {})",
                self.in_recovery
            )),
        }
    }
}

/// The timeline in a WAL file's name: its first eight hexadecimal digits.
pub(super) fn timeline_of(walfile: &str) -> Option<Timeline> {
    u32::from_str_radix(walfile.get(..8)?, 16).ok().map(Timeline)
}
