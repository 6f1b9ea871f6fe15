//! Changes of the Lease: each one compare-and-swap, made by `kube-leader-election` (KLE) over the layer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::sync::watch;
use tower::{BoxError, Layer};

use super::clock::{LiveClock, boottime};
use super::holder::HolderId;
use super::layer::{GuardLayer, Order, Progress, SwapKind};
use super::seen::{ANNOTATION_PREFIX, LeaseSeen, RECORD_ANNOTATION};
use super::store::{LeaseView, News, Question, Store};
use super::watcher::{LeaseWatcher, WatchTimes, chain};
use crate::core::record::Record;
use crate::core::types::{Millis, Term};

/// Most bytes in an object's annotations, names and values together (Kubernetes' limit).
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What the Lease's part of a sidecar needs.
#[derive(Clone)]
pub struct LeaseSettings {
    /// A client of its own, made by [`super::connect`].
    pub client: kube::Client,
    /// Where the Lease is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who this process is.
    pub me: HolderId,
    /// What is written as `leaseDurationSeconds`: whole seconds, at least one.
    pub duration: Duration,
    /// The clock that others are judged by; its [`LiveClock::tick`] must run.
    pub clock: LiveClock,
    /// Bounds of the watcher.
    pub times: WatchTimes,
}

impl fmt::Debug for LeaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseSettings")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("me", &self.me)
            .field("duration", &self.duration)
            .finish_non_exhaustive()
    }
}

/// The settings cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// KLE would cut it to whole seconds, and Kubernetes takes no zero.
    #[error(
        "the lease duration is {0:?}: Kubernetes stores whole seconds, at least 1. Set --lease-duration (PGBATON_LEASE_DURATION) to such a value, as in 10s"
    )]
    Duration(Duration),
    /// A name is missing.
    #[error("the Lease's {0} is empty: check {1}")]
    Empty(&'static str, &'static str),
}

/// Makes the two halves, and the view that the watcher (and each swap) keeps up to date. No request is made yet.
///
/// # Errors
/// When the settings cannot work.
pub fn open(
    settings: LeaseSettings,
) -> Result<(Baton, LeaseWatcher, watch::Receiver<LeaseView>), SettingsError> {
    let LeaseSettings {
        client,
        namespace,
        name,
        me,
        duration,
        clock,
        times,
    } = settings;
    if duration.subsec_nanos() != 0 || !(1..=0x7FFF_FFFF).contains(&duration.as_secs()) {
        return Err(SettingsError::Duration(duration));
    }
    if name.is_empty() {
        return Err(SettingsError::Empty("name", "--lease (PGBATON_LEASE)"));
    }
    if namespace.is_empty() {
        return Err(SettingsError::Empty("namespace", "--namespace (POD_NAMESPACE)"));
    }
    let store = Arc::new(Store::new(clock.clone()));
    let view = store.subscribe();
    let api = kube::Api::namespaced(client.clone(), &namespace);
    let watcher = LeaseWatcher {
        api,
        name: name.clone(),
        store: store.clone(),
        times,
    };
    Ok((
        Baton {
            client,
            namespace,
            name,
            me,
            duration,
            clock,
            store,
        },
        watcher,
        view,
    ))
}

/// One change that is wanted.
#[derive(Debug, Clone)]
pub struct Swap {
    /// The version that the decision was based on: the swap fails if there is a newer one.
    pub based_on: Arc<LeaseSeen>,
    /// What happens to holder and term.
    pub kind: SwapKind,
    /// The record from then on.
    pub record: Record,
    /// Other annotations of pgbaton to set, or to remove (none).
    pub annotations: BTreeMap<String, Option<String>>,
    /// Longest time for the whole of it.
    pub timeout: Duration,
}

/// What became of a swap.
#[derive(Debug, Clone, PartialEq)]
pub enum SwapOutcome {
    /// The Lease is as wanted.
    Done {
        /// As the API server answered; checked: holder, term and record are those of the swap.
        lease: Arc<LeaseSeen>,
        /// Boot clock before the request was sent: permits count from here (invariant 1).
        sent_boot: Millis,
        /// Live clock at the same moment.
        sent_live: Millis,
    },
    /// The Lease was changed since `based_on`. Nothing was changed by this swap; judge again on the newer version.
    Lost,
    /// Nothing was changed: by pgbaton's own checks before it was sent (no code), or by the API server.
    Refused {
        /// HTTP status of the API server's answer.
        code: Option<u16>,
        /// For people.
        message: String,
    },
    /// It may have landed, and a request that timed out may still land later; only a later version tells (invariant 10).
    Unknown {
        /// For people.
        reason: String,
    },
}

