//! The tower layer under `kube-leader-election` (KLE): duties (a), (b) and (e) of the module's head, and a second look at
//! (c) and (d).
//!
//! One [`GuardLayer`] serves one swap: nothing of a swap that timed out can reach a later one. It answers KLE's GET through
//! a lens, the object on which the decision was based shown so that KLE does exactly what was decided, checks that the PATCH
//! is that decision, adds the version and the annotations, and keeps the server's answer. Everything else is refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use kube::client::Body;
use serde_json::{Value, json};
use tower::{BoxError, Layer, Service, ServiceExt};

use super::holder::HolderId;
use super::seen::{LeaseSeen, RECORD_ANNOTATION};
use super::watcher::chain;
use crate::core::types::{Millis, Term};

/// Largest answer that is read, in bytes: etcd holds no larger object by default.
const ANSWER_MAX: usize = 2 << 20;
/// `leaseTransitions` is an int32; KLE adds one to it.
pub const TERM_MAX: Term = Term(0x7FFF_FFFF);

/// On what ground a Lease is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimEvidence {
    /// `spec` unchanged for the lease's duration on the live clock.
    Expired,
    /// The last holder gave it up: nobody holds it and the record says `released: <this term>`.
    Released,
    /// Nobody ever held it, and the record says that the cluster was never initialised.
    NeverHeld,
    /// Held by another and not expired: the core has other evidence (DESIGN.md section 5, claim). Never for an empty holder.
    Early,
}

/// What a swap does with `spec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SwapKind {
    /// I hold it and go on.
    Renew,
    /// I take it, in the next term.
    Claim(ClaimEvidence),
    /// I hold it and give it up: no holder, duration 1 s. The record should say `released`, else the Lease is free only
    /// after it has expired.
    Release,
    /// I run read-write under a permit and put a damaged Lease right, whoever holds it: I hold it in `term`, which is above
    /// the one it shows. That it is above every term seen elsewhere is for the core to know.
    Repair {
        /// The new term.
        term: Term,
    },
}

/// What one swap may send.
#[derive(Debug, Clone)]
pub struct Order {
    /// Path of the one Lease.
    pub path: String,
    /// Who swaps.
    pub me: HolderId,
    /// What.
    pub kind: SwapKind,
    /// The version that the decision was based on.
    pub based_on: Arc<LeaseSeen>,
    /// Annotations to set, or to remove (none); the record is one of them.
    pub annotations: BTreeMap<String, Option<String>>,
}

/// How far a swap got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was sent.
    Idle,
    /// KLE got its GET answered; nothing was sent.
    Read,
    /// The layer refused to send something.
    Refused(String),
    /// The PATCH was sent and may have landed.
    Sent,
    /// The PATCH was sent and its connection failed, in words: it may have landed.
    Broken(String),
    /// The API server answered the PATCH.
    Answered(StatusCode, Bytes),
}

impl SwapKind {
    /// The term that the Lease has after this swap of `based_on`.
    ///
    /// # Errors
    /// In words, when there is none.
    pub fn term_after(self, based_on: &LeaseSeen) -> Result<Term, String> {
        let now = based_on.transitions;
        match self {
            Self::Renew | Self::Release => Ok(now),
            Self::Claim(_) if now < TERM_MAX => Ok(Term(now.0 + 1)),
            Self::Repair { term } if term > now && term <= TERM_MAX => Ok(term),
            Self::Claim(_) => Err(format!(
                "the Lease is in term {now}, the last that Kubernetes can hold"
            )),
            Self::Repair { term } => Err(format!(
                "a repair must raise the Lease's term {now} and stay within {TERM_MAX}, but was to set {term}"
            )),
        }
    }

    /// Duties (c) and (d), and that the decision fits the object; `now` is on the live clock.
    ///
    /// # Errors
    /// In words, why this swap must not be sent.
    pub fn check(
        self,
        based_on: &LeaseSeen,
        me: &HolderId,
        now: Millis,
        configured: Duration,
    ) -> Result<(), String> {
        self.term_after(based_on)?;
        let holder = based_on.holder.as_deref().unwrap_or("nobody");
        if !matches!(self, Self::Repair { .. }) && based_on.record.good().is_none() {
            return Err(format!(
                "the Lease is damaged ({}): only a repair may change it",
                match &based_on.record {
                    super::RecordState::Unreadable(bad) => bad.to_string(),
                    _ => "it has no record".to_owned(),
                }
            ));
        }
        match self {
            Self::Renew | Self::Release if !based_on.is_held_by(me) => {
                Err(format!("{me} does not hold the Lease, {holder} does"))
            }
            Self::Claim(_) if based_on.is_held_by(me) => {
                Err(format!("{me} holds the Lease already: renew it"))
            }
            Self::Claim(ClaimEvidence::Early) if based_on.holder.is_none() => Err(
                "nobody holds the Lease, yet its record does not say so for this term: somebody cleared \
                     holderIdentity, so it is free only once expired"
                    .to_owned(),
            ),
            Self::Claim(ClaimEvidence::Released) if !based_on.is_released() => Err(format!(
                "the Lease was not released in term {}; {holder} holds it",
                based_on.transitions
            )),
            Self::Claim(ClaimEvidence::NeverHeld)
                if based_on.free(now, configured) != Some(ClaimEvidence::NeverHeld) =>
            {
                Err(format!(
                    "the Lease was held before (term {}, holder {holder}), or its cluster was initialised",
                    based_on.transitions
                ))
            }
            Self::Claim(ClaimEvidence::Expired) if !based_on.has_expired(now, configured) => Err(format!(
                "the Lease of {holder} has not expired: unchanged for {} ms of {} ms",
                based_on.spec_unchanged_for(now).0,
                based_on.expires_after(configured).as_millis()
            )),
            _ => Ok(()),
        }
    }
}

