//! The ground a contract test stands on: a namespace, a client that may do everything, and one that may little.
//! By default that is the embedded server. With `PGBATON_CONTRACT_KUBECONFIG` (a cluster administrator's) it is a real
//! Kubernetes: each test makes a namespace `pgbaton-contract-*` there with a ServiceAccount of limited rights, and
//! removes it, also when the test fails. For the cluster of `chaos/cluster`, which is reached from a network namespace:
//!
//! ```sh
//! PGBATON_CONTRACT_KUBECONFIG=/var/tmp/pgbaton-cluster/admin.kubeconfig nsenter --net=/run/netns/pgb-client \
//!     cargo test --release --locked -p pgbaton-chaos --test api_contract
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "a test may end here; the lint knows only functions marked as tests"
)]
#![allow(dead_code, reason = "each test file uses a part of it")]

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use pgbaton_chaos::local::api::{ADMIN, ApiServer, Options, Rule};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const VARIABLE: &str = "PGBATON_CONTRACT_KUBECONFIG";
/// The ServiceAccount that may little.
const MEMBER: &str = "member";
/// How long a real cluster may take until new rights hold, or to begin to remove a namespace.
const BOUND: Duration = Duration::from_secs(30);

pub struct Ground {
    pub namespace: String,
    /// The full name of who may little.
    pub user: String,
    pub admin: Client,
    pub member: Client,
    pub stranger: Client,
    pub anonymous: Client,
    _server: Server,
}

/// What is to be taken away at the end.
enum Server {
    Embedded { _server: ApiServer },
    Real { config: Box<Config>, namespace: String },
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
        let user = account(&namespace);
        server.add_user(&user, "member-token", rules);
        let admin = client_for(&server, ADMIN).await;
        let member = client_for(&server, &user).await;
        let text = server
            .kubeconfig(&user, &namespace)
            .unwrap()
            .replace("member-token", "nobodys-token");
        let stranger = client_from(&text).await;
        let mut no_token = Kubeconfig::from_yaml(&text).unwrap();
        no_token.auth_infos.clear();
        no_token.contexts[0].context.as_mut().unwrap().user = None;
        let anonymous = client_of(no_token).await;
        Self {
            namespace,
            user,
            admin,
            member,
            stranger,
            anonymous,
            _server: Server::Embedded { _server: server },
        }
    }

    async fn real(path: &str) -> Self {
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        // Every answer is to be seen, and every wait has an end.
        config.default_retry = false;
        config.connect_timeout = Some(BOUND);
        config.read_timeout = Some(2 * BOUND);
        let admin = Client::try_from(config.clone()).unwrap();
        let namespace: Api<Namespace> = Api::all(admin.clone());
        let made = object(json!({"metadata": {"generateName": "pgbaton-contract-"}}));
        let made: Namespace = namespace.create(&PostParams::default(), &made).await.unwrap();
        let namespace = made.metadata.name.unwrap();
        // From here on it is removed whatever happens.
        let server = Server::Real {
            config: Box::new(config.clone()),
            namespace: namespace.clone(),
        };
        let token = member_token(&admin, &namespace).await;
        let with_token = |token: &str| {
            let mut config = config.clone();
            config.auth_info = serde_json::from_value(json!({ "token": token })).unwrap();
            Client::try_from(config).unwrap()
        };
        let mut as_nobody = config.clone();
        as_nobody.auth_info = serde_json::from_value(json!({})).unwrap();
        let ground = Self {
            user: account(&namespace),
            member: with_token(&token),
            stranger: with_token("nobodys-token"),
            anonymous: Client::try_from(as_nobody).unwrap(),
            namespace,
            admin,
            _server: server,
        };
        ground.rights_hold().await;
        ground
    }

    /// Waits until the real authoriser has heard of the new rights.
    async fn rights_hold(&self) {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.member.clone());
        let asked = object(
            json!({ "spec": { "resourceAttributes": { "namespace": self.namespace, "verb": "create",
            "group": "events.k8s.io", "resource": "events" } } }),
        );
        let began = Instant::now();
        loop {
            let answer = reviews.create(&PostParams::default(), &asked).await;
            if answer
                .as_ref()
                .is_ok_and(|a| a.status.as_ref().is_some_and(|s| s.allowed))
            {
                return;
            }
            assert!(began.elapsed() < BOUND, "the rights do not hold: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// Ends it in view of the compiler: a ground that is dropped early would take the server with it.
    pub async fn end(self) {
        drop(self);
    }
}

impl Drop for Server {
    /// Removes what a real cluster would keep, in a thread of its own: the test's runtime may be ending.
    fn drop(&mut self) {
        let Self::Real { config, namespace } = self else {
            return;
        };
        let (config, namespace) = (config.as_ref().clone(), namespace.clone());
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let namespaces: Api<Namespace> = Api::all(Client::try_from(config).unwrap());
                let parameters = DeleteParams::default();
                tokio::time::timeout(BOUND, namespaces.delete(&namespace, &parameters)).await
            })
        });
        let removed = removal.join();
        if !matches!(removed, Ok(Ok(Ok(_)))) {
            eprintln!("a namespace of this test may be left behind: {removed:?}");
        }
    }
}

