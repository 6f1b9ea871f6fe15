//! An API server for one Lease, as a tower service: GET, LIST, WATCH, POST and merge PATCH with `resourceVersion` and 409,
//! with faults that a test sets. And a rig that holds one member's lease parts on a clock that the test moves.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use pgbaton::core::record::Record;
use pgbaton::lease::RECORD_ANNOTATION;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::BoxError;

/// What happens to the next PATCH.
pub enum Fault {
    /// It is told of, and goes on when the test says so.
    Hold {
        arrived: oneshot::Sender<()>,
        go: oneshot::Receiver<()>,
    },
    /// It is applied and its answer never comes.
    LoseReply,
    /// It is applied and the connection breaks.
    BreakAfter,
    /// It is not applied and never answered.
    Swallow,
    /// It is answered so, and not applied.
    Status(u16),
    /// It is applied after `go`, and its answer never comes, whether or not the client is still there.
    LandLate {
        go: oneshot::Receiver<()>,
        landed: oneshot::Sender<()>,
    },
    /// It is applied, and an admission webhook changes the holder.
    Meddle,
}

#[derive(Default)]
struct State {
    version: u64,
    /// Versions that are no numbers.
    opaque: bool,
    lease: Option<Value>,
    faults: VecDeque<Fault>,
    /// Each request refused at the connection.
    down: bool,
    /// Each request answered so.
    status: Option<u16>,
    /// Each read hangs.
    stuck: bool,
    /// Watches that are open and tell nothing more.
    stalled: Vec<mpsc::UnboundedSender<Bytes>>,
    log: Vec<String>,
    bodies: Vec<Value>,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
    events: Vec<(u64, Value)>,
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

fn status(code: u16, message: &str) -> Answer {
    let reason = if code == 409 { "Conflict" } else { "Other" };
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code});
    answer(code, &body)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

impl State {
    fn print(&self, version: u64) -> String {
        if self.opaque {
            format!("v{version:x}z")
        } else {
            version.to_string()
        }
    }

    fn parse(&self, version: &str) -> u64 {
        if self.opaque {
            u64::from_str_radix(version.trim_matches(['v', 'z']), 16).unwrap()
        } else {
            version.parse().unwrap()
        }
    }

    /// Gives the object a new version and tells the watchers.
    fn commit(&mut self, kind: &str, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.print(self.version));
        let event = json!({"type": kind, "object": lease});
        self.events.push((self.version, event.clone()));
        let line = Bytes::from(format!("{event}\n"));
        self.watchers.retain(|w| w.send(line.clone()).is_ok());
        lease
    }

    fn patch(&mut self, patch: &Value) -> Answer {
        let Some(mut lease) = self.lease.clone() else {
            return status(404, "leases.coordination.k8s.io \"postgres\" not found");
        };
        if let Some(wanted) = patch.pointer("/metadata/resourceVersion")
            && *wanted != lease["metadata"]["resourceVersion"]
        {
            return status(409, "the object has been modified");
        }
        merge(&mut lease, patch);
        let lease = self.commit("MODIFIED", lease);
        self.lease = Some(lease.clone());
        answer(200, &lease)
    }
}

impl Fake {
    pub fn with(lease: Value) -> Self {
        let fake = Self::default();
        fake.0.lock().unwrap().version = 100;
        fake.put(lease);
        fake
    }

