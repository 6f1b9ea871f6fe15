//! A member's files: its volume, the directories that its containers share, and the user's configuration outside PGDATA.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::host::{self, Account};
use super::load;
use super::settings::{Choice, Settings, member_name};
use crate::names::{POSTGRES_PORT, SIDECAR_PORT};

/// The test image's entrypoint: `entrypoint.sh` says which contract it keeps.
const ENTRYPOINT: &str = include_str!("entrypoint.sh");

/// Where a member is and where its files are.
#[derive(Debug, Clone)]
pub struct Member {
    /// 1, 2, ...
    pub index: u8,
    /// `postgres-1`: of the member, its StatefulSet, its label `app`.
    pub name: String,
    /// The pod's IP.
    pub ip: Ipv4Addr,
    /// The directory of this member.
    pub root: PathBuf,
    account: Option<Account>,
    /// Lines that the rig's data and faults ask for; they count before those above them.
    wished: String,
}

impl Member {
    /// Member `index` of this rig.
    #[must_use]
    pub fn new(settings: &Settings, index: u8) -> Self {
        let name = member_name(index);
        Self {
            index,
            ip: settings.member_ip(index),
            root: settings.directory.join(&name),
            account: settings.account.clone(),
            wished: wished(&settings.choice),
            name,
        }
    }

    /// `postgres-1-0`: a StatefulSet has one replica.
    #[must_use]
    pub fn pod(&self) -> String {
        format!("{}-0", self.name)
    }

    /// The volume (`/data` in the tutorial): outlives pods.
    #[must_use]
    pub fn volume(&self) -> PathBuf {
        self.root.join("data")
    }

    /// PGDATA.
    #[must_use]
    pub fn pgdata(&self) -> PathBuf {
        self.volume().join("pgdata")
    }

    /// The emptyDir that both containers share: new with each pod.
    #[must_use]
    pub fn run_directory(&self) -> PathBuf {
        self.root.join("run")
    }

    /// PostgreSQL's Unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        self.root.join("socket")
    }

    /// The ConfigMap's mount.
    #[must_use]
    pub fn config_directory(&self) -> PathBuf {
        self.root.join("config")
    }

    /// `/docker-entrypoint-initdb.d`.
    #[must_use]
    pub fn initdb_directory(&self) -> PathBuf {
        self.root.join("initdb.d")
    }

    /// The log of one container.
    #[must_use]
    pub fn log(&self, container: &str) -> PathBuf {
        self.root.join("log").join(format!("{container}.log"))
    }

    /// Where people read this member's status.
    #[must_use]
    pub fn status_url(&self) -> String {
        format!("http://{}:{SIDECAR_PORT}/status", self.ip)
    }

    /// Makes all directories and files but PGDATA.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn lay_out(&self) -> Result<()> {
        make(&self.root)?;
        let directories = [
            self.volume(),
            self.run_directory(),
            self.socket_directory(),
            self.config_directory(),
            self.initdb_directory(),
            self.root.join("log"),
        ];
        for directory in &directories {
            make(directory)?;
            host::give(directory, self.account.as_ref())?;
        }
        self.make_archive()?;
        write(
            &self.config_directory().join("postgresql.conf"),
            &self.postgresql_conf(),
        )?;
        write(&self.config_directory().join("pg_hba.conf"), HBA)?;
        Ok(())
    }

    /// The tutorial's archive lies on the volume.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.volume().join("archive")
    }

    fn make_archive(&self) -> Result<()> {
        let archive = self.archive();
        make(&archive)?;
        host::give(&archive, self.account.as_ref())
    }

    /// A new pod's emptyDir.
    ///
    /// # Errors
    /// When the old one cannot be removed or the new one made.
    pub fn renew_run_directory(&self) -> Result<()> {
        empty(&self.run_directory())?;
        empty(&self.socket_directory())
    }

    /// The volume is lost: everything on it is gone.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn lose_data(&self) -> Result<()> {
        empty(&self.volume())
    }

    /// The tutorial's file with this member's paths and address. Sizes are those of a small machine.
    fn postgresql_conf(&self) -> String {
        let data = self.pgdata();
        let config = self.config_directory();
        let archive = self.archive();
        format!(
            "# The user's configuration, as the tutorial's ConfigMap mounts it: outside PGDATA.\n\
             data_directory = '{data}'\n\
             hba_file = '{config}/pg_hba.conf'\n\
             ident_file = '{config}/pg_ident.conf'\n\
             port = {POSTGRES_PORT}\n\
             listen_addresses = '{ip}'\n\
             unix_socket_directories = '{socket}'\n\
             max_connections = 100\n\
             shared_buffers = 32MB\n\
             dynamic_shared_memory_type = posix\n\
             max_wal_size = 1GB\n\
             min_wal_size = 80MB\n\
             log_timezone = 'UTC'\n\
             timezone = 'UTC'\n\
             log_line_prefix = '%m [%p] '\n\
             datestyle = 'iso, mdy'\n\
             lc_messages = 'C.UTF-8'\n\
             lc_monetary = 'C.UTF-8'\n\
             lc_numeric = 'C.UTF-8'\n\
             lc_time = 'C.UTF-8'\n\
             default_text_search_config = 'pg_catalog.english'\n\
             wal_level = replica\n\
             archive_mode = on\n\
             archive_command = 'test ! -f {archive}/%f && cp %p {archive}/%f'\n\
             max_wal_senders = 10\n\
             {wished}",
            data = data.display(),
            config = config.display(),
            ip = self.ip,
            socket = self.socket_directory().display(),
            archive = archive.display(),
            wished = self.wished,
        )
    }
}

fn wished(choice: &Choice) -> String {
    let patient = choice.backlog_mib.map_or("", |_| load::PATIENT);
    format!("{}{patient}", choice.data.configuration())
}

/// The tutorial's rules without its `trust` for 127.0.0.1: on one machine everybody comes from there, and no password would
/// ever be looked at.
const HBA: &str = "\
host  replication  replicationuser  0.0.0.0/0  md5
local all          all                         trust
local replication  all                         trust
host  all          all              all        scram-sha-256
";

/// Writes the entrypoint to the rig's directory and says where it is.
///
/// # Errors
/// When it cannot be written.
pub fn write_entrypoint(settings: &Settings) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = settings.directory.join("bin").join("docker-entrypoint.sh");
    write(&path, ENTRYPOINT)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))?;
    Ok(path)
}

/// Whatever the umask says, the server's user must be able to pass through.
fn make(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot make the directory {}", directory.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes what is in the directory and leaves the directory itself, with its owner.
fn empty(directory: &Path) -> Result<()> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read the directory {}", directory.display()))?;
    for entry in entries {
        let path = entry.context("cannot read a directory")?.path();
        let removed = if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
