//! `pgbaton sidecar`: takes its settings, checks them once, and runs the loop of `crate::runtime`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use super::End;
use super::checks::{self, AllowedHosts, NameKind, ServerAddresses};
use super::install;
use super::logging::{self, LogFormat};
use super::refused;
use crate::core::observe::Settings;
use crate::core::types::{Address, MemberName};
use crate::guard::protocol::Secret;
use crate::lease::HolderId;
use crate::postgres::{Credentials, ServerAt};
use crate::runtime::settings::SidecarSettings;

/// Least and most; Kubernetes stores whole seconds.
const LEASE_DURATION: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(3_600));
/// More renewals would only load the API server.
const RENEW_LEAST: Duration = Duration::from_millis(100);
/// Least and most of the other timeouts.
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(600));

/// Least and most of the time for a round of questions about rights.
const PREFLIGHT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));

/// `STANDBY_MODE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// `on`
    On,
    /// `off`
    Off,
}

/// `pgbaton sidecar`.
#[derive(Debug, clap::Args)]
#[command(rename_all = "kebab-case")]
pub struct Args {
    /// Directory shared with PostgreSQL's container, to put this program into before all else
    #[arg(long, env = "PGBATON_INSTALL", value_parser = checks::path_value)]
    install: Option<PathBuf>,
    /// This member: the name of its StatefulSet
    #[arg(long, env = "PGBATON_MEMBER")]
    member: MemberName,
    /// Namespace of all objects
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of the pod (downward API: metadata.name); where it is given, a pod that is not the member's first one is refused
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// UID of the pod (downward API: metadata.uid)
    #[arg(long, env = "POD_UID")]
    pod_uid: String,
    /// IP address of the pod (downward API: status.podIP)
    #[arg(long, env = "POD_IP")]
    pod_ip: String,
    /// Name of the Lease that holds the record
    #[arg(long, env = "PGBATON_LEASE", default_value = "postgres")]
    lease: String,
    /// Name of the read-write Service
    #[arg(long, env = "PGBATON_SERVICE", default_value = "postgres")]
    service: String,
    /// Where status, metrics and peers are served
    #[arg(long, env = "PGBATON_LISTEN", default_value = "0.0.0.0:8008")]
    listen: SocketAddr,
    /// Further names under which browsers and scrapers may ask for status, page and metrics: db.example.com,status.internal
    #[arg(long, env = "PGBATON_ALLOWED_HOSTS", default_value = "", value_parser = checks::allowed_hosts)]
    allowed_hosts: AllowedHosts,
    /// Where the local server listens
    #[arg(long, env = "PGBATON_POSTGRES_HOST", default_value = "127.0.0.1")]
    postgres_host: String,
    /// Its port, also for the other members
    #[arg(long, env = "PGBATON_POSTGRES_PORT", default_value_t = 5432, value_parser = clap::value_parser!(u16).range(1..))]
    postgres_port: u16,
    /// Directory shared with the guard
    #[arg(long, env = "PGBATON_RUN_DIR", default_value = "/pgbaton")]
    run_dir: PathBuf,
    /// Kubeconfig (default: the pod's service account)
    #[arg(long, env = "KUBECONFIG", value_parser = checks::path_value)]
    kubeconfig: Option<PathBuf>,
    /// leaseDurationSeconds: whole seconds
    #[arg(long, env = "PGBATON_LEASE_DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    lease_duration: Duration,
    /// Time between renewals
    #[arg(long, env = "PGBATON_RENEW_INTERVAL", default_value = "1s", value_parser = humantime::parse_duration)]
    renew_interval: Duration,
    /// How long a server may fail its health test before it loses the baton
    #[arg(long, env = "PGBATON_HEALTH_TIMEOUT", default_value = "3s", value_parser = humantime::parse_duration)]
    health_timeout: Duration,
    /// How long a standby may be away before it leaves the sync set
    #[arg(long, env = "PGBATON_STANDBY_TIMEOUT", default_value = "3s", value_parser = humantime::parse_duration)]
    standby_timeout: Duration,
    /// Silence of the leader that counts as evidence
    #[arg(long, env = "PGBATON_SILENCE_TIMEOUT", default_value = "1500ms", value_parser = humantime::parse_duration)]
    silence_timeout: Duration,
    /// What the record should say; a difference is a warning, the record counts
    #[arg(long, env = "PGBATON_DURABILITY", default_value = "sync", value_parser = ["sync", "async"])]
    durability: String,
    /// What the record should say; a difference is a warning, the record counts
    #[arg(long, env = "PGBATON_AVAILABILITY", default_value = "available", value_parser = ["available", "strict"])]
    availability: String,
    /// Standbys that must have flushed a commit, where there are as many
    #[arg(long, env = "PGBATON_SYNC_STANDBYS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=15))]
    sync_standbys: u32,
    /// Most WAL that an asynchronous takeover may lose, in bytes
    #[arg(long, env = "PGBATON_MAXIMUM_LAG", default_value_t = 1_048_576)]
    maximum_lag: u64,
    /// WAL that a standby may not have replayed yet before nobody is sent to read from it (postgres-ro), in bytes
    #[arg(long, env = "PGBATON_MAXIMUM_READ_LAG", default_value_t = 16_777_216)]
    maximum_read_lag: u64,
    /// Keep STANDBY_MODE and PRIMARY_SERVER_ADDRESS in the StatefulSets
    #[arg(long, env = "PGBATON_PATCH_ENV", value_enum, default_value = "on")]
    patch_env: Switch,
    /// Where the disk cannot hold a clone beside the old data: remove the old data first
    #[arg(long, env = "PGBATON_REPLACE_DATA", value_enum, default_value = "off")]
    replace_data: Switch,
    /// Where servers answer while a cluster is adopted in place, if not at their StatefulSets' names: postgres-1=HOST,postgres-2=HOST
    #[arg(long, env = "PGBATON_SERVER_ADDRESSES", default_value = "", value_parser = checks::server_addresses)]
    server_addresses: ServerAddresses,
    /// `off` marks the first primary of a cluster that was never initialised; nothing else
    #[arg(long, env = "STANDBY_MODE", value_enum, default_value = "on")]
    standby_mode: Switch,
    /// Superuser
    #[arg(long, env = "POSTGRES_USER", default_value = "postgres")]
    postgres_user: String,
    /// Its password
    #[arg(long, env = "POSTGRES_PASSWORD", hide_env_values = true)]
    postgres_password: String,
    /// Database to connect to (default: the user's name)
    #[arg(long, env = "POSTGRES_DB")]
    postgres_db: Option<String>,
    /// Replication role
    #[arg(long, env = "REPLICATION_USER")]
    replication_user: String,
    /// Its password; all members must have the same
    #[arg(long, env = "REPLICATION_PASSWORD", hide_env_values = true)]
    replication_password: String,
    /// The password before, while it is rotated: members with either one hear each other
    #[arg(long, env = "REPLICATION_PASSWORD_PREVIOUS", hide_env_values = true)]
    replication_password_previous: Option<String>,
    /// In this time every right is asked about once more; for tests
    #[arg(long, env = "PGBATON_PREFLIGHT_INTERVAL", default_value = "12min", hide = true, value_parser = humantime::parse_duration)]
    preflight_interval: Duration,
    /// What to log (as RUST_LOG)
    #[arg(long, env = "PGBATON_LOG", default_value = "info")]
    log: String,
    /// How
    #[arg(long, env = "PGBATON_LOG_FORMAT", value_enum, default_value = "human")]
    log_format: LogFormat,
}

