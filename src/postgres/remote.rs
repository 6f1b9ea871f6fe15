//! Looks at another member's server: is anybody there, whose data has it, does it take writes, and did a guard start it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::session::{Behaviour, Credentials, ServerAt, ask_once, of_io};
use super::sql::{flag, parsed};
use crate::core::probe::Failure;
use crate::core::types::SystemId;
use crate::guard::prepare::{CONFIG_FILE, STATE_DIR};

/// Whether a postmaster answers at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// The connection was refused: the host answers and nothing listens.
    Refused,
    /// A postmaster answered.
    Alive,
    /// No answer in time, or no way there: death, a freeze and a cut network look the same.
    Silent {
        /// How long was waited, in milliseconds.
        after_ms: u64,
        /// More, where the system said more.
        detail: String,
    },
    /// Something accepted the connection and ended it without an answer (a forwarder, or a postmaster that ends). Says neither.
    Closed,
}

/// Length 8, then the code by which a client asks whether TLS is spoken. Any postmaster answers it with one byte, before any login.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// Asks the postmaster at `address` for one byte, without logging in, within `budget`.
pub async fn reach(address: SocketAddr, budget: Duration) -> Reach {
    let started = Instant::now();
    let silent = |detail: String| Reach::Silent {
        after_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        detail,
    };
    let connected = match timeout(budget, TcpStream::connect(address)).await {
        Err(_) => return silent("no connection in time".to_owned()),
        Ok(Err(error)) => match of_io(&error) {
            Failure::Refused { .. } => return Reach::Refused,
            other => return silent(other.to_string()),
        },
        Ok(Ok(stream)) => stream,
    };
    let ask = async {
        let mut stream = connected;
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await
    };
    match timeout(budget.saturating_sub(started.elapsed()), ask).await {
        Err(_) => silent("the connection was taken, no answer in time".to_owned()),
        // 'S' and 'N' are the answers, 'E' an error of a server that cannot even fork.
        Ok(Ok(b'S' | b'N' | b'E')) => Reach::Alive,
        Ok(Ok(_) | Err(_)) => Reach::Closed,
    }
}

/// What runs at an address, seen from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It answered.
    Server(Identified),
    /// Not known: no evidence of anything.
    Unknown {
        /// Why.
        failure: Failure,
    },
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identified {
    /// Whose data it has.
    pub system_identifier: SystemId,
    /// In recovery: takes no writes.
    pub in_recovery: bool,
    /// It reads the configuration that a guard writes, so a guard started it.
    pub guarded: bool,
}

/// Whether the server takes this password, within `budget`; none: not known.
pub async fn takes_password(server: &ServerAt, credentials: &Credentials, budget: Duration) -> Option<bool> {
    let behaviour = Behaviour {
        statement_timeout: budget,
        local_commit: true,
    };
    match ask_once(server, credentials, behaviour, "SELECT 1", budget).await {
        Ok(_) => Some(true),
        Err(Failure::Server { sqlstate, .. }) if sqlstate == "28P01" => Some(false),
        Err(_) => None,
    }
}

/// Logs in at `server` and asks what it is, within `budget`.
pub async fn identify(server: &ServerAt, credentials: &Credentials, budget: Duration) -> Identity {
    let sql = format!(
        "SELECT system_identifier AS id, pg_is_in_recovery() AS in_recovery, \
         current_setting('config_file') LIKE '%/{STATE_DIR}/{CONFIG_FILE}' AS guarded FROM pg_control_system()"
    );
    let behaviour = Behaviour {
        statement_timeout: budget,
        local_commit: true,
    };
    let rows = match ask_once(server, credentials, behaviour, &sql, budget).await {
        Ok(rows) => rows,
        Err(failure) => return Identity::Unknown { failure },
    };
    let identified = rows.first().and_then(|row| {
        Some(Identified {
            system_identifier: SystemId(parsed(row, "id")?),
            in_recovery: flag(row, "in_recovery"),
            guarded: flag(row, "guarded"),
        })
    });
    identified.map_or_else(
        || Identity::Unknown {
            failure: Failure::Other {
                detail: "the answer is not understood".to_owned(),
            },
        },
        Identity::Server,
    )
}
