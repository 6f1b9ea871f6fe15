//! What the leader keeps in order on its server: the replication role, the slots, the archive directory; and answers to people. Driven by
//! wishes, done on change and again now and then, never on the way of a renewal.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::brain::Input;
use super::hands::send;
use super::settings::SidecarSettings;
use crate::core::action::OrderState;
use crate::core::orders::{ORDER_RESULT_ANNOTATION, OrderId, OrderResult, OrderState as Answered};
use crate::core::probe::Archive;
use crate::core::types::MemberName;
use crate::postgres::role::RoleKeeper;
use crate::postgres::{Session, leader};

/// Roles and slots are looked at this often.
const REPLICATION_EVERY: Duration = Duration::from_secs(10);
/// After a failure.
const REPLICATION_RETRY: Duration = Duration::from_millis(500);
/// Longest time for one statement of these.
const SQL_BUDGET: Duration = Duration::from_secs(3);
/// Longest time for an answer to a person.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Tries for it.
const ANSWER_TRIES: u32 = 5;

/// What the primary shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationWish {
    /// Whoever streams from it; none: it is a standby, and keeps no slot.
    pub standbys: Option<Vec<MemberName>>,
    /// The archiver, when it fails.
    pub failing_archive: Option<Archive>,
}

/// Waits; Err: the loop is gone.
async fn pause_or_change<T>(pause: Duration, wish: &mut watch::Receiver<T>) -> Result<(), ()> {
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        changed = wish.changed() => changed.map_err(|_| ()),
    }
}

/// Keeps the replication role and its password, the slots and the archive directory on the primary.
pub async fn replication(
    settings: Arc<SidecarSettings>,
    mut wish: watch::Receiver<Option<ReplicationWish>>,
    inputs: mpsc::Sender<Input>,
) {
    let mut roles = RoleKeeper::default();
    loop {
        let Some(wanted) = wish.borrow_and_update().clone() else {
            for source in ["replication", "archive"] {
                send(&inputs, Input::Warning(source, String::new())).await;
            }
            if wish.changed().await.is_err() {
                return;
            }
            continue;
        };
        let (pause, kept) = match keep(&settings, &mut roles, &wanted).await {
            Ok(kept) => (REPLICATION_EVERY, kept),
            Err(error) => (
                REPLICATION_RETRY,
                Kept {
                    replication: error,
                    archive: None,
                },
            ),
        };
        send(&inputs, Input::Warning("replication", kept.replication)).await;
        if let Some(archive) = kept.archive {
            send(&inputs, Input::Warning("archive", archive)).await;
        }
        if pause_or_change(pause, &mut wish).await.is_err() {
            return;
        }
    }
}

/// Warnings for people, empty when all is well.
struct Kept {
    /// Of role and slots.
    replication: String,
    /// Of the archive; none: it was not looked at.
    archive: Option<String>,
}

async fn keep(
    settings: &SidecarSettings,
    roles: &mut RoleKeeper,
    wanted: &ReplicationWish,
) -> Result<Kept, String> {
    let text = |e: crate::postgres::PgError| e.to_string();
    let mut session = Session::open(&settings.server, &settings.superuser, SQL_BUDGET, SQL_BUDGET)
        .await
        .map_err(text)?;
    // Slots first: standbys wait for them after a promotion. A former primary's slots would keep WAL for nobody.
    let others = wanted.standbys.as_deref().unwrap_or_default();
    let slots = leader::ensure_slots(&mut session, &settings.core.me, others, SQL_BUDGET)
        .await
        .map_err(text)?;
    let replication = slots.warnings.join("; ");
    let quiet = Some(String::new());
    if wanted.standbys.is_none() {
        return Ok(Kept {
            replication,
            archive: quiet,
        });
    }
    let change = roles
        .ensure(
            &mut session,
            &settings.replication_user,
            &settings.replication_password,
            SQL_BUDGET,
        )
        .await
        .map_err(text)?;
    if change != crate::postgres::role::RoleChange::Unchanged {
        tracing::info!(
            user = settings.replication_user,
            ?change,
            "kept the replication role as the Secret says"
        );
    }
    let archive = match &wanted.failing_archive {
        None => quiet,
        Some(archive) => Some(keep_archive(&mut session, archive).await.map_err(text)?),
    };
    Ok(Kept { replication, archive })
}

/// Advice for people, empty when all is well.
async fn keep_archive(session: &mut Session, archive: &Archive) -> Result<String, crate::postgres::PgError> {
    Ok(
        match leader::keep_archive_directory(session, archive, SQL_BUDGET).await? {
            leader::ArchiveKept::Fine => String::new(),
            leader::ArchiveKept::Created { directory } => {
                tracing::info!(directory, "made the archive directory, which was missing here");
                String::new()
            }
            leader::ArchiveKept::Mended { how } => {
                tracing::warn!(how, "put the archive right: the archiver goes on");
                String::new()
            }
            leader::ArchiveKept::Failing { advice } => advice,
        },
    )
}

/// Writes the answers to people's orders beside them.
pub async fn answers(
    client: kube::Client,
    settings: Arc<SidecarSettings>,
    mut queue: mpsc::Receiver<(String, OrderState, String)>,
    inputs: mpsc::Sender<Input>,
) {
    let api: kube::Api<k8s_openapi::api::coordination::v1::Lease> =
        kube::Api::namespaced(client, &settings.namespace);
    let mut last: Option<String> = None;
    while let Some((id, state, text)) = queue.recv().await {
        let Ok(id) = id.parse::<OrderId>() else { continue };
        let state = match state {
            OrderState::Running => Answered::Running,
            OrderState::Done => Answered::Done,
            OrderState::Refused => Answered::Refused,
        };
        let answer = OrderResult {
            id: id.clone(),
            state,
            text,
        }
        .render();
        if last.as_ref() == Some(&answer) {
            continue;
        }
        let patch = serde_json::json!({ "metadata": { "annotations": { ORDER_RESULT_ANNOTATION: answer } } });
        for _ in 0..ANSWER_TRIES {
            let params = kube::api::PatchParams::default();
            let merge = kube::api::Patch::Merge(&patch);
            let sent =
                tokio::time::timeout(ANSWER_TIMEOUT, api.patch(&settings.lease, &params, &merge)).await;
            match sent {
                Ok(Ok(_)) => {
                    last = Some(answer);
                    send(&inputs, Input::Answered(id.as_str().to_owned())).await;
                    break;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the answer to an order could not be written"),
                Err(_) => tracing::warn!("the answer to an order could not be written in time"),
            }
        }
    }
}
