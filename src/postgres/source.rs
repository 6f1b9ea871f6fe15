//! The server that a clone or a rewind is to be taken from.

use std::time::Duration;

use super::probe::timeline_of;
use super::session::{PgError, Session};
use super::sql::{column, flag, parsed};
use crate::core::probe::Failure;
use crate::core::types::{SystemId, Timeline};

/// What a copy's source told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// From pg_control: the copy must have the same.
    pub system_identifier: SystemId,
    /// `server_version_num`.
    pub server_version_num: u32,
    /// In recovery: no primary.
    pub in_recovery: bool,
    /// Timeline of the WAL being written; none while in recovery.
    pub timeline: Option<Timeline>,
    /// Bytes of all databases and shared tables, WAL not counted: what a copy will need at least.
    pub bytes: u64,
    /// Tablespaces outside the data directory, as name and path.
    pub tablespaces: Vec<(String, String)>,
    /// Checksums or `wal_log_hints`, and `full_page_writes`: pg_rewind can work against servers set up like this.
    pub rewindable: bool,
}

impl Source {
    /// What a person should know before a copy is taken; empty: nothing.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.tablespaces
            .iter()
            .map(|(name, path)| {
                format!(
                    "tablespace {name} lies outside the data directory, at {path}: a copy writes there too, so the path must exist \
                     and be empty on the member that is copied to"
                )
            })
            .collect()
    }
}

const SOURCE: &str = "SELECT (SELECT system_identifier FROM pg_control_system()) AS id, \
    current_setting('server_version_num') AS version, pg_is_in_recovery() AS in_recovery, \
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_lsn()) END AS walfile, \
    (SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace) AS bytes, \
    (current_setting('wal_log_hints')::bool OR current_setting('data_checksums')::bool) \
      AND current_setting('full_page_writes')::bool AS rewindable";
const TABLESPACES: &str = "SELECT spcname, pg_tablespace_location(oid) AS path FROM pg_tablespace \
    WHERE spcname NOT IN ('pg_default', 'pg_global')";

/// Reads what a copy of this server would be, within `budget` (sizes are summed over files: large servers take seconds).
///
/// # Errors
/// When the server refuses, does not answer, or answers what is not understood.
pub async fn read_source(session: &mut Session, budget: Duration) -> Result<Source, PgError> {
    let doing = "reading the source of a copy";
    let rows = session.run(doing, SOURCE, budget).await?;
    let spaces = session.run(doing, TABLESPACES, budget).await?;
    let source = rows.first().and_then(|row| {
        Some(Source {
            system_identifier: SystemId(parsed(row, "id")?),
            server_version_num: parsed(row, "version")?,
            in_recovery: flag(row, "in_recovery"),
            timeline: column(row, "walfile").and_then(timeline_of),
            bytes: parsed(row, "bytes")?,
            tablespaces: spaces
                .iter()
                .filter_map(|row| {
                    Some((
                        column(row, "spcname")?.to_owned(),
                        column(row, "path")?.to_owned(),
                    ))
                })
                .collect(),
            rewindable: flag(row, "rewindable"),
        })
    });
    source.ok_or_else(|| {
        session.error(
            doing,
            Failure::Other {
                detail: "the answer is not understood".to_owned(),
            },
        )
    })
}
