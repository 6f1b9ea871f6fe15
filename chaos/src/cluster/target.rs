//! The cluster under test.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use pgbaton::core::record::Record;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::hosts::Hosts;
use super::kube::{Kind, Kube, text};
use crate::names::CLUSTER;
use crate::oracles::remains;
use crate::oracles::sql::{self, Login};
use crate::oracles::trial::Subject;
use crate::oracles::whole::{Objects, Server, missing};

/// Between two looks whether the cluster is whole: several requests each.
const LOOK: Duration = Duration::from_millis(300);

/// A cluster with members in one namespace.
#[derive(Debug)]
pub struct Target {
    /// Its objects.
    pub kube: Kube,
    /// Names of the StatefulSets, as they were at the start.
    pub members: Vec<String>,
    /// The Secret's superuser.
    pub login: Login,
    /// Where clients write.
    pub service: Ipv4Addr,
    /// The machine's own hosts; none: somebody else's cluster, only its API can be used.
    pub hosts: Option<Hosts>,
    /// For commands.
    pub kubeconfig: PathBuf,
    /// The binary whose commands are used.
    pub pgbaton: PathBuf,
    /// kubectl, with its first arguments.
    pub kubectl: Vec<String>,
    /// The StatefulSets as they were applied first, by name.
    pub manifests: BTreeMap<String, Value>,
}

/// What people's commands are run with.
#[derive(Debug, Clone)]
pub struct Tools {
    /// For all of them.
    pub kubeconfig: PathBuf,
    /// The binary.
    pub pgbaton: PathBuf,
    /// kubectl, with its first arguments.
    pub kubectl: Vec<String>,
}

/// A member's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its address; none: not yet.
    pub ip: Option<Ipv4Addr>,
    /// Its node.
    pub node: Option<String>,
    /// Being deleted.
    pub ends: bool,
}

/// What a pod object says.
#[must_use]
pub fn pod_seen(pod: &Value) -> Option<PodSeen> {
    Some(PodSeen {
        name: text(pod, "/metadata/name")?,
        uid: text(pod, "/metadata/uid")?,
        ip: text(pod, "/status/podIP").and_then(|ip| ip.parse().ok()),
        node: text(pod, "/spec/nodeName"),
        ends: pod.pointer("/metadata/deletionTimestamp").is_some(),
    })
}

impl Target {
    /// Looks at the cluster and takes what is needed to judge it.
    ///
    /// # Errors
    /// When the cluster is not there, or not pgbaton's.
    pub async fn find(kube: Kube, hosts: Option<Hosts>, tools: Tools) -> Result<Self> {
        let login = kube.login().await?;
        let objects = kube.objects().await?;
        let service = objects
            .service
            .as_ref()
            .context("there is no Service 'postgres'")?;
        let service = text(service, "/spec/clusterIP").and_then(|ip| ip.parse().ok());
        let members: Vec<String> = objects.sets.keys().cloned().collect();
        anyhow::ensure!(
            !members.is_empty(),
            "namespace {} has no StatefulSet with STANDBY_MODE: apply deploy/overlays/tutorial first",
            kube.namespace
        );
        Ok(Self {
            kube,
            members,
            login,
            service: service.context("the Service 'postgres' has no IPv4 cluster IP")?,
            hosts,
            kubeconfig: tools.kubeconfig,
            pgbaton: tools.pgbaton,
            kubectl: tools.kubectl,
            manifests: objects
                .sets
                .iter()
                .map(|(name, set)| (name.clone(), applied(set)))
                .collect(),
        })
    }

    /// The hosts, for what only they can do.
    ///
    /// # Errors
    /// In somebody else's cluster.
    pub fn hosts(&self) -> Result<&Hosts> {
        self.hosts
            .as_ref()
            .context("not possible here: this is not the machine's own cluster")
    }

