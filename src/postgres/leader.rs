//! What the leader does on its own server: checkpoints, ends walsenders, keeps slots (the role is in `role`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub use super::archive::{ArchiveKept, keep_archive_directory};
use super::session::{PgError, Session};
use super::slots::{self, SlotPlan};
use super::sql::{column, parsed};
use crate::core::probe::{Failure, Slot, Walsender};
use crate::core::types::MemberName;

/// Between two looks whether walsenders have gone.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Runs a CHECKPOINT and waits for its end, within `budget`. One that began after new names were shown on a fresh connection
/// makes backends wait for them (invariant 6). After a timeout the server may still be at it.
///
/// # Errors
/// When the server refuses or does not finish in time.
pub async fn checkpoint(session: &mut Session, budget: Duration) -> Result<(), PgError> {
    let started = Instant::now();
    let doing = "a checkpoint";
    let millis = budget.as_millis().max(1);
    session
        .run(doing, &format!("SET statement_timeout = {millis}"), budget)
        .await?;
    let left = budget.saturating_sub(started.elapsed());
    let outcome = session.run(doing, "CHECKPOINT", left).await;
    if session.usable() {
        let left = budget.saturating_sub(started.elapsed()).max(LOOK_AGAIN);
        session.run(doing, "RESET statement_timeout", left).await?;
    }
    outcome.map(|_| ())
}

/// Ends these walsenders (their standbys reconnect at once) and waits until they are gone, at most `budget`. Gives those that
/// are left: a stopped process ends only when it continues.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn terminate_walsenders(
    session: &mut Session,
    walsenders: &BTreeSet<Walsender>,
    budget: Duration,
) -> Result<BTreeSet<Walsender>, PgError> {
    let started = Instant::now();
    let doing = "ending walsenders";
    if walsenders.is_empty() {
        return Ok(BTreeSet::new());
    }
    let list: Vec<String> = walsenders
        .iter()
        .map(|w| format!("({},{})", w.pid, w.backend_start_us))
        .collect();
    let those = format!(
        "FROM (SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint AS start FROM pg_stat_get_activity(NULL) \
         WHERE backend_type = 'walsender') a WHERE (pid, start) IN (VALUES {})",
        list.join(",")
    );
    session
        .run(
            doing,
            &format!("SELECT pg_terminate_backend(pid) {those}"),
            budget,
        )
        .await?;
    loop {
        let left = budget.saturating_sub(started.elapsed()).max(LOOK_AGAIN);
        let rows = session
            .run(doing, &format!("SELECT pid, start {those}"), left)
            .await?;
        let running: BTreeSet<Walsender> = rows
            .iter()
            .filter_map(|row| {
                Some(Walsender {
                    pid: parsed(row, "pid")?,
                    backend_start_us: parsed(row, "start")?,
                })
            })
            .collect();
        if running.is_empty() || started.elapsed() + LOOK_AGAIN >= budget {
            return Ok(running);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

const SLOTS: &str = "SELECT coalesce(json_agg(json_build_object('name', slot_name, 'physical', slot_type = 'physical', \
    'temporary', temporary, 'active', active, 'restart_lsn', restart_lsn, 'wal_status', wal_status, 'retained_bytes', \
    pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, \
    restart_lsn)::bigint)), '[]')::text AS slots FROM pg_get_replication_slots()";

/// Makes the slots of this server what `slots::plan` says, each step within `budget`: on a primary `others` are all other members,
/// on a standby none. Gives what was done, and warnings.
///
/// # Errors
/// The first step that failed; the next call has the rest.
pub async fn ensure_slots(
    session: &mut Session,
    own: &MemberName,
    others: &[MemberName],
    budget: Duration,
) -> Result<SlotPlan, PgError> {
    let doing = "reading the replication slots";
    let rows = session.run(doing, SLOTS, budget).await?;
    let json = rows.first().and_then(|row| column(row, "slots")).unwrap_or("[]");
    let slots: Vec<Slot> = serde_json::from_str(json).map_err(|error| {
        session.error(
            doing,
            Failure::Other {
                detail: format!("the answer is not understood: {error}"),
            },
        )
    })?;
    let plan = slots::plan(&slots, own, others);
    slots::apply(session, &plan, budget).await?;
    Ok(plan)
}
