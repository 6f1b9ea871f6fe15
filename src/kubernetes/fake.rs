//! An API server in memory, for unit tests: objects with versions, merge and strategic merge patch, deletions, 403, 404, 409, 422,
//! silence.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Called with each GET that was answered, before the caller sees it: what somebody else does in between.
type Interloper = Box<dyn FnMut(&str, &mut BTreeMap<String, Value>) + Send>;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    requests: Vec<(String, Value)>,
    created: Vec<Value>,
    forbidden: Vec<(String, String)>,
    denied: Vec<(String, String)>,
    hang: bool,
    interloper: Option<Interloper>,
    watchers: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server; clones share its objects.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<Inner>>);

impl FakeApi {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Puts an object there. `path` ends in `services/postgres`.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut inner = self.inner();
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        object["metadata"]["name"] = json!(path.rsplit('/').next());
        inner.changed(path, "MODIFIED", &object);
        inner.objects.insert(path.to_owned(), object);
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        self.inner().objects.get(path).cloned().unwrap_or_default()
    }

    /// Forbids `verb` (`GET`, `PATCH`, `POST`, `DELETE`, `WATCH`) on what ends in `path`.
    pub(crate) fn forbid(&self, verb: &str, path: &str) {
        self.inner().forbidden.push((verb.to_owned(), path.to_owned()));
    }

    /// Answers questions about rights with no for `verb` (`patch`) on `statefulsets/postgres-1`; an empty name for `events/`.
    pub(crate) fn deny(&self, verb: &str, object: &str) {
        self.inner().denied.push((verb.to_owned(), object.to_owned()));
    }

    /// Grants everything again.
    pub(crate) fn grant_all(&self) {
        self.inner().denied.clear();
    }

    pub(crate) fn hang(&self, hang: bool) {
        self.inner().hang = hang;
    }

    pub(crate) fn interlope(&self, by: impl FnMut(&str, &mut BTreeMap<String, Value>) + Send + 'static) {
        self.inner().interloper = Some(Box::new(by));
    }

    /// Requests as `PATCH services/postgres` with their bodies.
    pub(crate) fn requests(&self) -> Vec<(String, Value)> {
        self.inner().requests.clone()
    }

    pub(crate) fn writes(&self) -> Vec<Value> {
        let writes = self
            .requests()
            .into_iter()
            .filter(|(line, _)| line.starts_with("PATCH"));
        writes.map(|(_, body)| body).collect()
    }

    pub(crate) fn created(&self) -> Vec<Value> {
        self.inner().created.clone()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let hang = self.inner().hang;
        if hang {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let sent: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
        let path = path[path.len() - 2..].join("/");
        let strategic = parts
            .headers
            .get("content-type")
            .is_some_and(|t| t == "application/strategic-merge-patch+json");
        let query = parts.uri.query().unwrap_or_default();
        let watched = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("fieldSelector=metadata.name%3D"))
            .filter(|_| query.contains("watch=true"));
        let (verb, path) = match watched {
            Some(name) => (
                "WATCH",
                format!("{}/{name}", path.rsplit('/').next().unwrap_or_default()),
            ),
            None => (parts.method.as_str(), path),
        };
        let mut guard = self.inner();
        let inner = &mut *guard;
        inner.requests.push((format!("{verb} {path}"), sent.clone()));
        if inner
            .forbidden
            .iter()
            .any(|(v, of)| v == verb && path.ends_with(of))
        {
            return failure(StatusCode::FORBIDDEN, "Forbidden", "forbidden by the test");
        }
        if watched.is_some() {
            return inner.watch(&path);
        }
        if parts.method == Method::POST && path.ends_with("/selfsubjectaccessreviews") {
            return inner.review(sent);
        }
        if parts.method == Method::POST {
            inner.created.push(sent.clone());
            return reply(StatusCode::CREATED, &sent);
        }
        let Some(found) = inner.objects.get(&path).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound", "not found");
        };
        if parts.method == Method::GET {
            if let Some(by) = &mut inner.interloper {
                by(&path, &mut inner.objects);
            }
            return reply(StatusCode::OK, &found);
        }
        if parts.method == Method::DELETE {
            let uid = &sent["preconditions"]["uid"];
            if !uid.is_null() && *uid != found["metadata"]["uid"] {
                return failure(StatusCode::CONFLICT, "Conflict", "the UID does not match");
            }
            inner.objects.remove(&path);
            return reply(StatusCode::OK, &found);
        }
        inner.patch(&path, found, &sent, strategic)
    }
}

impl Inner {
    /// What is there now, then every change.
    fn watch(&mut self, path: &str) -> Answer {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watchers.push((path.to_owned(), sender));
        if let Some(found) = self.objects.get(path).cloned() {
            self.changed(path, "ADDED", &found);
        }
        let events = futures_util::stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        let frames = events.map(|event| Ok::<_, Infallible>(Frame::data(event)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn review(&self, mut sent: Value) -> Answer {
        let asked = &sent["spec"]["resourceAttributes"];
        let text = |key: &str| asked[key].as_str().unwrap_or_default();
        let object = format!("{}/{}", text("resource"), text("name"));
        let denied = self.denied.contains(&(text("verb").to_owned(), object));
        sent["status"] = json!({ "allowed": !denied });
        reply(StatusCode::CREATED, &sent)
    }

    fn changed(&mut self, path: &str, kind: &str, object: &Value) {
        let line = format!("{}\n", json!({ "type": kind, "object": object }));
        self.watchers
            .retain(|(of, watcher)| of != path || watcher.send(Bytes::from(line.clone())).is_ok());
    }

    fn patch(&mut self, path: &str, found: Value, sent: &Value, strategic: bool) -> Answer {
        let version = &sent["metadata"]["resourceVersion"];
        if !version.is_null() && *version != found["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        let mut patched = found;
        merge(&mut patched, sent, strategic);
        let strategy = &patched["spec"]["updateStrategy"];
        if strategy["type"] == "OnDelete" && !strategy["rollingUpdate"].is_null() {
            return failure(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                "rollingUpdate: Invalid value",
            );
        }
        self.version += 1;
        patched["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changed(path, "MODIFIED", &patched);
        self.objects.insert(path.to_owned(), patched.clone());
        reply(StatusCode::OK, &patched)
    }
}

fn merge(target: &mut Value, patch: &Value, strategic: bool) {
    match (target, patch) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                if value.is_null() {
                    old.remove(key);
                } else {
                    merge(old.entry(key.clone()).or_insert(Value::Null), value, strategic);
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if strategic => {
            for item in new {
                match old.iter_mut().find(|o| o["name"] == item["name"]) {
                    Some(known) => merge(known, item, true),
                    None => old.push(item.clone()),
                }
            }
        }
        (target, Value::Object(_)) => {
            *target = json!({});
            merge(target, patch, strategic);
        }
        (target, other) => *target = other.clone(),
    }
}

fn reply(status: StatusCode, body: &Value) -> Answer {
    let bytes = serde_json::to_vec(body).unwrap();
    Response::builder()
        .status(status)
        .body(Full::from(bytes).boxed_unsync())
        .unwrap()
}

fn failure(status: StatusCode, reason: &str, message: &str) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": status.as_u16(),
    });
    reply(status, &body)
}
