//! What a rig is made of: how many members, where, with which programs.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use pgbaton::core::record::{Availability, Durability};

use super::container::Isolation;
use super::host::{self, Account};
use super::load::{self, Data};
use crate::names::{POSTGRES_PORT, SIDECAR_PORT};
use crate::oracles::sql::Login;

/// Port of the embedded API server.
pub const API_PORT: u16 = 6443;
/// Most members that fit between the Service's address and the end of the subnet.
pub const MOST_MEMBERS: u8 = 9;
/// The namespace of all objects.
pub const NAMESPACE: &str = "default";
/// A Unix socket's path may have 107 bytes; the longest one below the rig's directory needs this many.
const LONGEST_SOCKET: usize = "/postgres-9/socket/.s.PGSQL.5432.lock".len();

/// Values of the Secret `postgresql`, named as in the tutorial.
#[derive(Clone)]
pub struct Secret {
    /// POSTGRES_USER
    pub user: String,
    /// POSTGRES_PASSWORD
    pub password: String,
    /// POSTGRES_DB
    pub database: String,
    /// REPLICATION_USER
    pub replication_user: String,
    /// REPLICATION_PASSWORD
    pub replication_password: String,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// The tutorial's names with new passwords.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn generate() -> Result<Self> {
        Ok(Self {
            user: "postgresadmin".to_owned(),
            password: random_hex(12)?,
            database: "postgresdb".to_owned(),
            replication_user: "replicationuser".to_owned(),
            replication_password: random_hex(12)?,
        })
    }

    fn login(&self) -> Login {
        Login {
            user: self.user.clone(),
            password: self.password.clone(),
            database: self.database.clone(),
            port: POSTGRES_PORT,
        }
    }

    /// The value of a key, as `secretKeyRef` names it.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        match key {
            "POSTGRES_USER" => Some(&self.user),
            "POSTGRES_PASSWORD" => Some(&self.password),
            "POSTGRES_DB" => Some(&self.database),
            "REPLICATION_USER" => Some(&self.replication_user),
            "REPLICATION_PASSWORD" => Some(&self.replication_password),
            _ => None,
        }
    }
}

/// What the caller chooses.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Members, 1 to `MOST_MEMBERS`.
    pub members: u8,
    /// Recorded durability.
    pub durability: Durability,
    /// Recorded availability.
    pub availability: Availability,
    /// Third number of the addresses, 127.0.<subnet>.x.
    pub subnet: u8,
    /// Where all files go; none: a new directory.
    pub directory: Option<PathBuf>,
    /// The binary under test; none: `pgbaton` beside this executable.
    pub pgbaton: Option<PathBuf>,
    /// `pgbaton-chaos` itself, for its watchdog; none: this executable.
    pub chaos: Option<PathBuf>,
    /// False: containers have no PID namespace even where the kernel would give one.
    pub namespaces: bool,
    /// Further environment of every sidecar, for tests.
    pub sidecar_env: Vec<(String, String)>,
    /// Further environment of one member's sidecar: its index, name, value.
    pub member_sidecar_env: Vec<(u8, String, String)>,
    /// The StatefulSets are the tutorial's own, without guard and sidecar.
    pub plain: bool,
    /// What the database holds and bears.
    pub data: Data,
    /// So many MiB each standby has to replay when a fault comes; none: as it comes.
    pub backlog_mib: Option<u64>,
    /// Further environment of every guard, for tests.
    pub guard_env: Vec<(String, String)>,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            members: 3,
            durability: Durability::Sync,
            availability: Availability::Available,
            subnet: 0,
            directory: None,
            pgbaton: None,
            chaos: None,
            namespaces: true,
            sidecar_env: Vec::new(),
            member_sidecar_env: Vec::new(),
            plain: false,
            data: Data::default(),
            backlog_mib: None,
            guard_env: Vec::new(),
        }
    }
}

/// A rig's settings, checked against the machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What was chosen.
    pub choice: Choice,
    /// The directory of this rig; exists.
    pub directory: PathBuf,
    /// The rig's own copy of the binary under test.
    pub pgbaton: PathBuf,
    /// Directory of PostgreSQL's programs.
    pub programs: PathBuf,
    /// Whom PostgreSQL runs as, when not the rig's own user.
    pub account: Option<Account>,
    /// What containers are made of here.
    pub isolation: Isolation,
    /// Why it is less than a namespace.
    pub isolation_note: Option<String>,
    /// The Secret's values.
    pub secret: Secret,
    /// The Secret's superuser.
    pub login: Login,
}

