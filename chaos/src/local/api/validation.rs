//! What the real server does to an object before it stores it: types, defaults and the rules of each kind,
//! as far as pgbaton can meet them.

use super::forms;
use super::kinds::{Kind, Resource};
use super::status::FieldError;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod, Secret, Service};
use k8s_openapi::api::events::v1::Event as NewEvent;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Reads the object into the type of its kind and back: wrong types are errors, unknown fields are dropped.
pub fn decode(resource: &Resource, object: Value) -> Result<Value, String> {
    fn typed<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, String> {
        let typed: T = serde_json::from_value(object).map_err(|e| e.to_string())?;
        serde_json::to_value(typed).map_err(|e| e.to_string())
    }
    forms::check_micro_times(resource.kind, &object)?;
    let mut object = match resource.kind {
        Kind::Lease => typed::<Lease>(object),
        Kind::StatefulSet => typed::<StatefulSet>(object),
        Kind::ControllerRevision => typed::<ControllerRevision>(object),
        Kind::Service => typed::<Service>(object),
        Kind::Pod => typed::<Pod>(object),
        Kind::Secret => typed::<Secret>(object),
        Kind::Event if resource.group.is_empty() => typed::<CoreEvent>(object),
        Kind::Event => typed::<NewEvent>(object),
    }?;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("selfLink");
        // An empty map and none are the same thing to the real server; else a no-op would count as a change.
        for field in ["labels", "annotations", "ownerReferences", "finalizers"] {
            let empty = match metadata.get(field) {
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                _ => false,
            };
            if empty {
                metadata.remove(field);
            }
        }
    }
    forms::drop_empty_values(resource.kind, &mut object);
    Ok(object)
}

/// Fills in what the real server fills in (stored form).
pub fn set_defaults(kind: Kind, object: &mut Value) {
    match kind {
        Kind::StatefulSet => {
            let Some(spec) = object.get_mut("spec") else {
                return;
            };
            default(spec, "replicas", json!(1));
            default(spec, "podManagementPolicy", json!("OrderedReady"));
            default(spec, "revisionHistoryLimit", json!(10));
            default(
                spec,
                "persistentVolumeClaimRetentionPolicy",
                json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
            );
            default(spec, "updateStrategy", json!({}));
            default(&mut spec["updateStrategy"], "type", json!("RollingUpdate"));
            // The reason for the 422 on a bare switch to OnDelete: the default is in the object by then.
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
                default(
                    &mut spec["updateStrategy"]["rollingUpdate"],
                    "partition",
                    json!(0),
                );
            }
            if let Some(pod) = spec.pointer_mut("/template/spec") {
                set_pod_defaults(pod);
            }
        }
        Kind::Pod => {
            if let Some(spec) = object.get_mut("spec") {
                set_pod_defaults(spec);
            }
            default(object, "status", json!({}));
            default(&mut object["status"], "phase", json!("Pending"));
        }
        Kind::Service => {
            let Some(spec) = object.get_mut("spec") else {
                return;
            };
            default(spec, "type", json!("ClusterIP"));
            default(spec, "sessionAffinity", json!("None"));
            default(spec, "internalTrafficPolicy", json!("Cluster"));
            for port in spec
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                default(port, "protocol", json!("TCP"));
                let number = port["port"].clone();
                default(port, "targetPort", number);
            }
        }
        Kind::Secret => {
            default(object, "type", json!("Opaque"));
            move_string_data(object);
        }
        Kind::Lease => default(object, "spec", json!({})),
        Kind::Event | Kind::ControllerRevision => {}
    }
}

fn set_pod_defaults(spec: &mut Value) {
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", json!({}));
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        containers.into_iter().flatten().for_each(set_container_defaults);
    }
    let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten() {
        for source in ["secret", "configMap", "projected", "downwardAPI"] {
            if let Some(source) = volume.get_mut(source) {
                default(source, "defaultMode", json!(0o644));
            }
        }
    }
}

fn set_container_defaults(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let tag = image
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once([':', '@']));
    let pull = match tag {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    };
    default(container, "imagePullPolicy", json!(pull));
    default(container, "resources", json!({}));
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    let ports = container.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        default(port, "protocol", json!("TCP"));
    }
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            for (field, value) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                default(probe, field, json!(value));
            }
            if let Some(get) = probe.get_mut("httpGet") {
                default(get, "scheme", json!("HTTP"));
                default(get, "path", json!("/"));
            }
        }
    }
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object[field] = value;
    }
}

