//! What the sidecar is told by flags and environment, checked once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::core::observe::Settings;
use crate::core::types::MemberName;
use crate::guard::protocol::Secret;
use crate::postgres::{Credentials, ServerAt};

/// Everything that the running sidecar needs.
#[derive(Debug, Clone)]
pub struct SidecarSettings {
    /// What the core decides by.
    pub core: Settings,
    /// Where the objects are.
    pub namespace: String,
    /// Pod UID.
    pub pod_uid: String,
    /// Name of the Lease.
    pub lease: String,
    /// Name of the read-write Service.
    pub service: String,
    /// Where status and peers are served.
    pub listen: SocketAddr,
    /// Further names under which the status endpoint may be asked, in lower case.
    pub allowed_hosts: BTreeSet<String>,
    /// Directory shared with the guard.
    pub run_dir: PathBuf,
    /// Kubeconfig; none: in cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The local server.
    pub server: ServerAt,
    /// As a superuser.
    pub superuser: Credentials,
    /// Replication role.
    pub replication_user: String,
    /// Its password; also the members' common secret.
    pub replication_password: Secret,
    /// The password before, while it is rotated.
    pub replication_password_previous: Option<Secret>,
    /// Whether the StatefulSets' env is pgbaton's to change.
    pub patch_env: bool,
    /// Whether a clone that does not fit beside the old data may take its place (DESIGN.md section 7).
    pub replace_data: bool,
    /// Where servers answer whose names lead elsewhere or nowhere (only while a cluster is adopted in place).
    pub server_addresses: BTreeMap<MemberName, String>,
    /// As told by flag, for the status page: the recorded ones count.
    pub durability: String,
    /// As above.
    pub availability: String,
    /// See `--maximum-read-lag`.
    pub maximum_read_lag: u64,
    /// In this time every right is asked about once more. For tests a short one.
    pub preflight_interval: Duration,
}

/// An address that is written into records and connection strings.
///
/// # Errors
/// When it is not an IP address.
pub fn checked_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is not an IP address: give the pod's address (POD_IP, from the downward API's status.podIP)")
    })
}
