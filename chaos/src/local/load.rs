//! What a cluster holds and bears beside the clients that measure: a large database that pgbench writes to, and standbys with much to replay.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::member::Member;
use super::pgbench;
use super::rig::Rig;
use super::settings::Settings;
use crate::oracles::sql::{self, Connection};

/// pgbench's scale: 100 is 1.5 GB.
const SCALE: u32 = 100;
/// Making that on three members at once.
const MAKE_BOUND: Duration = Duration::from_secs(600);
/// Free bytes that it needs: three copies, their WAL, and one more copy while a member is cloned.
const NEEDED: u64 = 16 << 30;
/// Transactions a second that pgbench starts: some 12 MB of changed pages each second, and time left on two cores for everybody else.
const RATE: u32 = 500;
/// pgbench's clients.
const CLIENTS: u32 = 8;
/// One run of pgbench; it ends earlier whenever the primary does, and the next one begins.
const RUN: Duration = Duration::from_secs(60);
const AFTER_RUN: Duration = Duration::from_millis(500);
/// Files that are left in each member's archive: a user's own archive is on other disks, and has its own retention.
const ARCHIVED: usize = 8;

/// Bounds of what a backlog is made by.
const ASK_BOUND: Duration = Duration::from_secs(30);
const BACKLOG_BOUND: Duration = Duration::from_secs(120);
/// Rows of one load of the table: some 10 MiB of WAL with its index.
const ROWS: u32 = 40_000;
/// The table that the long queries read.
const READ: &str = "pgbaton_read";
/// The table that is loaded meanwhile.
const LOADED: &str = "pgbaton_loaded";

/// What the database holds beside the table of the clients that measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Data {
    /// Nothing
    #[default]
    Small,
    /// pgbench's tables at scale 100, shared_buffers 1 GB, and pgbench writing all the time (needs 16 GB of disk)
    Dirty,
}

impl Data {
    /// As typed and reported.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Dirty => "dirty",
        }
    }

    /// Lines for the configuration; later lines count.
    #[must_use]
    pub fn configuration(self) -> &'static str {
        match self {
            Self::Small => "",
            Self::Dirty => "shared_buffers = 1GB\n",
        }
    }
}

/// Lines for the configuration of members that are to get a backlog: a server for reports lets its queries end.
pub const PATIENT: &str = "max_standby_streaming_delay = -1\n";

/// Refuses a disk that is too small before anything is made.
///
/// # Errors
/// Says how much is needed.
pub fn check_space(data: Data, directory: &Path) -> Result<()> {
    if data == Data::Small {
        return Ok(());
    }
    let fs = nix::sys::statvfs::statvfs(directory).context("cannot ask for free disk space")?;
    let free = fs.fragment_size().saturating_mul(fs.blocks_available());
    ensure!(
        free >= NEEDED,
        "a dirty database needs {} GiB of disk at {}, and {} GiB are free: make room, or choose another place with --dir",
        NEEDED >> 30,
        directory.display(),
        free >> 30
    );
    Ok(())
}

/// pgbench, writing until this is dropped.
#[derive(Debug)]
pub struct Load(Vec<JoinHandle<()>>);

