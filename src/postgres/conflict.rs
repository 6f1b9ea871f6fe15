//! Sessions that keep a standby from replaying. With `max_standby_streaming_delay = -1` (or long) replay waits for a query of a reader, and a promotion,
//! which replays all WAL first, with it: PostgreSQL itself would never end the query (PostgreSQL's documentation, 27.4.2 Handling Query
//! Conflicts). Writes of everybody weigh more than one reader's query, so a member that is being promoted ends them.

use std::time::Duration;

use super::session::{PgError, Session};
use super::sql::column;

/// The startup process waits for a session: for a snapshot, a lock or a pinned page. Only those with a transaction can hold one.
const END: &str = "SELECT b.pid, coalesce(b.usename, '') AS usename, pg_terminate_backend(b.pid) FROM pg_stat_activity b \
    WHERE b.backend_type = 'client backend' AND b.pid <> pg_backend_pid() AND b.application_name <> 'pgbaton' \
    AND b.state IS DISTINCT FROM 'idle' AND pg_is_in_recovery() AND EXISTS (SELECT FROM pg_stat_activity s \
    WHERE s.backend_type = 'startup' AND (s.wait_event_type IN ('Lock', 'BufferPin') OR s.wait_event LIKE 'RecoveryConflict%'))";

/// Ends the sessions that replay may be waiting for, when it waits for any. Gives whose they were.
///
/// # Errors
/// When the server does not answer.
pub async fn end_what_holds_replay(session: &mut Session, budget: Duration) -> Result<Vec<String>, PgError> {
    let rows = session.run("ending what holds replay", END, budget).await?;
    let of = |row| {
        Some(format!(
            "process {} of {}",
            column(row, "pid")?,
            column(row, "usename")?
        ))
    };
    Ok(rows.iter().filter_map(of).collect())
}
