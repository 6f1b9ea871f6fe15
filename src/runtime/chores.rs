//! What the leader keeps in order around it: the Service and the StatefulSets, the replication role and the slots. Driven by
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
use crate::core::types::{MemberName, Term};
use crate::kubernetes::effects::{Desired, point_service, reconcile_members};
use crate::postgres::role::RoleKeeper;
use crate::postgres::{Session, leader};

/// Drift is put right this often.
const EFFECTS_EVERY: Duration = Duration::from_secs(60);
/// A missing object or right is a person's to mend: looked at this often.
const EFFECTS_MENDED: Duration = Duration::from_secs(10);
/// After a failure.
const EFFECTS_RETRY: Duration = Duration::from_millis(500);
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

/// What Kubernetes shall show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectsWish {
    /// Whose term.
    pub term: Term,
    /// Where writes go.
    pub primary: MemberName,
    /// All members.
    pub members: Vec<MemberName>,
    /// Clients are led to the primary; else nowhere.
    pub open: bool,
}

/// What the primary shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationWish {
    /// Whoever streams from it; none: it is a standby, and keeps no slot.
    pub standbys: Option<Vec<MemberName>>,
    /// The archiver, when it fails.
    pub failing_archive: Option<Archive>,
}

/// Keeps Service, env and labels.
pub async fn effects(
    settings: Arc<SidecarSettings>,
    client: kube::Client,
    mut wish: watch::Receiver<Option<EffectsWish>>,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        let Some(wanted) = wish.borrow_and_update().clone() else {
            if wish.changed().await.is_err() {
                return;
            }
            continue;
        };
        let desired = Desired {
            namespace: settings.namespace.clone(),
            term: wanted.term,
            primary: wanted.primary.clone(),
            open: wanted.open,
            members: wanted.members.clone(),
            not_for_reading: Vec::new(),
            service: settings.service.clone(),
            patch_env: settings.patch_env,
        };
        let mut warnings: Vec<String> = Vec::new();
        let mut again_soon = false;
        match point_service(&client, &desired).await {
            Ok(change) => {
                if let Some(change) = change {
                    tracing::info!(%change, "changed");
                }
                let leads = wanted.open.then(|| wanted.primary.clone());
                send(&inputs, Input::ServicePoints(wanted.term, leads)).await;
            }
            Err(error) => {
                again_soon |= error.is_transient();
                warnings.push(error.to_string());
            }
        }
        let report = reconcile_members(&client, &desired).await;
        for change in &report.changes {
            tracing::info!(%change, "changed");
        }
        warnings.extend(report.warnings.iter().map(ToString::to_string));
        again_soon |= report
            .warnings
            .iter()
            .any(crate::kubernetes::EffectError::is_transient);
        let pause = match (warnings.is_empty(), again_soon) {
            (true, _) => EFFECTS_EVERY,
            (false, true) => EFFECTS_RETRY,
            (false, false) => EFFECTS_MENDED,
        };
        send(&inputs, Input::Warning("kubernetes", warnings.join("; "))).await;
        if pause_or_change(pause, &mut wish).await.is_err() {
            return;
        }
    }
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
            if wish.changed().await.is_err() {
                return;
            }
            continue;
        };
        let (pause, warning) = match keep(&settings, &mut roles, &wanted).await {
            Ok(warning) => (REPLICATION_EVERY, warning),
            Err(error) => (REPLICATION_RETRY, error),
        };
        send(&inputs, Input::Warning("replication", warning)).await;
        if pause_or_change(pause, &mut wish).await.is_err() {
            return;
        }
    }
}

/// A warning for people, empty when all is well.
async fn keep(
    settings: &SidecarSettings,
    roles: &mut RoleKeeper,
    wanted: &ReplicationWish,
) -> Result<String, String> {
    let text = |e: crate::postgres::PgError| e.to_string();
    let mut session = Session::open(&settings.server, &settings.superuser, SQL_BUDGET, SQL_BUDGET)
        .await
        .map_err(text)?;
    // Slots first: standbys wait for them after a promotion.
    let Some(standbys) = &wanted.standbys else {
        // A former primary's slots would keep WAL for nobody.
        leader::ensure_slots(&mut session, &settings.core.me, &[], SQL_BUDGET)
            .await
            .map_err(text)?;
        return Ok(String::new());
    };
    leader::ensure_slots(&mut session, &settings.core.me, standbys, SQL_BUDGET)
        .await
        .map_err(text)?;
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
    let Some(archive) = &wanted.failing_archive else {
        return Ok(String::new());
    };
    match leader::keep_archive_directory(&mut session, archive, SQL_BUDGET)
        .await
        .map_err(text)?
    {
        leader::ArchiveKept::Fine => Ok(String::new()),
        leader::ArchiveKept::Created { directory } => {
            tracing::info!(directory, "made the archive directory, which was missing here");
            Ok(String::new())
        }
        leader::ArchiveKept::Failing { advice } => Ok(advice),
    }
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