impl Load {
    /// Makes the tables and starts to write; where nothing is wished for it does nothing.
    ///
    /// # Errors
    /// When the tables cannot be made.
    pub async fn start(rig: &Rig) -> Result<Self> {
        let mut load = Self(Vec::new());
        if rig.settings.choice.data == Data::Small {
            return Ok(load);
        }
        let archives: Vec<PathBuf> = rig.members.iter().map(Member::archive).collect();
        load.0.push(tokio::spawn(sweep(archives)));
        let make = ["-i", "-IdtGvp", "-q", &format!("-s{SCALE}")].map(str::to_owned);
        let made = pgbench::run(&rig.settings, &make, MAKE_BOUND).await;
        made.context("pgbench's tables could not be made")?;
        load.0.push(tokio::spawn(write(rig.settings.clone())));
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// One run after the other: pgbench gives up when its server is gone, a user's program would not.
async fn write(settings: Settings) {
    let arguments = [
        "-n".to_owned(),
        format!("-T{}", RUN.as_secs()),
        format!("-c{CLIENTS}"),
        format!("-R{RATE}"),
    ];
    loop {
        if let Err(error) = pgbench::run(&settings, &arguments, RUN * 2).await {
            tracing::debug!("{error:#}");
        }
        sleep(AFTER_RUN).await;
    }
}

async fn sweep(archives: Vec<PathBuf>) {
    loop {
        for archive in &archives {
            if let Err(error) = keep_newest(archive) {
                tracing::warn!("{} cannot be kept small: {error}", archive.display());
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Names of WAL files rise.
fn keep_newest(archive: &Path) -> std::io::Result<()> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(archive)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let surplus = files.len().saturating_sub(ARCHIVED);
    files[..surplus].iter().try_for_each(std::fs::remove_file)
}

/// Standbys whose replay is held back by a long query each.
#[derive(Debug)]
pub struct Backlog {
    queries: Vec<Connection>,
    standbys: Vec<Ipv4Addr>,
}

impl Backlog {
    /// Begins the queries, lets a conflict with them stop the replay, and loads a table until each standby has `mib` MiB to replay.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn build(rig: &Rig, mib: u64) -> Result<Self> {
        let login = &rig.settings.login;
        let home = rig.primary_kubelet()?.member().ip;
        let order = async |text: &str| sql::ask_within(login, home, text, ASK_BOUND).await;
        order(&format!(
            "DROP TABLE IF EXISTS {READ}, {LOADED}; \
             CREATE TABLE {READ} AS SELECT generate_series(1, 1000) AS id; \
             CREATE TABLE {LOADED} (key float8, filler text); CREATE INDEX ON {LOADED} (key)"
        ))
        .await?;
        let standbys: Vec<Ipv4Addr> = rig.standby_kubelets()?.iter().map(|k| k.member().ip).collect();
        let mut queries = Vec::new();
        for &ip in &standbys {
            queries.push(long_query(rig, ip).await?);
        }
        order(&format!("DELETE FROM {READ}")).await?;
        let deadline = Instant::now() + BACKLOG_BOUND;
        // Each round by itself: one that was too early for the conflict is followed by the next.
        loop {
            order(&format!("VACUUM {READ}")).await?;
            order(&format!(
                "INSERT INTO {LOADED} SELECT random(), repeat('x', 100) FROM generate_series(1, {ROWS})"
            ))
            .await?;
            let left = least(rig).await?;
            if left >= mib {
                return Ok(Self { queries, standbys });
            }
            if Instant::now() > deadline {
                bail!("after {BACKLOG_BOUND:?} a standby has only {left} MiB of WAL to replay, not {mib}");
            }
        }
    }

    /// Ends the queries; when every standby replays again: what the one that has least is still to replay, in MiB. PostgreSQL looks once a second
    /// whether such a query is over.
    ///
    /// # Errors
    /// When a server does not answer, or a standby goes on waiting.
    pub async fn release(self, rig: &Rig) -> Result<u64> {
        let login = &rig.settings.login;
        let replayed = async |ip| sql::ask_one(login, ip, "SELECT pg_last_wal_replay_lsn()").await;
        let mut stood = Vec::new();
        for &ip in &self.standbys {
            stood.push((ip, replayed(ip).await?));
        }
        let ended = self.queries.iter().map(|query| query.run("ROLLBACK", ASK_BOUND));
        for end in futures_util::future::join_all(ended).await {
            end.context("a long query could not be ended")?;
        }
        let deadline = Instant::now() + ASK_BOUND;
        for (ip, at) in stood {
            while replayed(ip).await? == at {
                ensure!(Instant::now() < deadline, "the standby at {ip} does not replay");
                sleep(Duration::from_millis(10)).await;
            }
        }
        least(rig).await
    }
}

/// A transaction that reads, as a report does, and stays open.
async fn long_query(rig: &Rig, ip: Ipv4Addr) -> Result<Connection> {
    let login = &rig.settings.login;
    let question = format!("SELECT count(*) FROM {READ}");
    let deadline = Instant::now() + ASK_BOUND;
    while sql::ask_one(login, ip, &question).await.is_err() {
        ensure!(
            Instant::now() < deadline,
            "the standby at {ip} does not have the table {READ}"
        );
        sleep(Duration::from_millis(50)).await;
    }
    let query = Connection::open(&sql::config(login, ip, "a report"), ASK_BOUND).await?;
    let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {question}");
    query.run(&begin, ASK_BOUND).await?;
    Ok(query)
}

/// Flushed and not replayed, in MiB, of the standby that has least.
async fn least(rig: &Rig) -> Result<u64> {
    let home = rig.primary_kubelet()?.member().ip;
    let question = "SELECT coalesce(min(pg_wal_lsn_diff(flush_lsn, replay_lsn))::bigint / 1048576, 0) FROM pg_stat_replication \
                    WHERE state = 'streaming'";
    let answer = sql::ask_one(&rig.settings.login, home, question).await?;
    answer
        .parse()
        .with_context(|| format!("the primary answered '{answer}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..20 {
            std::fs::write(folder.path().join(format!("{number:024}")), "").unwrap();
        }
        keep_newest(folder.path()).unwrap();
        keep_newest(folder.path()).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left.len(), ARCHIVED);
        assert_eq!(left[0], format!("{:024}", 20 - ARCHIVED));
    }
}
