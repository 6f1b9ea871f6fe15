//! Orders to the guard: what the core wants, with the secrets that it does not know.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use super::brain::Input;
use super::guard_link::GuardLink;
use super::settings::SidecarSettings;
use crate::core::action::GuardOrder;
use crate::core::types::{Address, MemberName, SystemId, Timeline};
use crate::guard::protocol::{Answer, Order, Refusal, Secret, Stamp, Upstream};
use crate::postgres::{Credentials, ServerAt, Session, leader, source};

/// Longest time for the source of a copy to answer, and for its checkpoint.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(5);
const SOURCE_CHECKPOINT: Duration = Duration::from_secs(60);

/// What orders need beside the core's words.
#[derive(Debug, Clone)]
pub struct Secrets {
    me: MemberName,
    replication_user: String,
    replication_password: Secret,
    superuser: Credentials,
    replace_data: bool,
}

impl Secrets {
    /// From the settings.
    #[must_use]
    pub fn of(settings: &SidecarSettings) -> Self {
        Self {
            me: settings.core.me.clone(),
            replication_user: settings.replication_user.clone(),
            replication_password: settings.replication_password.clone(),
            superuser: settings.superuser.clone(),
            replace_data: settings.replace_data,
        }
    }

    fn replication(
        &self,
        host: &MemberName,
        at: &Address,
        application_name: String,
    ) -> Result<Upstream, String> {
        let (user, password) = (self.replication_user.clone(), self.replication_password.clone());
        Ok(Upstream {
            host: host.clone(),
            hostaddr: ip(at)?,
            port: at.postgres_port,
            user,
            password,
            application_name,
        })
    }

    fn superuser(
        &self,
        host: &MemberName,
        at: &Address,
        application_name: String,
    ) -> Result<Upstream, String> {
        let user = self.superuser.user.clone();
        let password = self
            .superuser
            .password
            .clone()
            .unwrap_or_else(|| Secret(String::new()));
        Ok(Upstream {
            host: host.clone(),
            hostaddr: ip(at)?,
            port: at.postgres_port,
            user,
            password,
            application_name,
        })
    }
}

fn ip(address: &Address) -> Result<IpAddr, String> {
    super::settings::checked_ip(&address.ip)
}

/// True for orders that are accepted at once and run on.
#[must_use]
pub fn is_operation(order: &GuardOrder) -> bool {
    matches!(
        order,
        GuardOrder::Clone { .. } | GuardOrder::Rewind { .. } | GuardOrder::Initialise
    )
}