/// `stringData` is for writing only: it ends up in `data`.
fn move_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = secret.as_object_mut().and_then(|s| s.remove("stringData")) else {
        return;
    };
    default(secret, "data", json!({}));
    for (key, value) in plain {
        let bytes = ByteString(value.as_str().unwrap_or_default().as_bytes().to_vec());
        secret["data"][key] = json!(bytes);
    }
}

/// Rules for an object by itself (stored form).
#[must_use]
pub fn check(kind: Kind, resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    forms::check_metadata(kind, &object["metadata"], &mut errors);
    match kind {
        Kind::Lease => check_lease(object, &mut errors),
        Kind::StatefulSet => check_statefulset(object, &mut errors),
        Kind::Event => check_event(resource, object, &mut errors),
        Kind::Service => {
            let spec = &object["spec"];
            let none = spec["ports"].as_array().is_none_or(Vec::is_empty);
            if none && spec["clusterIP"] != "None" && spec["type"] != "ExternalName" {
                errors.push(FieldError::required("spec.ports", ""));
            }
            let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
            for (n, port) in ports.iter().enumerate().filter(|_| ports.len() > 1) {
                if port["name"].as_str().is_none_or(str::is_empty) {
                    errors.push(FieldError::required(&format!("spec.ports[{n}].name"), ""));
                }
            }
        }
        Kind::Pod => {
            if object["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
                errors.push(FieldError::required("spec.containers", ""));
            }
            check_env("spec", &object["spec"], &mut errors);
        }
        Kind::ControllerRevision => {
            if object.get("data").is_none_or(Value::is_null) {
                errors.push(FieldError::required("data", "data is mandatory"));
            }
        }
        Kind::Secret => {}
    }
    errors
}

fn check_env(at: &str, pod: &Value, errors: &mut Vec<FieldError>) {
    for list in ["initContainers", "containers"] {
        for (n, container) in pod[list].as_array().into_iter().flatten().enumerate() {
            for (v, variable) in container["env"].as_array().into_iter().flatten().enumerate() {
                if variable["name"].as_str().is_none_or(str::is_empty) {
                    errors.push(FieldError::required(
                        &format!("{at}.{list}[{n}].env[{v}].name"),
                        "",
                    ));
                }
            }
        }
    }
}

fn check_lease(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|n| n <= 0) {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            &spec["leaseDurationSeconds"],
            "must be greater than 0",
        ));
    }
    if spec["leaseTransitions"].as_i64().is_some_and(|n| n < 0) {
        errors.push(FieldError::invalid(
            "spec.leaseTransitions",
            &spec["leaseTransitions"],
            "must be greater than or equal to 0",
        ));
    }
}

fn check_statefulset(object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let wanted = spec.pointer("/selector/matchLabels").and_then(Value::as_object);
    if wanted.is_none_or(serde_json::Map::is_empty) {
        errors.push(FieldError::required("spec.selector", ""));
    } else if let Some(wanted) = wanted {
        let labels = spec.pointer("/template/metadata/labels");
        if wanted
            .iter()
            .any(|(k, v)| labels.and_then(|l| l.get(k)) != Some(v))
        {
            errors.push(FieldError::invalid(
                "spec.template.metadata.labels",
                labels.unwrap_or(&Value::Null),
                "`selector` does not match template `labels`",
            ));
        }
    }
    if spec
        .pointer("/template/spec/containers")
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        errors.push(FieldError::required("spec.template.spec.containers", ""));
    }
    check_env("spec.template.spec", &spec["template"]["spec"], errors);
    let strategy = &spec["updateStrategy"];
    match strategy["type"].as_str() {
        Some("OnDelete") => {
            if let Some(rolling) = strategy.get("rollingUpdate").filter(|r| !r.is_null()) {
                let mut error = FieldError::invalid(
                    "spec.updateStrategy.rollingUpdate",
                    rolling,
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
                // In Go's own names of the fields, and in their order.
                error.value = Some(format!(
                    "{{\"Partition\":{},\"MaxUnavailable\":{}}}",
                    rolling["partition"], rolling["maxUnavailable"]
                ));
                errors.push(error);
            }
        }
        Some("RollingUpdate") => {}
        _ => errors.push(FieldError::invalid(
            "spec.updateStrategy",
            strategy,
            "must be 'RollingUpdate' or 'OnDelete'",
        )),
    }
}

