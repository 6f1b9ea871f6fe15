//! The processes of a member's pod.

use anyhow::{Context, Result};

use super::target::{PodSeen, Target};
use crate::local::process;

/// The processes of one member's pod.
#[derive(Debug, Clone)]
pub struct Processes {
    /// All, by pid as the machine sees them.
    pub all: Vec<i32>,
    /// Main process of the `postgres` container.
    pub guard: i32,
    /// Main process of the sidecar's container.
    pub sidecar: i32,
    /// The postmaster; none: the server is down.
    pub postmaster: Option<i32>,
}

/// Finds them.
///
/// # Errors
/// When guard or sidecar do not run.
pub fn of(target: &Target, pod: &PodSeen) -> Result<Processes> {
    let all: Vec<i32> = target.hosts()?.processes(&pod.uid).into_iter().collect();
    let runs = |word: &str| {
        let is = |pid: &i32| process::command_line(*pid).split(' ').nth(1) == Some(word);
        all.iter().copied().find(is)
    };
    let is_postgres = |pid: i32| process::command_name(pid).as_deref() == Some("postgres");
    let parent_is_postgres = |pid: i32| process::parent(pid).is_some_and(is_postgres);
    Ok(Processes {
        guard: runs("guard").with_context(|| format!("no guard runs in pod {}", pod.name))?,
        sidecar: runs("sidecar").with_context(|| format!("no sidecar runs in pod {}", pod.name))?,
        postmaster: all
            .iter()
            .copied()
            .find(|&pid| is_postgres(pid) && !parent_is_postgres(pid)),
        all,
    })
}
