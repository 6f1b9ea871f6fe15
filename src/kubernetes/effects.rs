//! The order of the effects: Service first (it is what clients wait for), then each StatefulSet's env, then labels.

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Client;

use super::{pod_labels, service, statefulset};
use crate::core::types::{MemberName, Term};

/// StatefulSets and pods that are worked on at once.
const AT_ONCE: usize = 4;

/// What Kubernetes shall show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Where all objects are.
    pub namespace: String,
    /// The term on whose behalf this is wanted.
    pub term: Term,
    /// Who takes writes.
    pub primary: MemberName,
    /// Clients are led to it; else the Service leads nowhere.
    pub open: bool,
    /// All members, the primary too.
    pub members: Vec<MemberName>,
    /// Standbys that nobody shall read from (behind, diverged, on another history): their pods are labelled `lagging`.
    pub not_for_reading: Vec<MemberName>,
    /// Name of the read-write Service.
    pub service: String,
    /// Whether env and update strategy of the StatefulSets are pgbaton's to change.
    pub patch_env: bool,
}

/// One thing that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The Service's selector.
    Service {
        /// Service.
        service: String,
        /// Selector before, as `app=postgres-1`.
        from: String,
        /// Selector now.
        to: String,
    },
    /// The Service's annotation or `publishNotReadyAddresses`, the selector being right.
    ServiceDetails {
        /// Service.
        service: String,
    },
    /// A StatefulSet's update strategy became `OnDelete`.
    UpdateStrategy {
        /// Its member.
        member: MemberName,
        /// Strategy before.
        from: String,
    },
    /// A StatefulSet's env.
    Env {
        /// Its member.
        member: MemberName,
        /// `STANDBY_MODE` now.
        standby_mode: &'static str,
    },
    /// A StatefulSet's annotation, the env being right.
    EnvTerm {
        /// Its member.
        member: MemberName,
    },
    /// A pod's role label.
    Label {
        /// Its member.
        member: MemberName,
        /// The label's value now.
        role: &'static str,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { service, from, to } => {
                write!(f, "Service {service}: selector {from} -> {to}")
            }
            Self::ServiceDetails { service } => {
                write!(
                    f,
                    "Service {service}: term and publishNotReadyAddresses put right"
                )
            }
            Self::UpdateStrategy { member, from } => {
                write!(f, "StatefulSet {member}: updateStrategy {from} -> OnDelete")
            }
            Self::Env { member, standby_mode } => {
                write!(f, "StatefulSet {member}: STANDBY_MODE={standby_mode}")
            }
            Self::EnvTerm { member } => write!(f, "StatefulSet {member}: term put right"),
            Self::Label { member, role } => write!(f, "Pod {member}-0: pgbaton.dev/role={role}"),
        }
    }
}

/// Why an object could not be put right. Nothing else was left out because of it, but for `Outranked`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EffectError {
    /// 404.
    #[error(
        "{object} does not exist: left out; apply its manifest (deploy/), or remove the member if it is gone for good"
    )]
    Missing {
        /// Kind and name.
        object: String,
    },
    /// 403.
    #[error(
        "the right to {verb} {object} is missing: left out; grant it to the service account with the Role of deploy/ ({message})"
    )]
    Forbidden {
        /// Kind and name.
        object: String,
        /// The verb that was refused.
        verb: &'static str,
        /// The API server's words.
        message: String,
    },
    /// A later term was here.
    #[error(
        "{object} carries term {found}, above ours ({ours}): left as it is; a later leader has taken over"
    )]
    Outranked {
        /// Kind and name.
        object: String,
        /// Its term.
        found: Term,
        /// Ours.
        ours: Term,
    },
    /// Others changed it again and again.
    #[error("{object} was changed by somebody else at each try: left for the next round")]
    Conflict {
        /// Kind and name.
        object: String,
    },
    /// No answer in time: it may have been done or not; the next round reads it.
    #[error("no answer to {verb} {object} within {after:?}: whether it was done is read in the next round")]
    TimedOut {
        /// Kind and name.
        object: String,
        /// What was asked for.
        verb: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// Any other refusal.
    #[error("the API server refused to {verb} {object} ({code}): {message}")]
    Rejected {
        /// Kind and name.
        object: String,
        /// What was asked for.
        verb: &'static str,
        /// HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// The API server was not reached.
    #[error("{object}: the API server was not reached: {reason}")]
    Unreachable {
        /// Kind and name.
        object: String,
        /// What went wrong.
        reason: String,
    },
    /// The patch was taken and the object is not as asked for.
    #[error("{object}: {what}; pgbaton tries again in the next round, see to it by hand")]
    NotApplied {
        /// Kind and name.
        object: String,
        /// What is still wrong.
        what: String,
    },
    /// Two pods of one member, or more.
    #[error(
        "{object} has {replicas} replicas: a member is one pod, further ones take part in nothing and hold volumes; its env is kept all the \
         same. Scale it to 1 (kubectl scale {object} --replicas=1), and add a member as a StatefulSet of its own"
    )]
    Replicas {
        /// Kind and name.
        object: String,
        /// As in its spec.
        replicas: i32,
    },
    /// Neither variable stands in any container.
    #[error(
        "{object} carries neither STANDBY_MODE nor PRIMARY_SERVER_ADDRESS in any container: nothing to patch; add them as deploy/ does, or set PGBATON_PATCH_ENV=off"
    )]
    NoVariables {
        /// Kind and name.
        object: String,
    },
}

