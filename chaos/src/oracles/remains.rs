//! What a fault must not leave behind: signal files, half copies of data beside the data, an archive that stands still.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

use super::sql::{self, Login};
use super::whole::Server;

/// Until the archiver has taken a finished segment.
const ARCHIVED: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);
/// Files that tell PostgreSQL to recover, to promote, or that a copy is not whole.
const SIGNALS: &str = "'promote', 'recovery.signal', 'backup_label', 'tablespace_map'";

/// What is left of faults on a cluster that is whole; empty: nothing.
pub async fn left(login: &Login, members: &[Server], primary: &str) -> Vec<String> {
    let mut all = Vec::new();
    for member in members {
        let question = files_question(member.name == primary);
        match sql::ask_one(login, member.ip, &question).await {
            Ok(files) if files.is_empty() => {}
            Ok(files) => all.push(format!("{} has {files}", member.name)),
            Err(error) => all.push(format!(
                "{} cannot be asked for stray files: {error:#}",
                member.name
            )),
        }
    }
    if let Some(home) = members.iter().find(|member| member.name == primary)
        && let Err(error) = archives(login, home).await
    {
        all.push(format!("{primary} does not archive: {error:#}"));
    }
    all
}

/// In the data directory, and beside it on the volume: other data directories, whole or half, of a clone or a rewind.
fn files_question(is_primary: bool) -> String {
    let signal = if is_primary { ", 'standby.signal'" } else { "" };
    format!(
        "WITH here (path) AS (SELECT current_setting('data_directory')), \
         volume (path) AS (SELECT path || '/..' FROM here UNION ALL SELECT path || '/../pgbaton' FROM here), \
         beside (path) AS (SELECT path || '/' || name FROM volume, LATERAL pg_ls_dir(path, true, false) name), \
         stray (name) AS ( \
         SELECT name FROM pg_ls_dir('.') name WHERE name IN ({SIGNALS}{signal}) UNION ALL \
         SELECT path FROM beside WHERE path <> (SELECT path || '/../' || regexp_replace(path, '.*/', '') FROM here) \
         AND CASE WHEN (pg_stat_file(path, true)).isdir THEN (pg_stat_file(path || '/PG_VERSION', true)).size END IS NOT NULL) \
         SELECT coalesce(string_agg(name, ', '), '') FROM stray"
    )
}

/// Finishes a segment and waits until it is archived. Nothing to see with archive_mode off.
async fn archives(login: &Login, home: &Server) -> Result<()> {
    if sql::ask_one(login, home.ip, "SHOW archive_mode").await? == "off" {
        return Ok(());
    }
    let finish = "SELECT pg_walfile_name(pg_switch_wal())";
    let segment = sql::ask_one(login, home.ip, finish).await?;
    let deadline = Instant::now() + ARCHIVED;
    // In bytes' order a history file sorts before every segment of its timeline.
    let question =
        format!("SELECT coalesce(last_archived_wal, '') COLLATE \"C\" >= '{segment}' FROM pg_stat_archiver");
    loop {
        let done = sql::ask_one(login, home.ip, &question)
            .await
            .context("the archiver's state")?;
        if done == "t" {
            return Ok(());
        }
        if Instant::now() > deadline {
            let failed = "SELECT coalesce(last_failed_wal, 'nothing') FROM pg_stat_archiver";
            let failed = sql::ask_one(login, home.ip, failed).await?;
            anyhow::bail!("{segment} is not archived after {ARCHIVED:?}; failed last: {failed}");
        }
        sleep(LOOK).await;
    }
}
