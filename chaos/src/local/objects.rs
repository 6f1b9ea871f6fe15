//! The objects that a manifest would ship: one Lease, the Services, a StatefulSet for each member.

use pgbaton::core::record::Record;
use pgbaton::lease::INITIAL_ANNOTATION;
use serde_json::{Value, json};

use super::api::Rule;
use super::member::Member;
use super::settings::{NAMESPACE, Settings};
use crate::names::{
    CLUSTER, POSTGRES_PORT, PRIMARY_ADDRESS, SERVER_CONTAINER, SIDECAR_CONTAINER, SIDECAR_PORT, STANDBY_MODE,
};

/// The Lease as deploy/ ships it: empty spec, and an initial record that says "never initialised".
#[must_use]
pub fn lease(settings: &Settings) -> Value {
    let record = Record::never_initialised(settings.choice.durability, settings.choice.availability);
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": CLUSTER,
            "namespace": NAMESPACE,
            "annotations": { INITIAL_ANNOTATION: record.render() },
        },
        "spec": {},
    })
}

/// The Services: read-write without a selector (pgbaton owns it), read-only by label, one headless for each member.
#[must_use]
pub fn services(members: &[Member]) -> Vec<Value> {
    let port = json!([{ "name": "postgres", "port": POSTGRES_PORT, "protocol": "TCP" }]);
    let service = |name: &str, spec: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": spec,
        })
    };
    let mut all = vec![
        service(
            CLUSTER,
            json!({ "publishNotReadyAddresses": true, "ports": port }),
        ),
        service(
            "postgres-ro",
            json!({ "selector": { "pgbaton.dev/role": "standby" }, "ports": port }),
        ),
    ];
    for member in members {
        let spec = json!({
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": { "app": member.name },
            "ports": port,
        });
        all.push(service(&member.name, spec));
    }
    all
}

/// Paths that the StatefulSets' templates need beside the member's own.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The binary under test.
    pub pgbaton: String,
    /// The test image's entrypoint.
    pub entrypoint: String,
    /// PATH of the test image.
    pub path: String,
    /// The members' kubeconfig.
    pub kubeconfig: String,
}

/// One member's StatefulSet. Member 1 is the first primary (`STANDBY_MODE=off`), as in the tutorial; every other one names it.
/// The update strategy is the API server's default: to change it to OnDelete is pgbaton's work.
#[must_use]
pub fn stateful_set(settings: &Settings, member: &Member, programs: &Programs) -> Value {
    let labels = json!({ "app": member.name });
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": { "name": member.name, "namespace": NAMESPACE },
        "spec": {
            "replicas": 1,
            "serviceName": member.name,
            "selector": { "matchLabels": labels },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 60,
                    "initContainers": [{
                        "name": SIDECAR_CONTAINER,
                        "image": "pgbaton",
                        "restartPolicy": "Always",
                        "command": [programs.pgbaton, "sidecar"],
                        "env": sidecar_env(settings, member, programs),
                    }],
                    "containers": [{
                        "name": SERVER_CONTAINER,
                        "image": "postgres",
                        "command": server_command(settings, programs),
                        "args": ["-c", format!("config_file={}/postgresql.conf", member.config_directory().display())],
                        "env": server_env(settings, member, programs),
                        "ports": [{ "name": "database", "containerPort": POSTGRES_PORT }],
                    }],
                },
            },
        },
    })
}

fn server_command(settings: &Settings, programs: &Programs) -> Vec<String> {
    let mut command = vec![programs.pgbaton.clone(), "guard".to_owned()];
    if settings.isolation == super::container::Isolation::None {
        command.push("--allow-not-init".to_owned());
    }
    command.extend(["--".to_owned(), programs.entrypoint.clone()]);
    command
}

