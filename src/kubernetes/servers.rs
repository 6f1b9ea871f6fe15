//! Which servers there are: every StatefulSet of the namespace whose template carries a member's variables. Needed only until a cluster
//! that was made without pgbaton is adopted (component deploy/adopt grants the right).

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::ListParams;
use kube::{Api, Client};

use super::client::with_causes;
use super::object::CALL_TIMEOUT;
use super::statefulset::carries_variables;
use crate::core::types::{BadMemberName, MemberName};

/// A StatefulSet that runs a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub member: MemberName,
    /// `spec.replicas`.
    pub replicas: u32,
}

/// Why it is not known which servers there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// 403.
    #[error(
        "the right to list StatefulSets in namespace {namespace} is missing: nothing is adopted until it is granted to the service \
         account (component deploy/adopt; rule: apiGroups [\"apps\"], resources [\"statefulsets\"], verbs [\"list\"]) ({message})"
    )]
    Forbidden {
        /// Where.
        namespace: String,
        /// The API server's words.
        message: String,
    },
    /// Any other answer, or none.
    #[error(
        "the StatefulSets of namespace {namespace} could not be listed: {reason}; they are asked for again"
    )]
    Failed {
        /// Where.
        namespace: String,
        /// What went wrong.
        reason: String,
    },
    /// One of them can be no member.
    #[error(
        "StatefulSet {name} carries STANDBY_MODE, and its server cannot be asked: {reason}; rename it, or take the variable out"
    )]
    Unnameable {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: BadMemberName,
    },
}

impl ListError {
    /// Asking again changes nothing before somebody grants the right.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }
}

/// Lists them.
///
/// # Errors
/// When they cannot be listed, or one has a name that no member can have.
pub async fn list_servers(client: &Client, namespace: &str) -> Result<Vec<Listed>, ListError> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let namespace = namespace.to_owned();
    let sets = match tokio::time::timeout(CALL_TIMEOUT, api.list(&ListParams::default())).await {
        Ok(Ok(sets)) => sets,
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            let message = status.message.clone();
            return Err(ListError::Forbidden { namespace, message });
        }
        Ok(Err(error)) => {
            let reason = with_causes(&error);
            return Err(ListError::Failed { namespace, reason });
        }
        Err(_) => {
            let reason = format!("no answer within {CALL_TIMEOUT:?}");
            return Err(ListError::Failed { namespace, reason });
        }
    };
    let servers = sets.items.into_iter().filter(carries_variables);
    let named = servers.map(|set| {
        let name = set.metadata.name.unwrap_or_default();
        let replicas = set.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        match name.parse() {
            Ok(member) => Ok(Listed {
                member,
                replicas: u32::try_from(replicas).unwrap_or(0),
            }),
            Err(reason) => Err(ListError::Unnameable { name, reason }),
        }
    });
    named.collect()
}

#[cfg(test)]
#[path = "servers_tests.rs"]
mod tests;
