//! Everything the sidecar does over the PostgreSQL protocol. Every call is bounded in time by its caller's budget.

mod archive;
pub mod conflict;
pub mod leader;
pub mod probe;
pub mod remote;
pub mod role;
mod scram;
pub mod session;
pub mod slots;
pub mod source;
mod sql;

pub use probe::{Health, Prober};
pub(crate) use scram::base64;
pub use session::{Credentials, PgError, ServerAt, Session};
