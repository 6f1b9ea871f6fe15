//! Names that the manifests give: of objects, containers and variables.

/// Name of the Lease and of the read-write Service.
pub const CLUSTER: &str = "postgres";
/// The annotation that holds the record.
pub const RECORD_ANNOTATION: &str = "pgbaton.dev/cluster-state";
/// Name of the container with the server.
pub const SERVER_CONTAINER: &str = "postgres";
/// Name of the container with the sidecar.
pub const SIDECAR_CONTAINER: &str = "sidecar";
/// What the tutorial's env says of a pod's first role.
pub const STANDBY_MODE: &str = "STANDBY_MODE";
/// Whom a standby follows, in the tutorial's env.
pub const PRIMARY_ADDRESS: &str = "PRIMARY_SERVER_ADDRESS";
/// Port of PostgreSQL at each member's address and at the Service's.
pub const POSTGRES_PORT: u16 = 5432;
/// Port of the sidecar (status and peers).
pub const SIDECAR_PORT: u16 = 8008;
