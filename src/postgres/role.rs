//! The replication role: exists, may replicate, has the Secret's password (rotation works).

use std::time::Duration;

use super::scram;
use super::session::{PgError, Session};
use super::sql::{column, flag, identifier, literal};
use crate::core::probe::Failure;
use crate::guard::protocol::Secret;

/// What keeping the role did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleChange {
    /// It was as it should be.
    Unchanged,
    /// It did not exist.
    Created,
    /// It could not log in or replicate, or had another password.
    Altered,
}

/// Remembers which stored password was found good, so that the costly comparison is done once for each change.
#[derive(Debug, Default, Clone)]
pub struct RoleKeeper {
    good: Option<(String, Secret, Secret)>,
}

impl RoleKeeper {
    /// Makes role `user` exist with LOGIN, REPLICATION and this password, on a primary, within `budget`. The password itself is
    /// not sent: a SCRAM-SHA-256 verifier is.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn ensure(
        &mut self,
        session: &mut Session,
        user: &str,
        password: &Secret,
        budget: Duration,
    ) -> Result<RoleChange, PgError> {
        let doing = format!("looking up the replication role {user}");
        let found = session
            .run(
                &doing,
                &format!(
                    "SELECT rolcanlogin, rolreplication, rolpassword FROM pg_authid WHERE rolname = {}",
                    literal(user)
                ),
                budget,
            )
            .await?;
        let role = found.first();
        let stored = role.and_then(|row| column(row, "rolpassword"));
        let attributes = role.is_some_and(|row| flag(row, "rolcanlogin") && flag(row, "rolreplication"));
        if attributes && stored.is_some_and(|stored| self.same(user, password, stored)) {
            return Ok(RoleChange::Unchanged);
        }
        let (verb, change) = match role {
            Some(_) => ("ALTER", RoleChange::Altered),
            None => ("CREATE", RoleChange::Created),
        };
        let doing = format!("{verb} ROLE for the replication role {user}");
        let verifier = scram::verifier(&password.0).map_err(|e| {
            session.error(
                &doing,
                Failure::Other {
                    detail: format!("the system gave no random bytes: {e}"),
                },
            )
        })?;
        // Round trips of their own: a message is logged by the settings before it, its duration by those after it.
        let quiet = "SET log_statement = 'none'; SET log_min_duration_statement = -1; \
                     SET log_min_duration_sample = -1; SET log_min_error_statement = 'panic'";
        let usual = "RESET log_statement; RESET log_min_duration_statement; RESET log_min_duration_sample; \
                     RESET log_min_error_statement";
        session.run(&doing, quiet, budget).await?;
        let order = format!(
            "{verb} ROLE {} LOGIN REPLICATION PASSWORD {}",
            identifier(user),
            literal(&verifier)
        );
        let outcome = session.run(&doing, &order, budget).await;
        if session.usable() {
            session.run(&doing, usual, budget).await?;
        }
        outcome?;
        self.good = Some((user.to_owned(), password.clone(), Secret(verifier)));
        Ok(change)
    }

    fn same(&mut self, user: &str, password: &Secret, stored: &str) -> bool {
        let known = self
            .good
            .as_ref()
            .is_some_and(|(u, p, s)| u == user && p == password && s.0 == stored);
        if !known {
            if !scram::matches(stored, &password.0) {
                return false;
            }
            self.good = Some((user.to_owned(), password.clone(), Secret(stored.to_owned())));
        }
        true
    }
}
