//! Memory and disks that are used up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use super::TAKEOVER;
use crate::cluster::hosts::{Hosts, groups};
use crate::cluster::kube::Kind;
use crate::cluster::pods;
use crate::cluster::target::Target;
use crate::cluster::undo::run;
use crate::local::process;
use crate::oracles::sql;
use crate::oracles::trial::Inflicted;

/// Until the kernel ends a process of a container that uses more memory than it may.
const USED_UP: Duration = Duration::from_secs(60);
/// How long the disk is full at most. Nobody need take over while the server itself goes on.
const FULL: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(100);

/// One backend uses more memory than the container may: the kernel ends it.
pub async fn oom_backend(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let at = use_memory(target, &primary).await?;
    let did = format!("a backend of {primary} used more memory than its container may");
    Ok(Inflicted::blow(at, &primary, did))
}

/// The same, and the kernel takes the container's main process.
pub async fn oom_container(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let pod = target.pod(&primary).await?;
    let guard = pods::of(target, &pod)?.guard;
    // Whom the kernel takes is the largest first, or the one that says it may go.
    fs::write(format!("/proc/{guard}/oom_score_adj"), "1000")
        .context("cannot choose the guard for the kernel")?;
    let at = use_memory(target, &primary).await?;
    let did =
        format!("the container of {primary} used more memory than it may, and its main process was killed");
    Ok(Inflicted::blow(at, &primary, did))
}

/// Builds a text larger than the container's memory, in one backend. Answers when it began.
async fn use_memory(target: &Target, member: &str) -> Result<Instant> {
    let set = target
        .kube
        .get(&target.kube.path(Kind::StatefulSet, member))
        .await?;
    let limited = set.is_some_and(|set| set.to_string().contains(r#""limits":{"memory":"512Mi"}"#));
    ensure!(
        limited,
        "the container of {member} has another limit of memory than 512Mi"
    );
    let pod = target.pod(member).await?;
    let ip = pod.ip.context("the pod has no address")?;
    let (guard, before) = (pods::of(target, &pod)?.guard, oom_kills(&pod.uid));
    let at = Instant::now();
    let text = "SELECT length(string_agg(repeat('x', 1000000), '')) FROM generate_series(1, 1000)";
    let answer = sql::ask_within(&target.login, ip, text, USED_UP).await;
    // The container's control group is gone with its main process.
    let ended = process::command_name(guard).is_none() || oom_kills(&pod.uid) > before;
    ensure!(ended, "the kernel ended nothing: {answer:?}");
    Ok(at)
}

/// How often the kernel ended a process in the pod's control groups for want of memory.
fn oom_kills(uid: &str) -> u64 {
    let mut rest = groups(&format!("pod{uid}"));
    let mut kills = 0;
    while let Some(group) = rest.pop() {
        for file in ["memory.oom_control", "memory.events.local"] {
            let text = fs::read_to_string(group.join(file)).unwrap_or_default();
            let counts = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
            kills += counts
                .filter_map(|count| count.trim().parse::<u64>().ok())
                .sum::<u64>();
        }
        let entries = fs::read_dir(&group).into_iter().flatten().flatten();
        rest.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    kills
}

/// Takes all space of the primary's volume, until somebody took over or for a while.
pub async fn disk_full(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let hosts = target.hosts()?;
    let volume = hosts.volume(&target.kube.namespace, &primary);
    ensure!(
        Hosts::is_file_system(&volume),
        "the volume of {primary} is a directory: it cannot be filled"
    );
    let at = Instant::now();
    let filler = Filler::new(&volume)?;
    let mut successor = None;
    while at.elapsed() < FULL && successor.is_none() {
        // What the server frees by itself (old WAL) is taken too.
        filler.fill();
        successor = target.primary().await.ok().filter(|now| *now != primary);
        sleep(LOOK).await;
    }
    // As people do: space is made when the alarm has rung.
    if successor.is_some() {
        sleep(TAKEOVER / 12).await;
    }
    drop(filler);
    let answer = successor.map_or_else(|| "nobody took over".to_owned(), |by| format!("{by} took over"));
    let did = format!(
        "the disk of {primary} was full for {} ms; {answer}",
        at.elapsed().as_millis()
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

/// Files that take all space; removed at the end, however that comes.
struct Filler<'a>(&'a Path);

impl<'a> Filler<'a> {
    const NAME: &'static str = "filler";

    fn new(volume: &'a Path) -> Result<Self> {
        let filler = Self(volume);
        fs::create_dir_all(volume.join(Self::NAME)).context("cannot make the filler's directory")?;
        filler.fill();
        Ok(filler)
    }

    fn fill(&self) {
        let Ok(free) = nix::sys::statvfs::statvfs(self.0) else {
            return;
        };
        let block = free.fragment_size();
        let mut bytes = free.blocks_available() * block;
        // What is left gets smaller and smaller; a file system keeps some blocks for its own.
        while bytes >= block {
            let name = format!(
                "{}",
                fs::read_dir(self.0.join(Self::NAME)).map_or(0, Iterator::count)
            );
            let file = self.0.join(Self::NAME).join(name);
            if run(&["fallocate", "-l", &bytes.to_string(), &file.to_string_lossy()]).is_err() {
                bytes /= 2;
            } else {
                return;
            }
        }
    }
}

impl Drop for Filler<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0.join(Self::NAME)) {
            tracing::error!("the full disk could not be emptied: {error}");
        }
    }
}
