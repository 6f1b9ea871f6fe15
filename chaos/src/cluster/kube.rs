//! Kubernetes' objects as plain values, each request bounded.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http::Request;
use k8s_openapi::ByteString;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::names::{CLUSTER, POSTGRES_PORT, PRIMARY_ADDRESS, STANDBY_MODE};
use crate::oracles::sql::Login;
use crate::oracles::whole::{Objects, env_values};

/// Longest time for one request.
const BOUND: Duration = Duration::from_secs(5);

/// One namespace of a cluster.
#[derive(Clone)]
pub struct Kube {
    client: Client,
    /// The namespace of the members.
    pub namespace: String,
}

impl std::fmt::Debug for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kube({})", self.namespace)
    }
}

impl Kube {
    /// A client for the kubeconfig.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn connect(kubeconfig: &Path, namespace: &str) -> Result<Self> {
        let client = pgbaton::kubernetes::client::connect(Some(kubeconfig)).await?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
        })
    }

    async fn request(&self, method: &str, path: &str, body: Vec<u8>, kind: &str) -> Result<Option<Value>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(body)
            .context("cannot build a request")?;
        match timeout(BOUND, self.client.request::<Value>(request)).await {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(error)) => Err(anyhow!("{method} {path}: {error}")),
            Err(_) => bail!("{method} {path}: no answer within {BOUND:?}"),
        }
    }

    /// The object at this path; none: there is none.
    ///
    /// # Errors
    /// When the API server does not answer in time, or refuses.
    pub async fn get(&self, path: &str) -> Result<Option<Value>> {
        self.request("GET", path, Vec::new(), "application/json").await
    }

    /// What stands at this path, as it is: a log.
    ///
    /// # Errors
    /// As `get`, and when there is no such object.
    pub async fn text(&self, path: &str) -> Result<String> {
        let request = Request::get(path)
            .body(Vec::new())
            .context("cannot build a request")?;
        let answer = timeout(BOUND, self.client.request_text(request)).await;
        answer
            .with_context(|| format!("GET {path}: no answer within {BOUND:?}"))?
            .map_err(|error| anyhow!("GET {path}: {error}"))
    }

    /// Deletes it, with the object's own grace period or with this one.
    ///
    /// # Errors
    /// As `get`.
    pub async fn delete(&self, path: &str, grace: Option<u32>) -> Result<()> {
        let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        if let Some(seconds) = grace {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        let body = options.to_string().into_bytes();
        self.request("DELETE", path, body, "application/json").await?;
        Ok(())
    }

    /// Makes an object in the collection at this path.
    ///
    /// # Errors
    /// As `get`.
    pub async fn create(&self, path: &str, object: &Value) -> Result<()> {
        let body = object.to_string().into_bytes();
        let made = self.request("POST", path, body, "application/json").await?;
        made.map(|_| ())
            .with_context(|| format!("POST {path}: not found"))
    }

    /// A merge patch.
    ///
    /// # Errors
    /// As `get`, and when there is no such object.
    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let body = patch.to_string().into_bytes();
        let patched = self
            .request("PATCH", path, body, "application/merge-patch+json")
            .await?;
        patched.with_context(|| format!("PATCH {path}: not found"))
    }

    /// Path of an object, or of a collection when `name` is empty.
    #[must_use]
    pub fn path(&self, kind: Kind, name: &str) -> String {
        let namespace = &self.namespace;
        let base = match kind {
            Kind::Lease => format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
            Kind::Service => format!("/api/v1/namespaces/{namespace}/services"),
            Kind::StatefulSet => format!("/apis/apps/v1/namespaces/{namespace}/statefulsets"),
            Kind::Pod => format!("/api/v1/namespaces/{namespace}/pods"),
            Kind::Claim => format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims"),
            Kind::Event => format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
            Kind::Secret => format!("/api/v1/namespaces/{namespace}/secrets"),
            Kind::Node => "/api/v1/nodes".to_owned(),
        };
        if name.is_empty() {
            base
        } else {
            format!("{base}/{name}")
        }
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// As `get`.
    pub async fn list(&self, kind: Kind) -> Result<Vec<Value>> {
        let list = self.get(&self.path(kind, "")).await?.unwrap_or_default();
        Ok(list
            .get("items")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default())
    }

    /// What the check whether the cluster is whole looks at. Pods that are on their way out count only where there is no other.
    ///
    /// # Errors
    /// As `get`.
    pub async fn objects(&self) -> Result<Objects> {
        let (lease, service) = (self.path(Kind::Lease, CLUSTER), self.path(Kind::Service, CLUSTER));
        let (lease, service, sets, pods) = tokio::try_join!(
            self.get(&lease),
            self.get(&service),
            self.list(Kind::StatefulSet),
            self.list(Kind::Pod)
        )?;
        let is_member = |set: &Value| {
            [STANDBY_MODE, PRIMARY_ADDRESS]
                .iter()
                .any(|name| !env_values(set, name).is_empty())
        };
        let sets: BTreeMap<String, Value> = sets
            .into_iter()
            .filter(is_member)
            .filter_map(|set| Some((name_of(&set)?, set)))
            .collect();
        let pods = pods
            .into_iter()
            .filter_map(|pod| Some((pod.pointer("/metadata/labels/app")?.as_str()?.to_owned(), pod)))
            .collect();
        Ok(Objects {
            lease,
            service,
            sets,
            pods,
        })
    }

    /// The Secret's superuser.
    ///
    /// # Errors
    /// When the Secret cannot be read or lacks a key.
    pub async fn login(&self) -> Result<Login> {
        let secret = self.get(&self.path(Kind::Secret, "postgresql")).await?;
        let secret = secret.context("there is no Secret 'postgresql'")?;
        let value = |key: &str| -> Result<String> {
            let value = secret.pointer(&format!("/data/{key}")).cloned();
            let value = value.with_context(|| format!("the Secret 'postgresql' has no key {key}"))?;
            let bytes: ByteString = serde_json::from_value(value).context("the Secret is not base64")?;
            Ok(String::from_utf8(bytes.0)?)
        };
        Ok(Login {
            user: value("POSTGRES_USER")?,
            password: value("POSTGRES_PASSWORD")?,
            database: value("POSTGRES_DB")?,
            port: POSTGRES_PORT,
        })
    }
}

/// Kinds that scenarios touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// coordination.k8s.io/v1
    Lease,
    /// v1
    Service,
    /// apps/v1
    StatefulSet,
    /// v1
    Pod,
    /// v1 PersistentVolumeClaim
    Claim,
    /// events.k8s.io/v1
    Event,
    /// v1
    Secret,
    /// v1
    Node,
}

/// metadata.name
#[must_use]
pub fn name_of(object: &Value) -> Option<String> {
    text(object, "/metadata/name")
}

/// A text at this pointer.
#[must_use]
pub fn text(object: &Value, pointer: &str) -> Option<String> {
    Some(object.pointer(pointer)?.as_str()?.to_owned())
}
