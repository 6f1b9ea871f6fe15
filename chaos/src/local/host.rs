//! What this machine offers: PostgreSQL's programs, an account for the server, namespaces, free addresses.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User, geteuid};
use tokio::process::Command;
use tokio::time::timeout;

use super::container::Isolation;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Whom PostgreSQL runs as: the user `postgres` when the rig is root, else the rig's own user (none).
///
/// # Errors
/// As root without a user `postgres`.
pub fn server_account() -> Result<Option<Account>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres").context("cannot read the list of users")?;
    let Some(user) = user else {
        bail!(
            "PostgreSQL never runs as root and this machine has no user 'postgres': install Debian's package \
             'postgresql' (scripts/setup.sh does it), or run as an ordinary user"
        );
    };
    Ok(Some(Account {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    }))
}

/// The name of the user who runs the rig.
#[must_use]
pub fn own_name() -> String {
    let uid: Uid = geteuid();
    User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

/// Whether a program of this name is in PATH.
#[must_use]
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Gives a file or directory to the account that PostgreSQL runs as.
///
/// # Errors
/// When the kernel refuses.
pub fn give(path: &Path, account: Option<&Account>) -> Result<()> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.uid), Some(account.gid))
        .with_context(|| format!("cannot give {} to user {}", path.display(), account.name))
}

/// What the guard and the rig run.
const PROGRAMS: [&str; 7] = [
    "postgres",
    "initdb",
    "pg_ctl",
    "pg_basebackup",
    "pg_rewind",
    "psql",
    "pg_controldata",
];

/// The directory of PostgreSQL's server programs: `PGBATON_BINDIR`, else Debian's newest, else that of `postgres` in PATH.
///
/// # Errors
/// When there is none, with what to install.
pub fn postgres_programs() -> Result<PathBuf> {
    let lacks = |directory: &Path| -> Vec<&str> {
        let all = PROGRAMS.into_iter();
        all.filter(|program| !directory.join(program).is_file()).collect()
    };
    let complete = |directory: &Path| lacks(directory).is_empty();
    if let Some(directory) = std::env::var_os("PGBATON_BINDIR").map(PathBuf::from) {
        if complete(&directory) {
            return Ok(directory);
        }
        bail!(
            "PGBATON_BINDIR={} lacks {}: name a directory with all of PostgreSQL's programs, or unset it",
            directory.display(),
            lacks(&directory).join(", ")
        );
    }
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            let directory = entry.path().join("bin");
            complete(&directory).then_some((major, directory))
        })
        .collect();
    debian.sort();
    if let Some((_, directory)) = debian.pop() {
        return Ok(directory);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(directory) = std::env::split_paths(&path).find(|directory| complete(directory)) {
        return Ok(directory);
    }
    bail!(
        "no directory with all of PostgreSQL's programs found ({}): install them, on Debian and Ubuntu with 'scripts/setup.sh', \
         or set PGBATON_BINDIR",
        PROGRAMS.join(", ")
    );
}

/// What `unshare` may do here. The second value says why it is less than wanted.
pub async fn isolation() -> (Isolation, Option<String>) {
    let wanted = if geteuid().is_root() {
        Isolation::Namespace
    } else {
        Isolation::UserNamespace
    };
    match try_isolation(wanted).await {
        Ok(()) => (wanted, None),
        Err(reason) => (Isolation::None, Some(format!("{reason:#}"))),
    }
}

async fn try_isolation(isolation: Isolation) -> Result<()> {
    let arguments = isolation.unshare_arguments().unwrap_or_default();
    let run = Command::new("unshare")
        .args(arguments)
        .args(["--", "true"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(5), run)
        .await
        .context("unshare did not end within 5 s")?
        .context("cannot run unshare (package util-linux)")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Makes sure that the rig can listen on each of these addresses.
///
/// # Errors
/// Names the addresses that are taken and says what to do.
pub fn check_free(addresses: &[(Ipv4Addr, u16)]) -> Result<()> {
    let taken: Vec<String> = addresses
        .iter()
        .filter_map(|&(ip, port)| {
            let address = SocketAddrV4::new(ip, port);
            TcpListener::bind(address)
                .err()
                .map(|error| format!("{address} ({error})"))
        })
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    bail!(
        "these addresses cannot be listened on: {}. Another rig or server uses them: end it, or choose another subnet \
         with --subnet N (members then live in 127.0.N.x)",
        taken.join(", ")
    );
}