impl Settings {
    /// Checks the machine and makes the directory.
    ///
    /// # Errors
    /// Says what is missing or taken and what to do about it.
    pub async fn prepare(choice: Choice) -> Result<Self> {
        if choice.members == 0 || choice.members > MOST_MEMBERS {
            bail!(
                "--members {} is out of range: 1 to {MOST_MEMBERS}",
                choice.members
            );
        }
        let programs = host::postgres_programs()?;
        let account = host::server_account()?;
        let (isolation, isolation_note) = if choice.namespaces {
            host::isolation().await
        } else {
            (Isolation::None, Some("not wanted".to_owned()))
        };
        let binary = binary_under_test(choice.pgbaton.as_deref())?;
        host::check_free(&addresses(&choice))?;
        let directory = make_directory(choice.directory.as_deref())?;
        load::check_space(choice.data, &directory)?;
        // A copy, as the emptyDir of a real pod holds one: a rebuild while the rig runs changes nothing, and the server's user
        // can run it wherever the original lies.
        let pgbaton = directory.join("bin").join("pgbaton");
        std::fs::copy(&binary, &pgbaton)
            .with_context(|| format!("cannot copy {} to {}", binary.display(), pgbaton.display()))?;
        std::fs::set_permissions(&pgbaton, std::fs::Permissions::from_mode(0o755))
            .context("cannot make the copy of pgbaton executable")?;
        let secret = Secret::generate()?;
        let login = secret.login();
        Ok(Self {
            choice,
            directory,
            pgbaton,
            programs,
            account,
            isolation,
            isolation_note,
            secret,
            login,
        })
    }

    /// 127.0.<subnet>.<last>
    #[must_use]
    pub fn ip(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, self.choice.subnet, last)
    }

    /// Where clients write.
    #[must_use]
    pub fn service_ip(&self) -> Ipv4Addr {
        self.ip(10)
    }

    /// Where the embedded API server listens.
    #[must_use]
    pub fn api_ip(&self) -> Ipv4Addr {
        self.ip(9)
    }

    /// Member N's address: the pod's IP.
    #[must_use]
    pub fn member_ip(&self, index: u8) -> Ipv4Addr {
        self.ip(10 + index)
    }

    /// `postgres-1` and so on.
    #[must_use]
    pub fn member_names(&self) -> Vec<String> {
        (1..=self.choice.members).map(member_name).collect()
    }
}

/// `postgres-N`.
#[must_use]
pub fn member_name(index: u8) -> String {
    format!("postgres-{index}")
}

/// `bytes` random bytes as hexadecimal digits.
///
/// # Errors
/// When the kernel gives none.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0_u8; bytes];
    getrandom::fill(&mut buffer)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn addresses(choice: &Choice) -> Vec<(Ipv4Addr, u16)> {
    let ip = |last| Ipv4Addr::new(127, 0, choice.subnet, last);
    let mut all = vec![(ip(9), API_PORT), (ip(10), POSTGRES_PORT)];
    for index in 1..=choice.members {
        all.push((ip(10 + index), POSTGRES_PORT));
        all.push((ip(10 + index), SIDECAR_PORT));
    }
    all
}

fn binary_under_test(chosen: Option<&Path>) -> Result<PathBuf> {
    let path = match chosen {
        Some(path) => path.to_path_buf(),
        None => std::env::current_exe()
            .context("cannot find this executable")?
            .with_file_name("pgbaton"),
    };
    if !path.is_file() {
        bail!(
            "the binary under test is not at {}: build it with 'cargo build --release', or name it with --pgbaton PATH",
            path.display()
        );
    }
    Ok(path)
}

fn make_directory(chosen: Option<&Path>) -> Result<PathBuf> {
    let path = match chosen {
        Some(path) => std::path::absolute(path).context("cannot make the path of --dir absolute")?,
        None => default_parent().join(format!("pgbaton-{}", random_hex(4)?)),
    };
    if path.as_os_str().len() + LONGEST_SOCKET > 107 {
        bail!(
            "the directory {} is too long for Unix sockets below it: choose one of at most {} characters with --dir",
            path.display(),
            107 - LONGEST_SOCKET
        );
    }
    let used = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
    if used {
        bail!(
            "the directory {} is not empty: choose another one with --dir, or remove it",
            path.display()
        );
    }
    // The server's user must pass through; what is secret below it has modes of its own.
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::create_dir_all(path.join("bin"))
        .and_then(|()| std::fs::set_permissions(&path, open.clone()))
        .and_then(|()| std::fs::set_permissions(path.join("bin"), open))
        .with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(path)
}

/// An ordinary user's own run-time directory where there is one (in memory: kind to the disk, but small), else /tmp.
fn default_parent() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    match runtime {
        Some(path) if !nix::unistd::geteuid().is_root() && roomy(&path) => path,
        _ => std::env::temp_dir(),
    }
}

/// Three servers with their WAL need about 2 GB in the longest run.
fn roomy(path: &Path) -> bool {
    const NEEDED: u64 = 4 << 30;
    nix::sys::statvfs::statvfs(path)
        .is_ok_and(|fs| fs.fragment_size().saturating_mul(fs.blocks_available()) >= NEEDED)
}
