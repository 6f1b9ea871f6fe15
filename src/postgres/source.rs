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
    /// Tablespaces outside the data directory, as name and path.
    pub tablespaces: Vec<(String, String)>,
    /// Checksums or `wal_log_hints`, and `full_page_writes`: pg_rewind can work against servers set up like this.
    pub rewindable: bool,
}

impl Source {
    /// Its major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.server_version_num / 10_000
    }

    /// Whether a copy of it is what is wanted: the primary of this system on this timeline.
    ///
    /// # Errors
    /// What it is instead, for people.
    pub fn check(&self, wanted: SystemId, timeline: Timeline) -> Result<(), String> {
        if self.system_identifier != wanted {
            return Err(format!(
                "it is of system {}, wanted {wanted}: not a member of this cluster",
                self.system_identifier
            ));
        }
        if self.in_recovery {
            return Err("it is in recovery: not the primary any more".to_owned());
        }
        match self.timeline {
            Some(at) if at != timeline => Err(format!("it is on timeline {at}, the record says {timeline}")),
            _ => Ok(()),
        }
    }

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
    (current_setting('wal_log_hints')::bool OR current_setting('data_checksums')::bool) \
      AND current_setting('full_page_writes')::bool AS rewindable";
const SIZE: &str = "SELECT sum(pg_tablespace_size(oid)) AS bytes FROM pg_tablespace";
const TABLESPACES: &str = "SELECT spcname, pg_tablespace_location(oid) AS path FROM pg_tablespace \
    WHERE spcname NOT IN ('pg_default', 'pg_global')";

/// Bytes of all databases and shared tables, WAL not counted: what a copy will need at least. Summed over files: large servers take long.
///
/// # Errors
/// As `read_source`.
pub async fn read_size(session: &mut Session, budget: Duration) -> Result<u64, PgError> {
    let doing = "reading the size of a copy's source";
    let rows = session.run(doing, SIZE, budget).await?;
    rows.first().and_then(|row| parsed(row, "bytes")).ok_or_else(|| {
        session.error(
            doing,
            Failure::Other {
                detail: "the answer is not understood".to_owned(),
            },
        )
    })
}

/// Reads what a copy of this server would be, within `budget`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_not_what_was_wanted_is_told() {
        let good = Source {
            system_identifier: SystemId(7),
            server_version_num: 150_020,
            in_recovery: false,
            timeline: Some(Timeline(3)),
            tablespaces: vec![("fast".to_owned(), "/mnt/fast".to_owned())],
            rewindable: true,
        };
        assert_eq!(good.major(), 15);
        assert_eq!(good.check(SystemId(7), Timeline(3)), Ok(()));
        assert!(good.warnings()[0].contains("/mnt/fast"));
        let standby = Source {
            in_recovery: true,
            timeline: None,
            ..good.clone()
        };
        for (source, system, timeline, says) in [
            (&good, 8, 3, "of system 7"),
            (&good, 7, 4, "on timeline 3"),
            (&standby, 7, 3, "in recovery"),
        ] {
            let why = source.check(SystemId(system), Timeline(timeline)).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
