//! An API server in memory, for unit tests: objects with versions, merge and strategic merge patch, 403, 404, 409, 422, silence.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// Called with each GET that was answered, before the caller sees it: what somebody else does in between.
type Interloper = Box<dyn FnMut(&str, &mut BTreeMap<String, Value>) + Send>;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    requests: Vec<(String, Value)>,
    created: Vec<Value>,
    forbidden: Vec<(String, String)>,
    hang: bool,
    interloper: Option<Interloper>,
}

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
        inner.objects.insert(path.to_owned(), object);
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        self.inner().objects.get(path).cloned().unwrap_or_default()
    }

    /// Forbids `verb` (`GET`, `PATCH`, `POST`) on what ends in `path`.
    pub(crate) fn forbid(&self, verb: &str, path: &str) {
        self.inner().forbidden.push((verb.to_owned(), path.to_owned()));
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

    async fn answer(&self, request: Request<Body>) -> Response<Full<axum::body::Bytes>> {
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
        let mut guard = self.inner();
        let inner = &mut *guard;
        inner
            .requests
            .push((format!("{} {path}", parts.method), sent.clone()));
        if inner
            .forbidden
            .iter()
            .any(|(verb, of)| *verb == parts.method.as_str() && path.ends_with(of))
        {
            return failure(StatusCode::FORBIDDEN, "Forbidden", "forbidden by the test");
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
        inner.patch(&path, found, &sent, strategic)
    }
}

impl Inner {
    fn patch(
        &mut self,
        path: &str,
        found: Value,
        sent: &Value,
        strategic: bool,
    ) -> Response<Full<axum::body::Bytes>> {
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

fn reply(status: StatusCode, body: &Value) -> Response<Full<axum::body::Bytes>> {
    let bytes = serde_json::to_vec(body).unwrap();
    Response::builder()
        .status(status)
        .body(Full::from(bytes))
        .unwrap()
}

fn failure(status: StatusCode, reason: &str, message: &str) -> Response<Full<axum::body::Bytes>> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": message, "code": status.as_u16(),
    });
    reply(status, &body)
}
