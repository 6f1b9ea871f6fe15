//! What `kubectl kustomize` makes of a folder, as values and as Kubernetes' own types.

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A command line, its arguments separated by spaces.
const KUBECTL: &str = "PGBATON_KUBECTL";

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The objects of a folder.
pub struct Rendered {
    pub folder: String,
    pub text: String,
    pub objects: Vec<Value>,
}

impl Rendered {
    /// A folder of the repository.
    pub fn of(folder: &str) -> Self {
        let kubectl = std::env::var(KUBECTL).unwrap_or_else(|_| "kubectl".to_owned());
        Self::by(&kubectl, &root().join(folder)).unwrap_or_else(|why| panic!("{folder}: {why}"))
    }

    pub fn by(kubectl: &str, folder: &Path) -> Result<Self, String> {
        let mut words = kubectl.split_whitespace();
        let program = words.next().unwrap_or_default();
        let out = Command::new(program)
            .args(words)
            .arg("kustomize")
            .arg(folder)
            .output()
            .map_err(|e| {
                format!(
                    "cannot run '{kubectl}': {e}. These tests need kubectl 1.32 or newer and no cluster: install it, or name it with \
                     {KUBECTL}"
                )
            })?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        let text = String::from_utf8(out.stdout).map_err(|e| e.to_string())?;
        let objects = serde_saphyr::from_multiple(&text).map_err(|e| e.to_string())?;
        let folder = folder.display().to_string();
        Ok(Self {
            folder,
            text,
            objects,
        })
    }

    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|o| o["kind"] == kind).collect()
    }

    pub fn one(&self, kind: &str, name: &str) -> &Value {
        let found = self.all(kind).into_iter().find(|o| name_of(o) == name);
        found.unwrap_or_else(|| panic!("{}: no {kind} {name}", self.folder))
    }

    /// Names of the StatefulSets.
    pub fn members(&self) -> Vec<&str> {
        self.all("StatefulSet").into_iter().map(name_of).collect()
    }
}

pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// The pod's spec in a StatefulSet's template.
pub fn pod(set: &Value) -> &Value {
    &set["spec"]["template"]["spec"]
}

/// Containers of a pod, those for its start first.
pub fn containers(pod: &Value) -> Vec<&Value> {
    let list = |name: &str| pod[name].as_array().into_iter().flatten();
    list("initContainers").chain(list("containers")).collect()
}

/// The container of this name.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let found = containers(pod).into_iter().find(|c| c["name"] == name);
    found.unwrap_or_else(|| panic!("no container {name}"))
}

/// The value of a container's variable; none: it is not set.
pub fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    container["env"].as_array()?.iter().find(|v| v["name"] == name)
}

/// Where a container mounts a volume; none: it does not.
pub fn mount<'a>(container: &'a Value, volume: &str) -> Option<&'a Value> {
    let mounts = container["volumeMounts"].as_array()?;
    mounts.iter().find(|m| m["name"] == volume)
}

/// What of `object` its type does not know; empty: everything is known.
pub fn unknown(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    match (object["apiVersion"].as_str().unwrap_or_default(), kind) {
        ("v1", "ConfigMap") => lost::<ConfigMap>(object),
        ("v1", "Namespace") => lost::<Namespace>(object),
        ("v1", "Service") => lost::<Service>(object),
        ("v1", "ServiceAccount") => lost::<ServiceAccount>(object),
        ("apps/v1", "StatefulSet") => lost::<StatefulSet>(object),
        ("coordination.k8s.io/v1", "Lease") => lost::<Lease>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => lost::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => lost::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => lost::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => lost::<RoleBinding>(object),
        ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema") => lost::<FlowSchema>(object),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            lost::<ValidatingAdmissionPolicy>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            lost::<ValidatingAdmissionPolicyBinding>(object)
        }
        (version, kind) => vec![format!("{version} {kind} is not shipped")],
    }
}

/// A field that the type does not know is dropped when it is read, and missing when it is written again.
fn lost<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<String> {
    let typed: T = match serde_json::from_value(object.clone()) {
        Ok(typed) => typed,
        Err(e) => return vec![e.to_string()],
    };
    let again = serde_json::to_value(typed).unwrap();
    let mut found = Vec::new();
    compare("", object, &again, &mut found);
    found
}

fn compare(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(b), Value::Object(a)) => {
            for (key, value) in b {
                compare(
                    &format!("{path}/{key}"),
                    value,
                    a.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(b), Value::Array(a)) if b.len() == a.len() => {
            for (at, (b, a)) in b.iter().zip(a).enumerate() {
                compare(&format!("{path}/{at}"), b, a, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{path}: {before} became {after}")),
    }
}
