//! The rig's own view of the embedded API server: one namespace, no HTTP, no rules.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::api::{ApiServer, DeleteOptions, PatchType};
use super::settings::NAMESPACE;
use crate::names::POSTGRES_PORT;

pub use super::api::Kind;

/// A handle; clones are the same.
#[derive(Debug, Clone)]
pub struct Store {
    api: ApiServer,
}

impl Store {
    /// Over this server.
    #[must_use]
    pub fn new(api: ApiServer) -> Self {
        Self { api }
    }

    /// The server itself.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// The object, or none.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<Value> {
        self.api
            .get(kind, NAMESPACE, name)
            .map(|object| (*object).clone())
    }

    /// Creates an object.
    ///
    /// # Errors
    /// What the server says.
    pub fn create(&self, kind: Kind, object: Value) -> Result<Value> {
        let created = self.api.create(kind, NAMESPACE, object);
        created
            .map(|object| (*object).clone())
            .map_err(|error| refused("create", kind, "", &error))
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// What the server says.
    pub fn patch(&self, kind: Kind, name: &str, patch: &Value) -> Result<Value> {
        let patched = self.api.patch(kind, NAMESPACE, name, PatchType::Merge, patch);
        patched
            .map(|object| (*object).clone())
            .map_err(|error| refused("patch", kind, name, &error))
    }

    /// Writes the kubelet's part of an object.
    ///
    /// # Errors
    /// What the server says.
    pub fn set_status(&self, kind: Kind, name: &str, status: &Value) -> Result<Value> {
        self.patch(kind, name, &json!({ "status": status }))
    }

    /// Deletes an object as a person would: a pod is marked and goes when its kubelet says so.
    ///
    /// # Errors
    /// What the server says.
    pub fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        let deleted = self.api.delete(kind, NAMESPACE, name, &DeleteOptions::default());
        deleted
            .map(|_| ())
            .map_err(|error| refused("delete", kind, name, &error))
    }

    /// Deletes an object at once. One that is gone already is no error.
    pub fn remove(&self, kind: Kind, name: &str) {
        let at_once = DeleteOptions {
            grace_seconds: Some(0),
            ..DeleteOptions::default()
        };
        if self.get(kind, name).is_some()
            && let Err(error) = self.api.delete(kind, NAMESPACE, name, &at_once)
        {
            tracing::warn!("{}", refused("remove", kind, name, &error));
        }
    }

    /// Marks a pod as on its way out, unless it is already.
    pub fn mark_deleted(&self, name: &str, grace: Duration) {
        let marked = self.get(Kind::Pod, name).is_none_or(|pod| is_terminating(&pod));
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let options = DeleteOptions {
            grace_seconds: Some(seconds),
            ..DeleteOptions::default()
        };
        if !marked && let Err(error) = self.api.delete(Kind::Pod, NAMESPACE, name, &options) {
            tracing::warn!("{}", refused("delete", Kind::Pod, name, &error));
        }
    }

    /// The present state of one object and every later one (states between two looks may be left out).
    #[must_use]
    pub fn watch_one(&self, kind: Kind, name: &str) -> watch::Receiver<Option<Value>> {
        let mut changes = self.api.subscribe();
        let (sender, receiver) = watch::channel(self.get(kind, name));
        let store = self.clone();
        let name = name.to_owned();
        tokio::spawn(async move {
            loop {
                let concerned = tokio::select! {
                    () = sender.closed() => return,
                    change = changes.recv() => match change {
                        Ok(change) => {
                            let of = change.object.pointer("/metadata/name").and_then(Value::as_str);
                            change.kind == kind && of == Some(&name)
                        }
                        // Some were missed: the present state is what counts.
                        Err(RecvError::Lagged(_)) => true,
                        Err(RecvError::Closed) => return,
                    },
                };
                if concerned {
                    sender.send_replace(store.get(kind, &name));
                }
            }
        });
        receiver
    }

    /// Where a Service sends a new connection: the first pod that its selector selects.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> Option<SocketAddrV4> {
        let service = self.get(Kind::Service, service)?;
        let selector = service.pointer("/spec/selector")?.as_object()?.clone();
        if selector.is_empty() {
            return None;
        }
        let pods = self.api.list(Kind::Pod, NAMESPACE);
        let pod = pods.iter().find(|pod| {
            let labels = pod.pointer("/metadata/labels");
            selector
                .iter()
                .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })?;
        let ip = pod.pointer("/status/podIP")?.as_str()?.parse().ok()?;
        Some(SocketAddrV4::new(ip, POSTGRES_PORT))
    }
}

/// The object was told to go.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|at| !at.is_null())
}

fn refused(verb: &str, kind: Kind, name: &str, error: &super::api::ApiError) -> anyhow::Error {
    anyhow!("cannot {verb} {kind} {name}: {}", error.to_status())
}