/// The name under which the ServiceAccount asks.
fn account(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:{MEMBER}")
}

/// Makes the ServiceAccount with its rights, and a token for it.
async fn member_token(admin: &Client, namespace: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let account = object(json!({ "metadata": { "name": MEMBER } }));
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let roles: Api<Role> = Api::namespaced(admin.clone(), namespace);
    let role = object(json!({ "metadata": { "name": MEMBER }, "rules": member_rules() }));
    roles.create(&PostParams::default(), &role).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(admin.clone(), namespace);
    let binding = object(json!({
        "metadata": { "name": MEMBER },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": MEMBER },
        "subjects": [{ "kind": "ServiceAccount", "name": MEMBER, "namespace": namespace }],
    }));
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let request: TokenRequest = object(json!({ "spec": { "audiences": [], "expirationSeconds": 3600 } }));
    let answer = accounts
        .create_token_request(MEMBER, &PostParams::default(), &request)
        .await
        .unwrap();
    answer.status.unwrap().token
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
pub fn object<K: k8s_openapi::Resource + DeserializeOwned + Serialize>(mut value: Value) -> K {
    value["apiVersion"] = K::API_VERSION.into();
    value["kind"] = K::KIND.into();
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

/// A pod's spec with everything that pgbaton looks at.
pub fn pod_spec() -> Value {
    json!({
        "initContainers": [{"name": "init", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}]}],
        "containers": [{"name": "c", "image": "registry.example:5000/c:1", "ports": [{"containerPort": 5432}],
            "readinessProbe": {"httpGet": {"port": 8008}}}],
        "volumes": [{"name": "s", "secret": {"secretName": "x"}}],
    })
}

/// It has no pods: a real cluster could not start them.
pub fn statefulset(name: &str) -> StatefulSet {
    object(
        json!({"metadata": {"name": name}, "spec": {"serviceName": name, "replicas": 0,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec()}}}),
    )
}

/// A pod that no node takes.
pub fn gated_pod(name: &str) -> Pod {
    let mut spec = pod_spec();
    spec["schedulingGates"] = json!([{"name": "pgbaton.dev/contract"}]);
    object(json!({"metadata": {"name": name}, "spec": spec}))
}

/// The code, the reason and the message of a raw request; of one that succeeds 200 and the body.
pub async fn raw(
    client: &Client,
    method: &str,
    path: &str,
    media: &str,
    body: &str,
) -> (u16, String, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media);
    let request = request.body(body.as_bytes().to_vec()).unwrap();
    match client.request_text(request).await {
        Ok(text) => (200, String::new(), text),
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone(), status.message.clone()),
        Err(other) => panic!("{method} {path}: {other:?}"),
    }
}