/// How long the guard may take to answer.
fn budget(order: &GuardOrder) -> Duration {
    Duration::from_secs(match order {
        GuardOrder::Initialise => 600,
        GuardOrder::Stop { .. } | GuardOrder::Pledge { .. } => 60,
        GuardOrder::Promote { .. } => 120,
        _ => 30,
    })
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDone {
    /// The moment was wrong: another order runs, or the data changed since the order was decided.
    Busy(String),
    /// It was refused or failed, or its outcome is not known.
    Failed(String),
}

/// Gives one order.
///
/// # Errors
/// For people: refused, failed, or not known.
pub async fn give(
    link: &GuardLink,
    order: &GuardOrder,
    stamp: Stamp,
    secrets: &Secrets,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), NotDone> {
    let full = complete(order, secrets).await.map_err(NotDone::Failed)?;
    match link
        .ask(full, Some(stamp), budget(order))
        .await
        .map_err(NotDone::Failed)?
    {
        Answer::Ok { status } => {
            // The status comes before the outcome, so that the next decision sees both.
            let asked_at = crate::core::types::Millis(0);
            let _ = inputs
                .send(Input::Told(Box::new(crate::core::record::Evidence {
                    value: *status,
                    asked_at,
                })))
                .await;
            Ok(())
        }
        Answer::Refused {
            reason,
            cause: Refusal::Busy | Refusal::Foreign | Refusal::OldSequence,
            ..
        } => Err(NotDone::Busy(reason)),
        Answer::Refused { reason, cause, .. } => {
            Err(NotDone::Failed(format!("refused ({cause:?}): {reason}")))
        }
        Answer::Failed { reason, .. } => Err(NotDone::Failed(reason)),
    }
}

async fn complete(order: &GuardOrder, secrets: &Secrets) -> Result<Order, String> {
    Ok(match order.clone() {
        GuardOrder::Initialise => Order::Initialise,
        GuardOrder::StartPrimary { names } => Order::StartPrimary {
            synchronous_standby_names: names,
        },
        GuardOrder::Follow {
            upstream,
            address,
            standby_name,
            slot,
            names,
        } => Order::Follow {
            upstream: secrets.replication(&upstream, &address, standby_name)?,
            slot,
            synchronous_standby_names: names,
        },
        GuardOrder::StandAlone { names } => Order::StandAlone {
            synchronous_standby_names: names,
        },
        GuardOrder::Pledge { hint } => Order::Pledge { hint },
        GuardOrder::SetNames { names } => Order::SetNames {
            synchronous_standby_names: names,
        },
        GuardOrder::Promote { timeline } => Order::Promote { timeline },
        GuardOrder::Stop { fast, hint } => Order::Stop {
            fast_ms: fast.0,
            hint,
        },
        GuardOrder::NoteTerm => Order::NoteTerm,
        GuardOrder::Adopt => Order::Adopt,
        GuardOrder::Clone {
            upstream,
            address,
            system_identifier,
            timeline,
        } => {
            let look = look_at_source(&address, secrets, system_identifier, timeline).await?;
            let name = format!("pgbaton_clone_{}", secrets.me.slot());
            Order::Clone {
                upstream: secrets.replication(&upstream, &address, name)?,
                system_identifier,
                timeline,
                bytes: look.bytes,
                replace: secrets.replace_data,
                source_major: look.major,
                notes: look.notes,
            }
        }
        GuardOrder::Rewind {
            upstream,
            address,
            timeline,
        } => {
            let source = prepare_source(&address, secrets, timeline).await?;
            let name = format!("pgbaton_rewind_{}", secrets.me.slot());
            Order::Rewind {
                upstream: secrets.superuser(&upstream, &address, name)?,
                timeline,
                source_major: Some(source.major()),
            }
        }
    })
}

/// What is known of a clone's source before the clone.
struct Look {
    bytes: Option<u64>,
    major: Option<u32>,
    notes: Vec<String>,
}

/// Looks at a clone's source. What cannot be learned is left open: the guard judges the size when the source tells it, and the version
/// by the copy. A source that is not what is wanted is refused.
async fn look_at_source(
    address: &Address,
    secrets: &Secrets,
    system_identifier: SystemId,
    timeline: Timeline,
) -> Result<Look, String> {
    let at = server_at(address);
    let (mut session, found) = match open_source(&at, secrets).await {
        Ok(opened) => opened,
        Err(why) => {
            tracing::warn!(why, "nothing is known of the clone's source before the clone");
            return Ok(Look {
                bytes: None,
                major: None,
                notes: Vec::new(),
            });
        }
    };
    found
        .check(system_identifier, timeline)
        .map_err(|why| format!("{at} cannot be cloned: {why}"))?;
    let notes = found.warnings();
    for note in &notes {
        tracing::warn!(source = %at, "{note}");
    }
    let bytes = source::read_size(&mut session, SOURCE_TIMEOUT).await;
    if let Err(why) = &bytes {
        tracing::warn!(%why, "the size of the clone's source is not known yet: the guard judges it when the copy begins");
    }
    Ok(Look {
        bytes: bytes.ok(),
        major: Some(found.major()),
        notes,
    })
}

/// Makes the source of a rewind ready, and tells what it is.
async fn prepare_source(
    address: &Address,
    secrets: &Secrets,
    timeline: Timeline,
) -> Result<source::Source, String> {
    let at = server_at(address);
    let (mut session, found) = open_source(&at, secrets).await?;
    found
        .check(found.system_identifier, timeline)
        .map_err(|why| format!("{at} cannot be the source of a rewind: {why}"))?;
    if !found.rewindable {
        return Err(format!(
            "{at} has neither data checksums nor wal_log_hints: pg_rewind cannot be used"
        ));
    }
    // Without it pg_rewind may see the source's old timeline and do nothing (mechanics: promotion and pg_control).
    leader::checkpoint(&mut session, SOURCE_CHECKPOINT)
        .await
        .map_err(|e| e.to_string())?;
    Ok(found)
}

fn server_at(address: &Address) -> ServerAt {
    ServerAt {
        host: address.ip.clone(),
        port: address.postgres_port,
    }
}

async fn open_source(at: &ServerAt, secrets: &Secrets) -> Result<(Session, source::Source), String> {
    let text = |e: crate::postgres::PgError| e.to_string();
    let mut session = Session::open(at, &secrets.superuser, SOURCE_CHECKPOINT, SOURCE_TIMEOUT)
        .await
        .map_err(text)?;
    let found = source::read_source(&mut session, SOURCE_TIMEOUT)
        .await
        .map_err(text)?;
    Ok((session, found))
}
