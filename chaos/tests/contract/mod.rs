//! The ground a contract test stands on: a namespace, a client that may do everything, and one that may little.
//! With `PGBATON_CONTRACT_KUBECONFIG` (a cluster administrator's) it is a real Kubernetes, else the embedded server.

#![allow(
    clippy::unwrap_used,
    reason = "a test may end here; the lint knows only functions marked as tests"
)]
#![allow(dead_code, reason = "each test file uses a part of it")]

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use pgbaton_chaos::local::api::{ADMIN, ApiServer, Options, Rule};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const VARIABLE: &str = "PGBATON_CONTRACT_KUBECONFIG";
/// Who may little.
pub const MEMBER: &str = "pgbaton-contract";

pub struct Ground {
    pub namespace: String,
    pub admin: Client,
    pub member: Client,
    pub stranger: Client,
    pub anonymous: Client,
    embedded: Option<ApiServer>,
}

/// What [`MEMBER`] may, as the rules of a Role.
fn member_rules() -> Value {
    json!([
        {"verbs": ["get", "list", "watch", "patch"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
         "resourceNames": ["postgres"]},
        {"verbs": ["create"], "apiGroups": ["events.k8s.io"], "resources": ["events"]},
    ])
}

impl Ground {
    pub async fn new() -> Self {
        match std::env::var(VARIABLE) {
            Ok(path) => Self::real(&path).await,
            Err(_) => Self::embedded().await,
        }
    }

    async fn embedded() -> Self {
        let options = Options {
            log_limit: 16,
            ..Options::default()
        };
        let server = ApiServer::start("127.0.0.1:0".parse().unwrap(), options)
            .await
            .unwrap();
        let namespace = "contract".to_owned();
        let role: Vec<k8s_openapi::api::rbac::v1::PolicyRule> =
            serde_json::from_value(member_rules()).unwrap();
        let rules = role
            .iter()
            .map(|r| Rule::from_policy(r, Some(&namespace)))
            .collect();
        server.add_user(MEMBER, "member-token", rules);
        let admin = client_for(&server, ADMIN).await;
        let member = client_for(&server, MEMBER).await;
        let text = server
            .kubeconfig(MEMBER, &namespace)
            .unwrap()
            .replace("member-token", "nobodys-token");
        let stranger = client_from(&text).await;
        let mut no_token = Kubeconfig::from_yaml(&text).unwrap();
        no_token.auth_infos.clear();
        no_token.contexts[0].context.as_mut().unwrap().user = None;
        let anonymous = client_of(no_token).await;
        Self {
            namespace,
            admin,
            member,
            stranger,
            anonymous,
            embedded: Some(server),
        }
    }

    async fn real(path: &str) -> Self {
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        let admin = Client::try_from(config.clone()).unwrap();
        let namespace: Api<Namespace> = Api::all(admin.clone());
        let made = object(json!({"metadata": {"generateName": "pgbaton-contract-"}}));
        let made: Namespace = namespace.create(&PostParams::default(), &made).await.unwrap();
        let namespace = made.metadata.name.unwrap();
        let roles: Api<Role> = Api::namespaced(admin.clone(), &namespace);
        let role = object(json!({"metadata": {"name": "member"}, "rules": member_rules()}));
        roles.create(&PostParams::default(), &role).await.unwrap();
        let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), &namespace);
        let binding = object(json!({
            "metadata": {"name": "member"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "member"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": MEMBER}],
        }));
        bindings.create(&PostParams::default(), &binding).await.unwrap();
        let mut as_member = config.clone();
        as_member.auth_info.impersonate = Some(MEMBER.to_owned());
        let mut as_nobody = config.clone();
        as_nobody.auth_info = serde_json::from_value(json!({})).unwrap();
        let mut as_stranger = config;
        as_stranger.auth_info = serde_json::from_value(json!({"token": "nobodys-token"})).unwrap();
        let member = Client::try_from(as_member).unwrap();
        let stranger = Client::try_from(as_stranger).unwrap();
        let anonymous = Client::try_from(as_nobody).unwrap();
        Self {
            namespace,
            admin,
            member,
            stranger,
            anonymous,
            embedded: None,
        }
    }

    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// Removes what a real cluster would keep.
    pub async fn end(self) {
        if self.embedded.is_none() {
            let namespaces: Api<Namespace> = Api::all(self.admin.clone());
            namespaces
                .delete(&self.namespace, &DeleteParams::default())
                .await
                .unwrap();
        }
    }
}

pub async fn client_for(server: &ApiServer, user: &str) -> Client {
    client_from(&server.kubeconfig(user, "contract").unwrap()).await
}

async fn client_from(kubeconfig: &str) -> Client {
    client_of(Kubeconfig::from_yaml(kubeconfig).unwrap()).await
}

async fn client_of(kubeconfig: Kubeconfig) -> Client {
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    // Faults are to be seen, not to be papered over.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// A typed object from JSON (k8s-openapi wants the type's name in it).
pub fn object<K: kube::Resource + DeserializeOwned + Serialize>(mut value: Value) -> K
where
    K::DynamicType: Default,
{
    let kind = K::DynamicType::default();
    value["apiVersion"] = K::api_version(&kind).into_owned().into();
    value["kind"] = K::kind(&kind).into_owned().into();
    serde_json::from_value(value).unwrap()
}

/// The code and the reason of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

/// The text of a refusal.
pub fn message<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> String {
    match result {
        Err(kube::Error::Api(status)) => status.message.clone(),
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

pub async fn leases_with_one(ground: &Ground) -> (Api<Lease>, Lease) {
    let leases: Api<Lease> = ground.api(&ground.admin);
    let lease = object(json!({"metadata": {"name": "postgres"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 10, "renewTime": "2026-01-01T00:00:00.000001Z"}}));
    let lease = leases.create(&PostParams::default(), &lease).await.unwrap();
    (leases, lease)
}

pub async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<K, kube::Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

pub fn number(object: &impl ResourceExt) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}