    /// The recorded primary's name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn primary(&self) -> Result<String> {
        let record = self.record().await.context("the Lease has no readable record")?;
        let primary = record.primary.context("the record names no primary")?;
        Ok(primary.member.as_str().to_owned())
    }

    /// A member's present pod.
    ///
    /// # Errors
    /// When there is none.
    pub async fn pod(&self, member: &str) -> Result<PodSeen> {
        let pod = self
            .kube
            .get(&self.kube.path(Kind::Pod, &format!("{member}-0")))
            .await?;
        pod.as_ref()
            .and_then(pod_seen)
            .with_context(|| format!("there is no pod {member}-0"))
    }

    /// Waits until the record names another primary than this one.
    ///
    /// # Errors
    /// When it does not within `bound`.
    pub async fn taken_over(&self, from: &str, bound: Duration) -> Result<String> {
        let deadline = Instant::now() + bound;
        loop {
            if let Ok(primary) = self.primary().await
                && primary != from
            {
                return Ok(primary);
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "nobody took over from {from} within {bound:?}"
            );
            sleep(LOOK).await;
        }
    }

    fn servers_in(&self, objects: &Objects) -> Vec<Server> {
        let server = |name: &String| {
            let pod = objects.pods.get(name).and_then(pod_seen)?;
            Some(Server {
                name: name.clone(),
                ip: pod.ip?,
            })
        };
        self.members.iter().filter_map(server).collect()
    }

    async fn missing(&self, since: Option<Timestamp>) -> Vec<String> {
        let objects = match self.kube.objects().await {
            Ok(objects) => objects,
            Err(error) => return vec![format!("the API server cannot be asked: {error:#}")],
        };
        let servers = self.servers_in(&objects);
        let mut all: Vec<String> = self
            .members
            .iter()
            .filter(|name| !servers.iter().any(|server| server.name == **name))
            .map(|name| format!("{name} has no pod with an address"))
            .collect();
        if all.is_empty() {
            all = missing(&self.login, &objects, &servers, since).await;
        }
        if all.is_empty() {
            all = ready_and_labelled(&objects);
        }
        let primary = objects.record().and_then(|record| record.primary);
        if let Some(primary) = primary.filter(|_| all.is_empty()) {
            all = remains::left(&self.login, &servers, primary.member.as_str()).await;
        }
        all
    }
}

/// Kubernetes' own view: every pod is ready and labelled with its role, and every StatefulSet is switched to OnDelete.
fn ready_and_labelled(objects: &Objects) -> Vec<String> {
    let mut all = Vec::new();
    let record = objects.record();
    let primary = record.as_ref().and_then(|record| record.primary.as_ref());
    for (member, set) in &objects.sets {
        let strategy = text(set, "/spec/updateStrategy/type").unwrap_or_default();
        if strategy != "OnDelete" {
            all.push(format!(
                "StatefulSet {member} has update strategy {strategy}, not OnDelete"
            ));
        }
        let Some(pod) = objects.pods.get(member) else {
            continue;
        };
        let ready = pod
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|c| c["type"] == "Ready" && c["status"] == "True")
            });
        if !ready {
            all.push(format!("the pod of {member} is not ready"));
        }
        let wanted = if primary.is_some_and(|p| p.member.as_str() == member) {
            "primary"
        } else {
            "standby"
        };
        let role = pod
            .pointer("/metadata/labels/pgbaton.dev~1role")
            .and_then(Value::as_str);
        if role != Some(wanted) {
            all.push(format!(
                "the pod of {member} has role label {role:?}, not {wanted}"
            ));
        }
    }
    all
}

/// A StatefulSet as somebody applies it: without what the API server added.
fn applied(set: &Value) -> Value {
    let mut set = set.clone();
    if let Some(object) = set.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = set.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| ["name", "namespace", "labels"].contains(&key.as_str()));
    }
    set
}

impl Subject for Target {
    async fn record(&self) -> Option<Record> {
        let lease = self
            .kube
            .get(&self.kube.path(Kind::Lease, CLUSTER))
            .await
            .ok()??;
        crate::oracles::whole::record_of(&lease)
    }

    /// The pod and the start of the postmaster.
    async fn servers(&self) -> BTreeMap<String, String> {
        let Ok(objects) = self.kube.objects().await else {
            return BTreeMap::new();
        };
        let asked = self.servers_in(&objects).into_iter().map(|server| async move {
            let question = "SELECT pg_postmaster_start_time()::text";
            let started = sql::ask_one(&self.login, server.ip, question).await.ok()?;
            Some((server.name, format!("{} {started}", server.ip)))
        });
        futures_util::future::join_all(asked)
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    async fn wait_whole_since(&self, since: Timestamp, bound: Duration) -> Result<(), Vec<String>> {
        let deadline = Instant::now() + bound;
        loop {
            let missing = self.missing(Some(since)).await;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(missing);
            }
            sleep(LOOK).await;
        }
    }
}