impl EffectError {
    /// A later leader has taken over: this one has nothing more to do here.
    #[must_use]
    pub fn is_outranked(&self) -> bool {
        matches!(self, Self::Outranked { .. })
    }

    /// May be gone with the next try; the others need a person, or a later leader has taken over.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::TimedOut { .. } | Self::Unreachable { .. } => true,
            Self::Rejected { code, .. } => *code == 429 || *code >= 500,
            Self::Missing { .. }
            | Self::Forbidden { .. }
            | Self::Outranked { .. }
            | Self::NotApplied { .. }
            | Self::Replicas { .. }
            | Self::NoVariables { .. } => false,
        }
    }
}

/// What a round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EffectsReport {
    /// What was changed, in order. Empty when all was right.
    pub changes: Vec<Change>,
    /// What could not be put right.
    pub warnings: Vec<EffectError>,
    /// Members whose pod does not exist at the moment; its label follows when it is back.
    pub pods_absent: Vec<MemberName>,
}

impl EffectsReport {
    /// A later leader has taken over.
    #[must_use]
    pub fn is_outranked(&self) -> bool {
        self.warnings.iter().any(EffectError::is_outranked)
    }

    /// Everything that exists is as wanted.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.warnings.is_empty()
    }

    fn take(&mut self, outcome: Result<Vec<Change>, EffectError>) {
        match outcome {
            Ok(changes) => self.changes.extend(changes),
            Err(error) => self.warnings.push(error),
        }
    }
}

/// Leads clients to the primary. For a takeover: by itself, before everything else. One GET, and one PATCH when something is wrong.
///
/// # Errors
/// When the Service could not be put right.
pub async fn point_service(client: &Client, desired: &Desired) -> Result<Option<Change>, EffectError> {
    service::point(client, desired).await
}

/// Env of the StatefulSets and labels of the pods: what may follow after `point_service`.
pub async fn reconcile_members(client: &Client, desired: &Desired) -> EffectsReport {
    let mut report = EffectsReport::default();
    if desired.patch_env {
        let work: Vec<_> = desired
            .members
            .iter()
            .map(|member| statefulset::set_role(client, desired, member))
            .collect();
        let outcomes: Vec<_> = futures_util::stream::iter(work).buffered(AT_ONCE).collect().await;
        for (changes, error) in outcomes {
            report.changes.extend(changes);
            report.warnings.extend(error);
        }
    }
    if report.is_outranked() {
        return report;
    }
    let labels = label_pods(client, desired, &desired.members).await;
    report.changes.extend(labels.changes);
    report.warnings.extend(labels.warnings);
    report.pods_absent = labels.pods_absent;
    report
}

/// The labels of these members' pods alone: for pods that were not there before.
pub async fn label_pods(client: &Client, desired: &Desired, members: &[MemberName]) -> EffectsReport {
    let mut report = EffectsReport::default();
    let work: Vec<_> = members
        .iter()
        .map(|member| pod_labels::set_role(client, desired, member))
        .collect();
    let outcomes: Vec<_> = futures_util::stream::iter(work).buffered(AT_ONCE).collect().await;
    for (member, outcome) in members.iter().zip(outcomes) {
        match outcome {
            Err(EffectError::Missing { .. }) => report.pods_absent.push(member.clone()),
            other => report.take(other.map(|change| change.into_iter().collect())),
        }
    }
    report
}

/// Makes Kubernetes show what is desired. To be called on change and every minute (drift is put right then): a round that finds all
/// right costs one GET an object and no write. Ends early only when a later leader has taken over.
pub async fn reconcile(client: &Client, desired: &Desired) -> EffectsReport {
    let mut report = EffectsReport::default();
    report.take(
        point_service(client, desired)
            .await
            .map(|change| change.into_iter().collect()),
    );
    if report.is_outranked() {
        return report;
    }
    let members = reconcile_members(client, desired).await;
    report.changes.extend(members.changes);
    report.warnings.extend(members.warnings);
    report.pods_absent.extend(members.pods_absent);
    report
}