/// Runs the sidecar.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    // Set and empty is not set, as for kubectl. Nothing that may fail comes before it: the guard must not wait for good settings.
    let dir = args.install.as_deref().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(Err(error)) = dir.map(install::install) {
        eprintln!("pgbaton sidecar: {error}");
        return End::Failed.into();
    }
    if let Err(error) = logging::start(&args.log, args.log_format) {
        eprintln!("pgbaton sidecar: {error}");
        return End::Usage.into();
    }
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!(error, "the settings cannot work; nothing was started");
            refused::tell(&error);
            return End::Usage.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the async runtime cannot be started");
            return End::Failed.into();
        }
    };
    match runtime.block_on(crate::runtime::run(settings)) {
        Ok(()) => End::Done.into(),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the sidecar ended");
            End::Failed.into()
        }
    }
}

fn millis(duration: Duration) -> crate::core::types::Millis {
    crate::core::types::Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl Args {
    /// Checks what flags and environment say together.
    ///
    /// # Errors
    /// What is wrong and what to change.
    fn settings(self) -> Result<SidecarSettings, String> {
        let permit = self.check_times()?;
        self.check_names()?;
        self.check_addresses()?;
        self.check_logins()?;
        let address = Address {
            ip: self.pod_ip,
            postgres_port: self.postgres_port,
            sidecar_port: self.listen.port(),
        };
        let core = Settings {
            holder: format!("{}_{}", self.member, self.pod_uid),
            me: self.member,
            address,
            first_primary: self.standby_mode == Switch::Off,
            lease_duration: millis(self.lease_duration),
            renew_interval: millis(self.renew_interval),
            permit: millis(permit),
            health_timeout: millis(self.health_timeout),
            pledge_timeout: crate::core::types::Millis(3_000),
            silence_timeout: millis(self.silence_timeout),
            standby_timeout: millis(self.standby_timeout),
            sync_standbys: self.sync_standbys,
            maximum_lag: self.maximum_lag,
        };
        let superuser = Credentials {
            database: self.postgres_db.unwrap_or_else(|| self.postgres_user.clone()),
            user: self.postgres_user,
            password: Some(Secret(self.postgres_password)),
        };
        Ok(SidecarSettings {
            core,
            namespace: self.namespace,
            pod_uid: self.pod_uid,
            lease: self.lease,
            service: self.service,
            listen: self.listen,
            allowed_hosts: self.allowed_hosts.0,
            run_dir: self.run_dir,
            // Set and empty is not set, as for kubectl.
            kubeconfig: self.kubeconfig.filter(|path| !path.as_os_str().is_empty()),
            server: ServerAt {
                host: self.postgres_host,
                port: self.postgres_port,
            },
            superuser,
            replication_user: self.replication_user,
            replication_password: Secret(self.replication_password),
            replication_password_previous: self.replication_password_previous.map(Secret),
            patch_env: self.patch_env == Switch::On,
            replace_data: self.replace_data == Switch::On,
            server_addresses: self.server_addresses.0,
            durability: self.durability,
            availability: self.availability,
            maximum_read_lag: self.maximum_read_lag,
            preflight_interval: self.preflight_interval,
        })
    }

    fn check_names(&self) -> Result<(), String> {
        checks::name("--namespace (POD_NAMESPACE)", &self.namespace, NameKind::Label)?;
        checks::name("--lease (PGBATON_LEASE)", &self.lease, NameKind::Subdomain)?;
        checks::name(
            "--service (PGBATON_SERVICE)",
            &self.service,
            NameKind::ServiceLabel,
        )?;
        self.check_pod_name()?;
        checks::run_dir("--run-dir (PGBATON_RUN_DIR)", &self.run_dir)?;
        HolderId::new(self.member.clone(), &self.pod_uid)
            .map(|_| ())
            .map_err(|e| format!("--pod-uid (POD_UID): {e}; set it from the downward API's metadata.uid"))
    }

    /// Two pods that say they are the same member would take turns at being it.
    fn check_pod_name(&self) -> Result<(), String> {
        let expected = format!("{}-0", self.member);
        match &self.pod_name {
            Some(name) if *name != expected => Err(format!(
                "--pod-name (POD_NAME) is '{name}': member {0} is pod {expected} and no other. If the StatefulSet has several \
                 replicas, scale it to 1 (kubectl scale statefulset {0} --replicas=1) and add members as StatefulSets of their own; \
                 else set --member (PGBATON_MEMBER) to this pod's StatefulSet",
                self.member
            )),
            _ => Ok(()),
        }
    }

    fn check_addresses(&self) -> Result<(), String> {
        let ip = checks::pod_ip("--pod-ip (POD_IP)", &self.pod_ip)?;
        checks::host("--postgres-host (PGBATON_POSTGRES_HOST)", &self.postgres_host)?;
        let listen = "--listen (PGBATON_LISTEN)";
        let at = self.listen;
        if at.port() == 0 {
            return Err(format!(
                "{listen} is {at}: the other members must know the port; give one, as in 0.0.0.0:8008"
            ));
        }
        if at.port() == self.postgres_port {
            return Err(format!(
                "{listen} and --postgres-port (PGBATON_POSTGRES_PORT) are both port {}: a pod has each port once; give \
                 the sidecar another one, as in 0.0.0.0:8008",
                at.port()
            ));
        }
        // A pod may have several addresses; loopback is never one that others reach.
        if at.ip().is_multicast() || (at.ip().is_loopback() && !ip.is_loopback()) {
            return Err(format!(
                "{listen} is {at}: the other members ask at {ip} (POD_IP) and would be refused; give 0.0.0.0:{0} or \
                 {ip}:{0}",
                at.port()
            ));
        }
        Ok(())
    }

    fn check_logins(&self) -> Result<(), String> {
        checks::postgres_name("--postgres-user (POSTGRES_USER)", &self.postgres_user)?;
        checks::password("--postgres-password (POSTGRES_PASSWORD)", &self.postgres_password)?;
        if let Some(database) = &self.postgres_db {
            checks::postgres_name("--postgres-db (POSTGRES_DB)", database)?;
        }
        let replication = "--replication-user (REPLICATION_USER)";
        checks::postgres_name(replication, &self.replication_user)?;
        checks::password(
            "--replication-password (REPLICATION_PASSWORD)",
            &self.replication_password,
        )?;
        let previous = "--replication-password-previous (REPLICATION_PASSWORD_PREVIOUS)";
        if let Some(password) = &self.replication_password_previous {
            checks::password(previous, password)?;
            if *password == self.replication_password {
                return Err(format!(
                    "{previous} is the same as --replication-password (REPLICATION_PASSWORD): give the one before, or none"
                ));
            }
        }
        if self.replication_user == self.postgres_user {
            return Err(format!(
                "{replication} is '{0}', and so is --postgres-user (POSTGRES_USER): pgbaton keeps the replication role's \
                 password and rights, and would change the superuser; give the replication role a name of its own, as \
                 in replicator",
                self.replication_user
            ));
        }
        if self.replication_user.starts_with("pg_") {
            return Err(format!(
                "{replication} is '{}': PostgreSQL keeps names that begin with pg_ to itself; give another one, as in \
                 replicator",
                self.replication_user
            ));
        }
        Ok(())
    }

    /// The permit's length: shorter than the Lease, so that the server is down before anybody may take it, for clocks whose rates
    /// differ by a few percent; long enough for several renewals.
    fn check_times(&self) -> Result<Duration, String> {
        let (lease, renew) = (
            "--lease-duration (PGBATON_LEASE_DURATION)",
            "--renew-interval (PGBATON_RENEW_INTERVAL)",
        );
        let words = checks::words;
        checks::duration(lease, self.lease_duration, LEASE_DURATION)?;
        if self.lease_duration.subsec_nanos() != 0 {
            return Err(format!(
                "{lease} is {}: Kubernetes stores whole seconds; give such a value, as in 10s",
                words(self.lease_duration)
            ));
        }
        let permit = self.lease_duration.mul_f64(0.8);
        if self.renew_interval < RENEW_LEAST || self.renew_interval.saturating_mul(3) > permit {
            return Err(format!(
                "{renew} is {}: expected {} to {} with {lease} {}. A permit lasts {} and must survive two lost renewals",
                words(self.renew_interval),
                words(RENEW_LEAST),
                words(Duration::from_millis(
                    u64::try_from(permit.as_millis() / 3).unwrap_or(0)
                )),
                words(self.lease_duration),
                words(permit),
            ));
        }
        for (name, value) in [
            ("--health-timeout (PGBATON_HEALTH_TIMEOUT)", self.health_timeout),
            (
                "--standby-timeout (PGBATON_STANDBY_TIMEOUT)",
                self.standby_timeout,
            ),
            (
                "--silence-timeout (PGBATON_SILENCE_TIMEOUT)",
                self.silence_timeout,
            ),
        ] {
            checks::duration(name, value, TIMEOUTS)?;
            // Longer than that, a hung server or standby would cost more than the death of the whole pod.
            if value > self.lease_duration {
                return Err(format!(
                    "{name} is {}, longer than {lease} {}: by then the Lease has run out; give at most {1}, or a longer Lease",
                    words(value),
                    words(self.lease_duration),
                ));
            }
        }
        checks::duration(
            "--preflight-interval (PGBATON_PREFLIGHT_INTERVAL)",
            self.preflight_interval,
            PREFLIGHT,
        )?;
        if self.silence_timeout <= self.renew_interval {
            return Err(format!(
                "--silence-timeout (PGBATON_SILENCE_TIMEOUT) is {}: a leader that renews every {} ({renew}) would seem \
                 silent; give a longer one, as in {}",
                words(self.silence_timeout),
                words(self.renew_interval),
                words(self.renew_interval.mul_f64(1.5)),
            ));
        }
        Ok(permit)
    }
}

#[cfg(test)]
#[path = "sidecar_tests.rs"]
mod tests;