/// Swaps the Lease on behalf of one member.
pub struct Baton {
    client: kube::Client,
    namespace: String,
    name: String,
    me: HolderId,
    duration: Duration,
    clock: LiveClock,
    store: Arc<Store>,
}

impl fmt::Debug for Baton {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Baton")
            .field("name", &self.name)
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl Baton {
    /// Who this process is.
    #[must_use]
    pub fn me(&self) -> &HolderId {
        &self.me
    }

    /// The configured duration: what [`LeaseSeen::has_expired`] and [`LeaseSeen::free`] take.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Tries to change the Lease. Ends within `swap.timeout`. At most one request is sent, a PATCH with the version that the
    /// swap is based on; dropping the future is like a timeout: it may have landed.
    pub async fn swap(&self, swap: Swap) -> SwapOutcome {
        let sent = (boottime(), self.clock.now());
        let order = match self.order(&swap) {
            Ok(order) => order,
            Err(why) => return self.refused(None, &why),
        };
        if let SwapKind::Claim(evidence) = swap.kind {
            tracing::info!(
                ?evidence,
                version = swap.based_on.resource_version,
                term = swap.based_on.transitions.0,
                holder = swap.based_on.holder,
                "claiming the Lease"
            );
        }
        let question = self.store.question();
        let layer = GuardLayer::new(order.clone());
        let ended = tokio::time::timeout(swap.timeout, self.drive(&layer, swap.kind)).await;
        let outcome = match (ended, layer.progress()) {
            (Ok(engine), Progress::Answered(status, body)) => {
                self.store.heard(question.asked_at);
                let answer = Answer {
                    status,
                    body: &body,
                    question,
                    sent,
                };
                self.judge(&answer, &order, engine)
            }
            (_, Progress::Broken(why)) => {
                unknown(format!("the connection failed before an answer came: {why}"))
            }
            (_, Progress::Refused(why)) => self.refused(None, &why),
            (Ok(Err(why)), Progress::Idle | Progress::Read) => self.refused(None, &why),
            (Ok(Ok(())), progress) => unknown(format!(
                "the lease engine was content without an answer ({progress:?})"
            )),
            (Ok(Err(why)), Progress::Sent) => unknown(format!("no answer came: {why}")),
            (Err(_), _) => unknown(format!("no answer within {} ms", swap.timeout.as_millis())),
        };
        let doubtful = matches!(
            outcome,
            SwapOutcome::Lost | SwapOutcome::Unknown { .. } | SwapOutcome::Refused { code: Some(404), .. }
        );
        if doubtful {
            // The watch will tell too, unless it has stalled as well.
            self.store.doubt.notify_one();
        }
        outcome
    }

    /// The order, when every check passes.
    fn order(&self, swap: &Swap) -> Result<Order, String> {
        swap.kind
            .check(&swap.based_on, &self.me, self.clock.now(), self.duration)?;
        swap.record
            .check()
            .map_err(|why| format!("the new record contradicts itself: {why}"))?;
        let mut annotations = swap.annotations.clone();
        if let Some(wrong) = annotations
            .keys()
            .find(|k| !k.starts_with(ANNOTATION_PREFIX) || *k == RECORD_ANNOTATION)
        {
            return Err(format!(
                "the annotation {wrong} is not one that a swap sets beside the record"
            ));
        }
        annotations.insert(RECORD_ANNOTATION.to_owned(), Some(swap.record.render()));
        let bytes: usize = annotations
            .iter()
            .map(|(k, v)| k.len() + v.as_ref().map_or(0, String::len))
            .sum();
        if bytes > ANNOTATIONS_MAX {
            return Err(format!(
                "the record has {bytes} bytes, Kubernetes takes {ANNOTATIONS_MAX} in annotations"
            ));
        }
        Ok(Order {
            path: format!(
                "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}",
                self.namespace, self.name
            ),
            me: self.me.clone(),
            kind: swap.kind,
            based_on: swap.based_on.clone(),
            annotations,
        })
    }

    /// Lets KLE do it. The text of its error, if any; what counts is how far the layer got.
    async fn drive(&self, layer: &GuardLayer, kind: SwapKind) -> Result<(), String> {
        let client = self.client.clone();
        let api_server = tower::service_fn(move |request| {
            let client = client.clone();
            async move { client.send(request).await.map_err(BoxError::from) }
        });
        let lock = LeaseLock::new(
            kube::Client::new(layer.layer(api_server), &*self.namespace),
            &self.namespace,
            LeaseLockParams {
                lease_name: self.name.clone(),
                holder_id: self.me.to_string(),
                lease_ttl: self.duration,
            },
        );
        match kind {
            SwapKind::Release => lock.step_down().await.map_err(|e| chain(&e)),
            SwapKind::Renew | SwapKind::Claim(_) | SwapKind::Repair { .. } => {
                match lock.try_acquire_or_renew().await.map_err(|e| chain(&e))? {
                    LeaseLockResult::Acquired(_) => Ok(()),
                    LeaseLockResult::NotAcquired(_) => {
                        Err("the lease engine did not do what was decided".to_owned())
                    }
                }
            }
        }
    }

    /// What an answer to the PATCH means.
    fn judge(&self, answer: &Answer<'_>, order: &Order, engine: Result<(), String>) -> SwapOutcome {
        let Answer {
            status,
            body,
            question,
            sent: (sent_boot, sent_live),
        } = *answer;
        match status.as_u16() {
            200..=299 => {}
            409 => return SwapOutcome::Lost,
            // Answered by a proxy that gave up on a request that it had passed on.
            408 => return unknown("the API server (or a proxy before it) timed out: 408".to_owned()),
            code @ 400..=499 => return self.refused(Some(code), &server_message(body)),
            code => {
                return unknown(format!(
                    "the API server answered {code}: {}",
                    server_message(body)
                ));
            }
        }
        let lease: Lease = match serde_json::from_slice(body) {
            Ok(lease) => lease,
            Err(e) => return unknown(format!("the API server's answer is not a Lease: {e}")),
        };
        let seen = LeaseSeen::new(lease.clone(), self.clock.now(), question.asked_at);
        self.store.offer(News::Patched(question, lease));
        let holder = (order.kind != SwapKind::Release).then(|| self.me.to_string());
        let term: Option<Term> = order.kind.term_after(&order.based_on).ok();
        if seen.holder != holder
            || Some(seen.transitions) != term
            || seen.record_text.as_deref() != order.record_text()
        {
            return unknown(format!(
                "the API server answered with another Lease than was sent (holder {:?}, term {}): is something else \
                 (an admission webhook) changing it?",
                seen.holder, seen.transitions
            ));
        }
        if let Err(why) = engine {
            return unknown(format!(
                "the lease engine did not accept the API server's answer: {why}"
            ));
        }
        SwapOutcome::Done {
            lease: Arc::new(seen),
            sent_boot,
            sent_live,
        }
    }

    fn refused(&self, code: Option<u16>, why: &str) -> SwapOutcome {
        let by = code.map_or("pgbaton did not send it".to_owned(), |c| {
            format!("the API server answered {c}")
        });
        let next = match code {
            Some(401 | 403) => "; check the Role and its binding: list, watch and patch on this Lease",
            Some(404) => "; the Lease is gone: apply its manifest again, then see pgbaton status",
            Some(429) => "; it is overloaded",
            _ => "",
        };
        let message = format!(
            "the Lease {}/{} was not changed, {by}: {why}{next}",
            self.namespace, self.name
        );
        SwapOutcome::Refused { code, message }
    }
}

/// The API server's answer to the PATCH.
struct Answer<'a> {
    status: StatusCode,
    body: &'a [u8],
    question: Question,
    /// Boot clock and live clock before it was asked.
    sent: (Millis, Millis),
}

fn unknown(reason: String) -> SwapOutcome {
    SwapOutcome::Unknown { reason }
}

/// The message of a Kubernetes Status, or the beginning of whatever it is.
fn server_message(body: &[u8]) -> String {
    let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    status
        .as_ref()
        .and_then(|s| s.get("message")?.as_str())
        .map_or_else(
            || String::from_utf8_lossy(body).chars().take(200).collect(),
            str::to_owned,
        )
}