fn check_event(resource: &Resource, object: &Value, errors: &mut Vec<FieldError>) {
    let own = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let of = object
        .pointer("/involvedObject/namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if own != if of.is_empty() { "default" } else { of } {
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            &json!(of),
            "does not match event.namespace",
        ));
    }
    if resource.group.is_empty() {
        return;
    }
    if object.get("eventTime").is_none_or(Value::is_null) {
        errors.push(FieldError::required("eventTime", ""));
        // The rest is not looked at then.
        return;
    }
    for (field, told, limit) in [
        ("reportingComponent", "reportingController", 253),
        ("reportingInstance", "reportingInstance", 128),
        ("action", "action", 128),
        ("reason", "reason", 128),
    ] {
        let text = object[field].as_str().unwrap_or_default();
        if text.is_empty() {
            errors.push(FieldError::required(told, ""));
        } else if text.len() > limit {
            let detail = format!("can have at most {limit} characters");
            errors.push(FieldError::invalid(told, &json!(""), detail));
        }
    }
    if let Some(wrong) = object["reportingComponent"]
        .as_str()
        .filter(|c| !c.is_empty())
        .and_then(forms::wrong_key)
    {
        let told = &object["reportingComponent"];
        errors.push(FieldError::invalid("reportingController", told, wrong));
    }
    if object["message"].as_str().is_some_and(|m| m.len() > 1024) {
        errors.push(FieldError::invalid(
            "message",
            &json!(""),
            "can have at most 1024 characters",
        ));
    }
    if !matches!(object["type"].as_str(), Some("Normal" | "Warning")) {
        let given = object["type"].as_str().unwrap_or_default();
        let detail = format!("has invalid value: {given}");
        errors.push(FieldError::invalid("type", &json!(""), detail));
    }
}

/// Rules for a change (both in stored form).
#[must_use]
pub fn check_change(resource: &Resource, old: &Value, new: &Value) -> Vec<FieldError> {
    match resource.kind {
        Kind::StatefulSet => {
            let fixed = |object: &Value| {
                let mut spec = object["spec"].clone();
                for field in [
                    "replicas",
                    "ordinals",
                    "template",
                    "updateStrategy",
                    "revisionHistoryLimit",
                    "persistentVolumeClaimRetentionPolicy",
                    "minReadySeconds",
                ] {
                    spec.as_object_mut().map(|s| s.remove(field));
                }
                spec
            };
            if fixed(old) == fixed(new) {
                return Vec::new();
            }
            vec![FieldError::forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            )]
        }
        Kind::Pod => check_pod_change(old, new),
        // Only the old form lets an event be written anew.
        Kind::Event if !resource.group.is_empty() => {
            ["involvedObject", "message", "reason", "type", "action"]
                .into_iter()
                .filter(|field| old[*field] != new[*field])
                .map(|field| FieldError::invalid(field, &new[field], "field is immutable"))
                .collect()
        }
        Kind::ControllerRevision if old["data"] != new["data"] => {
            vec![FieldError::invalid("data", &new["data"], "field is immutable")]
        }
        Kind::Lease | Kind::Service | Kind::Secret | Kind::Event | Kind::ControllerRevision => Vec::new(),
    }
}

fn check_pod_change(old: &Value, new: &Value) -> Vec<FieldError> {
    let fixed = |object: &Value| {
        let mut spec = object["spec"].clone();
        for field in [
            "activeDeadlineSeconds",
            "terminationGracePeriodSeconds",
            "tolerations",
            "nodeName",
        ] {
            spec.as_object_mut().map(|s| s.remove(field));
        }
        for list in ["containers", "initContainers"] {
            for c in spec
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                c.as_object_mut().map(|c| c.remove("image"));
            }
        }
        spec
    };
    if fixed(old) == fixed(new) {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`, \
                 `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions \
                 to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                 previously negative)",
    )]
}
