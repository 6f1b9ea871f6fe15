//! For a guard that is not PID 1: a process beside it that ends the server when the guard dies. Where the guard is PID 1 the kernel
//! does that.

use std::collections::HashSet;
use std::io::{Read, stdin};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::Ordering;

use super::live::Guard;
use super::processes::Belongs;

/// Environment variable that makes `pgbaton guard` a keeper of the PGDATA that it names.
pub const KEEPER_ENV: &str = "PGBATON_KEEPER_OF";

impl Guard {
    /// Starts the keeper. It lives as long as what is answered is not dropped.
    ///
    /// # Errors
    /// When this program cannot be started again.
    pub fn start_keeper(&self) -> std::io::Result<Option<ChildStdin>> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("guard")
            .env(KEEPER_ENV, &self.settings.pgdata)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0);
        let (pid, mut child) = self.children.spawn(&mut command)?;
        self.keeper.store(pid, Ordering::Relaxed);
        Ok(child.stdin.take())
    }
}

/// The keeper's whole life: waits for the guard's end, then ends what sits in PGDATA.
pub fn keep(pgdata: &Path) {
    let mut nothing = [0u8; 16];
    // Nobody writes; the end of file is the guard's end.
    while stdin().read(&mut nothing).is_ok_and(|n| n > 0) {}
    let belongs = Belongs {
        pgdata: pgdata.to_owned(),
        alone: false,
    };
    belongs.kill_all(&HashSet::new());
}