impl Order {
    /// The answer to KLE's GET: shows what makes KLE do this order.
    fn lens(&self) -> Result<Value, String> {
        let term = self.kind.term_after(&self.based_on)?;
        let mine = self.me.to_string();
        let (holder, transitions) = match self.kind {
            SwapKind::Renew | SwapKind::Release => (mine.as_str(), term.0),
            // KLE adds one when it takes a Lease that is not its own and has expired.
            SwapKind::Claim(_) | SwapKind::Repair { .. } => ("", term.0 - 1),
        };
        let name = self.path.rsplit('/').next().unwrap_or_default();
        Ok(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name, "resourceVersion": self.based_on.resource_version },
            "spec": {
                "holderIdentity": holder,
                "leaseTransitions": transitions,
                "leaseDurationSeconds": 1,
                "renewTime": "1970-01-01T00:00:00.000000Z",
            },
        }))
    }

    /// KLE's patch with the version and the annotations; refused when it is not this order.
    fn complete(&self, patch: &[u8]) -> Result<Vec<u8>, String> {
        let mut patch: Value =
            serde_json::from_slice(patch).map_err(|e| format!("the patch is not JSON: {e}"))?;
        let mine = self.me.to_string();
        let holder = patch.pointer("/spec/holderIdentity").and_then(Value::as_str);
        let term = patch.pointer("/spec/leaseTransitions").and_then(Value::as_u64);
        let fits = match self.kind {
            SwapKind::Renew => holder.is_none() && term.is_none(),
            SwapKind::Release => holder == Some("") && term.is_none(),
            SwapKind::Claim(_) | SwapKind::Repair { .. } => {
                holder == Some(&mine) && term == Some(self.kind.term_after(&self.based_on)?.0)
            }
        };
        if !fits {
            return Err(format!(
                "the patch is not the {:?} that was decided: {patch}",
                self.kind
            ));
        }
        if self.based_on.resource_version.is_empty() {
            return Err("the Lease that the decision was based on has no resourceVersion".to_owned());
        }
        patch["metadata"]["resourceVersion"] = json!(self.based_on.resource_version);
        patch["metadata"]["annotations"] = json!(self.annotations);
        serde_json::to_vec(&patch).map_err(|e| e.to_string())
    }

    /// The record's text, if this order writes one.
    #[must_use]
    pub fn record_text(&self) -> Option<&str> {
        self.annotations.get(RECORD_ANNOTATION)?.as_deref()
    }
}

/// See the module's head.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    order: Arc<Order>,
    progress: Arc<Mutex<Progress>>,
}

impl GuardLayer {
    /// A layer for this one order.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self {
            order: Arc::new(order),
            progress: Arc::new(Mutex::new(Progress::Idle)),
        }
    }

    /// How far it got.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    fn refuse(&self, why: String) -> BoxError {
        // What was sent stays the more important news.
        if matches!(self.progress(), Progress::Idle | Progress::Read) {
            self.set(Progress::Refused(why.clone()));
        }
        why.into()
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// The service that [`GuardLayer`] makes; see the module's head.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: GuardLayer,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The server is waited for when there is something to send: a GET needs none.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (guard, inner) = (self.guard.clone(), self.inner.clone());
        Box::pin(async move {
            let on_path = request.uri().path() == guard.order.path;
            match (request.method(), guard.progress()) {
                (&Method::GET, Progress::Idle) if on_path => guard.read(),
                (&Method::PATCH, Progress::Read) if on_path => guard.send(request, inner).await,
                (method, progress) => {
                    let what = format!("{method} {}", request.uri().path());
                    Err(guard.refuse(format!(
                        "{what} is no part of a swap ({progress:?}); it was not sent"
                    )))
                }
            }
        })
    }
}

impl GuardLayer {
    fn read(&self) -> Result<Response<Body>, BoxError> {
        let shown = self.order.lens().map_err(|why| self.refuse(why))?;
        self.set(Progress::Read);
        Ok(Response::builder()
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(shown.to_string().into_bytes()))?)
    }

    async fn send<S>(&self, request: Request<Body>, inner: S) -> Result<Response<Body>, BoxError>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let patch = body.collect().await?.to_bytes();
        let patch = self.order.complete(&patch).map_err(|why| self.refuse(why))?;
        head.headers.remove(header::CONTENT_LENGTH);
        self.set(Progress::Sent);
        let broken = |error: BoxError| {
            self.set(Progress::Broken(chain(&*error)));
            error
        };
        let answer = inner
            .oneshot(Request::from_parts(head, Body::from(patch)))
            .await
            .map_err(broken)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX)
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        self.set(Progress::Answered(head.status, body.clone()));
        Ok(Response::from_parts(head, Body::from(body)))
    }
}