pub(super) fn plain(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

pub(super) fn secret(key: &str) -> Value {
    json!({ "name": key, "valueFrom": { "secretKeyRef": { "name": "postgresql", "key": key } } })
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

/// `off` and empty for the first member, `on` and its name for the others.
fn role_env(member: &Member) -> [Value; 2] {
    if member.index == 1 {
        [plain(STANDBY_MODE, "off"), plain(PRIMARY_ADDRESS, "")]
    } else {
        [
            plain(STANDBY_MODE, "on"),
            plain(PRIMARY_ADDRESS, &super::settings::member_name(1)),
        ]
    }
}

pub(super) fn image_env(programs: &Programs) -> Vec<Value> {
    vec![plain("PATH", &programs.path), plain("LANG", "C.UTF-8")]
}

fn server_env(settings: &Settings, member: &Member, programs: &Programs) -> Vec<Value> {
    let mut env = image_env(programs);
    env.extend(role_env(member));
    env.extend([
        plain("PGDATA", &member.pgdata().display().to_string()),
        plain("POSTGRES_INITDB_ARGS", "--data-checksums"),
        plain(
            "INITDB_DIRECTORY",
            &member.initdb_directory().display().to_string(),
        ),
        plain("PGBATON_RUN_DIR", &member.run_directory().display().to_string()),
    ]);
    env.extend(["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"].map(secret));
    env.extend(
        settings
            .choice
            .guard_env
            .iter()
            .map(|(name, value)| plain(name, value)),
    );
    env
}

fn sidecar_env(settings: &Settings, member: &Member, programs: &Programs) -> Vec<Value> {
    use pgbaton::core::record::{Availability, Durability};
    let durability = match settings.choice.durability {
        Durability::Sync => "sync",
        Durability::Async => "async",
    };
    let availability = match settings.choice.availability {
        Availability::Available => "available",
        Availability::Strict => "strict",
    };
    let mut env = image_env(programs);
    env.extend(role_env(member));
    env.extend([
        plain("PGBATON_MEMBER", &member.name),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_NAME", "metadata.name"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        plain("PGBATON_LISTEN", &format!("{}:{SIDECAR_PORT}", member.ip)),
        plain("PGBATON_POSTGRES_HOST", &member.ip.to_string()),
        plain("PGBATON_RUN_DIR", &member.run_directory().display().to_string()),
        plain("PGBATON_DURABILITY", durability),
        plain("PGBATON_AVAILABILITY", availability),
        plain("KUBECONFIG", &programs.kubeconfig),
    ]);
    if settings.choice.plain {
        let addresses = super::plain::server_addresses(settings);
        env.push(plain("PGBATON_SERVER_ADDRESSES", &addresses));
    }
    let keys = [
        "POSTGRES_USER",
        "POSTGRES_PASSWORD",
        "POSTGRES_DB",
        "REPLICATION_USER",
        "REPLICATION_PASSWORD",
    ];
    env.extend(keys.map(secret));
    env.extend(
        settings
            .choice
            .sidecar_env
            .iter()
            .map(|(name, value)| plain(name, value)),
    );
    for (_, name, value) in settings
        .choice
        .member_sidecar_env
        .iter()
        .filter(|(index, ..)| *index == member.index)
    {
        env.retain(|variable| variable["name"] != name.as_str());
        env.push(plain(name, value));
    }
    env
}

/// Rights of a member, as deploy/ grants them: by name, nothing to create but events; those of `pgbaton::core::preflight` and no
/// other.
#[must_use]
pub fn member_rights(members: &[Member]) -> Vec<Rule> {
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let pods: Vec<String> = members.iter().map(Member::pod).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let rule = |verbs: &[&str], group: &str, resource: &str| {
        Rule::new(verbs, group, &[resource]).in_namespace(NAMESPACE)
    };
    vec![
        rule(&["list", "watch", "patch"], "coordination.k8s.io", "leases").names(&[CLUSTER]),
        rule(&["get", "watch", "patch"], "", "services").names(&[CLUSTER]),
        rule(&["get", "patch"], "apps", "statefulsets").names(&names),
        rule(&["get", "patch"], "", "pods").names(&pods),
        rule(&["create"], "events.k8s.io", "events"),
    ]
}

/// What the component deploy/adopt adds.
#[must_use]
pub fn adoption_rights() -> Rule {
    Rule::new(&["list"], "apps", &["statefulsets"]).in_namespace(NAMESPACE)
}

/// The pod that a StatefulSet's controller makes of its template, of which `revision` is the name.
#[must_use]
pub fn pod(member: &Member, set: &Value, template: &Value, revision: &str) -> Value {
    let mut labels = template
        .pointer("/metadata/labels")
        .cloned()
        .unwrap_or_else(|| json!({}));
    labels["statefulset.kubernetes.io/pod-name"] = json!(member.pod());
    labels["apps.kubernetes.io/pod-index"] = json!("0");
    labels[super::revision::LABEL] = json!(revision);
    let mut metadata = json!({
        "name": member.pod(),
        "namespace": NAMESPACE,
        "labels": labels,
        "ownerReferences": [{
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "name": member.name,
            "uid": set.pointer("/metadata/uid").cloned().unwrap_or_default(),
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    });
    if let Some(annotations) = template.pointer("/metadata/annotations") {
        metadata["annotations"] = annotations.clone();
    }
    let mut spec = template.get("spec").cloned().unwrap_or_default();
    // A pod on a node: its deletion waits for its kubelet.
    spec["nodeName"] = json!(format!("node-{}", member.index));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": pod_status(member),
    })
}

/// What the kubelet reports of a pod that runs; of its containers it tells later.
#[must_use]
pub fn pod_status(member: &Member) -> Value {
    json!({
        "phase": "Running",
        "podIP": member.ip.to_string(),
        "podIPs": [{ "ip": member.ip.to_string() }],
        "hostIP": "127.0.0.1",
    })
}

/// Sets an env variable wherever it stands in a StatefulSet's template.
pub fn set_env(set: &mut Value, name: &str, value: &str) {
    for list in [
        "/spec/template/spec/initContainers",
        "/spec/template/spec/containers",
    ] {
        let containers = set.pointer_mut(list).and_then(Value::as_array_mut);
        let variables = containers
            .into_iter()
            .flatten()
            .filter_map(|container| container.get_mut("env")?.as_array_mut())
            .flatten();
        for variable in
            variables.filter(|variable| variable.get("name").and_then(Value::as_str) == Some(name))
        {
            variable["value"] = json!(value);
        }
    }
}