    pub fn client(&self) -> kube::Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request| {
            let fake = fake.clone();
            async move { fake.handle(request).await }
        });
        kube::Client::new(service, "default")
    }

    async fn handle(&self, request: Request<Body>) -> Result<Answer, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let watching = query.contains("watch=true");
        let one = head.uri.path().ends_with("/leases/postgres");
        let verb = match (&head.method, one, watching) {
            (&Method::GET, true, _) => "get",
            (&Method::GET, false, true) => "watch",
            (&Method::GET, false, false) => "list",
            (&Method::PATCH, true, _) => "patch",
            (&Method::POST, ..) => "create",
            _ => "other",
        };
        let (down, code, stuck) = {
            let mut state = self.0.lock().unwrap();
            state.log.push(verb.to_owned());
            (state.down, state.status, state.stuck)
        };
        if down {
            return Err("connection refused".into());
        }
        if let Some(code) = code {
            return Ok(status(code, "no"));
        }
        if stuck && verb != "patch" {
            std::future::pending::<()>().await;
        }
        match verb {
            "get" => Ok(self
                .lease()
                .map_or_else(|| status(404, "not found"), |l| answer(200, &l))),
            "list" => Ok(self.list()),
            "watch" => Ok(self.watch(&query)),
            "patch" => self.on_patch(serde_json::from_slice(&body)?).await,
            "create" => {
                if self.lease().is_some() {
                    return Ok(status(409, "exists"));
                }
                self.put(serde_json::from_slice(&body)?);
                Ok(answer(201, &self.lease().unwrap()))
            }
            _ => Ok(status(405, "not allowed")),
        }
    }

    async fn on_patch(&self, patch: Value) -> Result<Answer, BoxError> {
        self.0.lock().unwrap().bodies.push(patch.clone());
        let fault = self.0.lock().unwrap().faults.pop_front();
        match fault {
            None => {}
            Some(Fault::Hold { arrived, go }) => {
                let _ = arrived.send(());
                let _ = go.await;
            }
            Some(Fault::LoseReply) => {
                self.0.lock().unwrap().patch(&patch);
                std::future::pending::<()>().await;
            }
            Some(Fault::BreakAfter) => {
                self.0.lock().unwrap().patch(&patch);
                return Err("connection reset by peer".into());
            }
            Some(Fault::Swallow) => std::future::pending::<()>().await,
            Some(Fault::Status(code)) => return Ok(status(code, "the server said no")),
            Some(Fault::LandLate { go, landed }) => {
                let (fake, patch) = (self.clone(), patch.clone());
                tokio::spawn(async move {
                    let _ = go.await;
                    fake.0.lock().unwrap().patch(&patch);
                    let _ = landed.send(());
                });
                std::future::pending::<()>().await;
            }
            Some(Fault::Meddle) => {
                let mut patch = patch;
                patch["spec"]["holderIdentity"] = json!("somebody-else");
                return Ok(self.0.lock().unwrap().patch(&patch));
            }
        }
        Ok(self.0.lock().unwrap().patch(&patch))
    }

    fn list(&self) -> Answer {
        let mut state = self.0.lock().unwrap();
        // The collection's version moves with every object of the cluster.
        state.version += 1;
        let items: Vec<Value> = state.lease.iter().cloned().collect();
        let version = state.print(state.version);
        answer(
            200,
            &json!({"kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn watch(&self, query: &str) -> Answer {
        assert!(
            query.contains("fieldSelector=metadata.name%3Dpostgres"),
            "{query}"
        );
        let mut state = self.0.lock().unwrap();
        let from = query
            .split('&')
            .find_map(|p| p.strip_prefix("resourceVersion="))
            .unwrap_or_default();
        let (tell, told) = mpsc::unbounded_channel();
        let from = state.parse(from);
        let past = state.events.iter().filter(|(version, _)| *version > from);
        for (_, event) in past {
            let _ = tell.send(Bytes::from(format!("{event}\n")));
        }
        state.watchers.push(tell);
        let lines = futures_util::stream::unfold(told, |mut told| async {
            told.recv().await.map(|line| (line, told))
        });
        let frames = lines.map(|line| Ok::<_, Infallible>(Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    /// Puts this in as an admin would, whatever was there.
    pub fn put(&self, mut lease: Value) {
        let mut state = self.0.lock().unwrap();
        let kind = if state.lease.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        if lease["metadata"]["uid"].is_null() {
            lease["metadata"]["uid"] = json!(format!("uid-{}", state.version));
        }
        let lease = state.commit(kind, lease);
        state.lease = Some(lease);
    }

    /// As a person with kubectl: a merge patch without a version.
    pub fn edit(&self, patch: &Value) {
        let answer = self.0.lock().unwrap().patch(patch);
        assert_eq!(answer.status(), 200);
    }

    pub fn delete(&self) {
        let mut state = self.0.lock().unwrap();
        let lease = state.lease.take().unwrap();
        state.commit("DELETED", lease);
    }

    /// The store as of `version`, with that content; open watches are cut.
    pub fn restore(&self, version: u64, mut lease: Value) {
        let mut state = self.0.lock().unwrap();
        state.version = version;
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
        state.events = vec![(version, json!({"type": "MODIFIED", "object": lease}))];
        state.lease = Some(lease);
        state.watchers.clear();
    }

    pub fn lease(&self) -> Option<Value> {
        self.0.lock().unwrap().lease.clone()
    }

    pub fn holder(&self) -> String {
        self.lease().unwrap()["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn term(&self) -> u64 {
        self.lease().unwrap()["spec"]["leaseTransitions"]
            .as_u64()
            .unwrap_or(0)
    }

    pub fn record(&self) -> Record {
        let lease = self.lease().unwrap();
        Record::parse(
            lease["metadata"]["annotations"][RECORD_ANNOTATION]
                .as_str()
                .unwrap(),
        )
        .unwrap()
    }

    pub fn fault(&self, fault: Fault) {
        self.0.lock().unwrap().faults.push_back(fault);
    }

    /// The next PATCH waits; it has arrived when the first ends, and goes on by the second.
    pub fn hold(&self) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (arrived, has_arrived) = oneshot::channel();
        let (release, go) = oneshot::channel();
        self.fault(Fault::Hold { arrived, go });
        (has_arrived, release)
    }

    pub fn set_down(&self, down: bool) {
        let mut state = self.0.lock().unwrap();
        state.down = down;
        if down {
            state.watchers.clear();
        }
    }

    pub fn set_status(&self, code: Option<u16>) {
        self.0.lock().unwrap().status = code;
    }

    pub fn cut_watches(&self) {
        self.0.lock().unwrap().watchers.clear();
    }

    pub fn set_stuck(&self, stuck: bool) {
        self.0.lock().unwrap().stuck = stuck;
    }

    /// The open watches tell nothing more; new ones do.
    pub fn stall_watches(&self) {
        let mut state = self.0.lock().unwrap();
        let open = std::mem::take(&mut state.watchers);
        state.stalled.extend(open);
    }

    /// The open watches are told that their version is too old, and end.
    pub fn expire_watches(&self) {
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410}});
        for watcher in self.0.lock().unwrap().watchers.drain(..) {
            watcher.send(Bytes::from(format!("{gone}\n"))).unwrap();
        }
    }

    pub fn set_opaque(&self) {
        self.0.lock().unwrap().opaque = true;
    }

    pub fn count(&self, verb: &str) -> usize {
        self.0.lock().unwrap().log.iter().filter(|v| *v == verb).count()
    }

    pub fn last_patch(&self) -> Value {
        self.0.lock().unwrap().bodies.last().cloned().unwrap()
    }
}
