//! One version of the Lease as it was seen.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::jiff::Timestamp;

use super::holder::HolderId;
use super::layer::ClaimEvidence;
use crate::core::record::{BadRecord, Record};
use crate::core::types::{Millis, Term};

/// The annotation that holds the record.
pub const RECORD_ANNOTATION: &str = "pgbaton.dev/cluster-state";
/// The annotation of a shipped Lease that is the record until the first swap writes the record's own. `kubectl apply` and GitOps put back
/// what stands in a manifest, so the record itself must stand in none.
pub const INITIAL_ANNOTATION: &str = "pgbaton.dev/initial-state";
/// What the names of all annotations of pgbaton begin with.
pub const ANNOTATION_PREFIX: &str = "pgbaton.dev/";

/// The record as written: its own annotation, or the initial one of a Lease that nobody ever held. Once held, a Lease without its own is
/// damaged: every swap writes it.
#[must_use]
pub fn record_text<'a>(spec: &LeaseSpec, annotations: &'a BTreeMap<String, String>) -> Option<&'a String> {
    let is_new = spec.lease_transitions.unwrap_or(0) == 0
        && spec.holder_identity.as_deref().unwrap_or_default().is_empty();
    annotations
        .get(RECORD_ANNOTATION)
        .or_else(|| annotations.get(INITIAL_ANNOTATION).filter(|_| is_new))
}

/// What the record's annotation holds. Anything but `Good` is a damaged Lease (DESIGN.md section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordState {
    /// A record.
    Good(Box<Record>),
    /// There is no such annotation, and no initial one.
    Missing,
    /// There is one, and it is no record.
    Unreadable(BadRecord),
}

impl RecordState {
    /// The record, if it is one.
    #[must_use]
    pub fn good(&self) -> Option<&Record> {
        match self {
            Self::Good(record) => Some(record),
            Self::Missing | Self::Unreadable(_) => None,
        }
    }
}

/// One version of the Lease. All its moments are on the [`super::LiveClock`].
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseSeen {
    /// `metadata.resourceVersion`: what a swap based on this version is compared with.
    pub resource_version: String,
    /// `metadata.uid`: another one means that the Lease was deleted and created again.
    pub uid: String,
    /// `spec.holderIdentity` as written; none when absent or empty.
    pub holder: Option<String>,
    /// `spec.leaseTransitions`; zero when absent.
    pub transitions: Term,
    /// `spec.leaseDurationSeconds`; none when absent or not positive.
    pub duration: Option<Duration>,
    /// `spec.renewTime` by the holder's wall clock. For people only; nothing is decided by it.
    pub renewed_at: Option<Timestamp>,
    /// The record.
    pub record: RecordState,
    /// The record's annotation as written, or the initial one's.
    pub record_text: Option<String>,
    /// All other annotations whose name begins with [`ANNOTATION_PREFIX`]: orders by people and answers to them.
    pub annotations: BTreeMap<String, String>,
    /// When this process first saw the present `spec`: never earlier than it was written.
    pub spec_changed_at: Millis,
    /// When this version was last known to be the newest: when it was asked for, or when the watch brought it.
    pub seen_at: Millis,
    spec: LeaseSpec,
}

impl LeaseSeen {
    /// What `lease` says. The two moments are the fields of the same name.
    #[must_use]
    pub fn new(lease: Lease, spec_changed_at: Millis, seen_at: Millis) -> Self {
        let spec = lease.spec.unwrap_or_default();
        let mut annotations = lease.metadata.annotations.unwrap_or_default();
        let record_text = record_text(&spec, &annotations).cloned();
        annotations.remove(RECORD_ANNOTATION);
        annotations.remove(INITIAL_ANNOTATION);
        annotations.retain(|name, _| name.starts_with(ANNOTATION_PREFIX));
        let record = match record_text.as_deref().map(Record::parse) {
            None => RecordState::Missing,
            Some(Ok(record)) => RecordState::Good(Box::new(record)),
            Some(Err(bad)) => RecordState::Unreadable(bad),
        };
        let seconds = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .filter(|s| *s > 0);
        Self {
            resource_version: lease.metadata.resource_version.unwrap_or_default(),
            uid: lease.metadata.uid.unwrap_or_default(),
            holder: spec.holder_identity.clone().filter(|h| !h.is_empty()),
            // The API server refuses negative ones.
            transitions: Term(
                spec.lease_transitions
                    .and_then(|t| u64::try_from(t).ok())
                    .unwrap_or(0),
            ),
            duration: seconds.map(Duration::from_secs),
            renewed_at: spec.renew_time.as_ref().map(|t| t.0),
            record,
            record_text,
            annotations,
            spec_changed_at,
            seen_at,
            spec,
        }
    }

    /// The holder as pgbaton writes it; none when nobody holds the Lease or the identity is not one of pgbaton's.
    #[must_use]
    pub fn holder_id(&self) -> Option<HolderId> {
        self.holder.as_deref()?.parse().ok()
    }

    /// Whether `me` holds it.
    #[must_use]
    pub fn is_held_by(&self, me: &HolderId) -> bool {
        self.holder.as_deref() == Some(me.to_string().as_str())
    }

    /// How long this process has seen no change of `spec`; `now` is on the live clock.
    #[must_use]
    pub fn spec_unchanged_for(&self, now: Millis) -> Millis {
        now.since(self.spec_changed_at)
    }

    /// Whether its last holder gave it up on purpose: nobody holds it and the record says `released: <this term>` (duty d).
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.holder.is_none()
            && self
                .record
                .good()
                .is_some_and(|r| r.released == Some(self.transitions))
    }

    /// How long `spec` must stay unchanged until the Lease has expired: the holder's duration or `configured`, the longer
    /// one. A release shortens the holder's to 1 s, which counts only when the record confirms the release.
    #[must_use]
    pub fn expires_after(&self, configured: Duration) -> Duration {
        match self.duration {
            Some(duration) if self.is_released() => duration,
            Some(duration) => duration.max(configured),
            None => configured,
        }
    }

    /// Whether the Lease has expired for a process whose live clock shows `now` (duty c).
    #[must_use]
    pub fn has_expired(&self, now: Millis, configured: Duration) -> bool {
        u128::from(self.spec_unchanged_for(now).0) >= self.expires_after(configured).as_millis()
    }

    /// On what ground the Lease may be claimed at `now` (live clock) without the evidence that an early claim needs; none
    /// while it is held. It does not look at who holds it, and a damaged Lease gives no ground.
    #[must_use]
    pub fn free(&self, now: Millis, configured: Duration) -> Option<ClaimEvidence> {
        let record = self.record.good()?;
        if self.is_released() {
            Some(ClaimEvidence::Released)
        } else if self.holder.is_none() && self.transitions == Term(0) && record.is_never_initialised() {
            Some(ClaimEvidence::NeverHeld)
        } else if self.has_expired(now, configured) {
            Some(ClaimEvidence::Expired)
        } else {
            None
        }
    }

    /// Whether `spec` is the same, word for word, in the same life of the object.
    pub(super) fn same_spec(&self, other: &Self) -> bool {
        self.uid == other.uid && self.spec == other.spec
    }
}
