//! A namespace of its own for one test, with the tutorial's Secret and a volume for each member. All of it is removed at the end, however
//! the test ends (PGBATON_KEEP=1: only what passed); a test that fails shows what the cluster says first.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgbaton_chaos::cluster::kube::Kube;
use pgbaton_chaos::cluster::target::{Target, Tools};
use pgbaton_chaos::names::STANDBY_MODE;
use pgbaton_chaos::oracles::trial::Subject as _;
use serde_json::{Value, json};

use super::kubectl::{BOUND, Kubectl, eventually, root};

/// POSTGRES_PASSWORD of every place.
pub const PASSWORD: &str = "a1b2c3d4";
/// The three members of most tests.
pub const MEMBERS: [&str; 3] = ["postgres-1", "postgres-2", "postgres-3"];
/// Tag of the image in the manifests.
pub const SHIPPED: &str = "0.1.0";
/// Lines of each log that are shown when a test fails.
const SHOWN: usize = 25;

pub struct Place {
    pub kubectl: Kubectl,
    pub namespace: String,
    volumes: PathBuf,
    folder: tempfile::TempDir,
}

impl Place {
    /// The namespace has a new name in each run: volumes of an earlier one hold its data.
    pub fn new(name: &str, members: &[&str]) -> Self {
        let place = Self::without_secret(name, members);
        place.secret(&[]);
        place
    }

    pub fn without_secret(name: &str, members: &[&str]) -> Self {
        // Fails only when one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubectl = Kubectl::new();
        let namespace = format!("{name}-{}", std::process::id());
        kubectl.must(&["create", "namespace", &namespace]);
        let script = root().join("chaos/cluster/volumes.sh");
        let made = Command::new(script)
            .arg(&namespace)
            .args(members)
            .status()
            .unwrap();
        assert!(made.success(), "volumes.sh: {made}");
        let volume = format!("{namespace}-{}", members[0]);
        let path = kubectl.must(&["get", "pv", &volume, "-o", "jsonpath={.spec.local.path}"]);
        let volumes = Path::new(&path).parent().unwrap().to_owned();
        assert!(volumes.ends_with(&namespace), "{path}");
        Self {
            kubectl,
            namespace,
            volumes,
            folder: tempfile::tempdir_in(root().join("target")).unwrap(),
        }
    }

    /// The tutorial's Secret, without these keys.
    pub fn secret(&self, left_out: &[&str]) {
        let values = [
            ("POSTGRES_USER", "postgresadmin"),
            ("POSTGRES_PASSWORD", PASSWORD),
            ("POSTGRES_DB", "postgresdb"),
            ("REPLICATION_USER", "replicationuser"),
            ("REPLICATION_PASSWORD", "replicationPassword"),
        ];
        let literals: Vec<String> = values
            .iter()
            .filter(|(key, _)| !left_out.contains(key))
            .map(|(key, value)| format!("--from-literal={key}={value}"))
            .collect();
        let mut arguments = vec!["create", "secret", "generic", "postgresql"];
        arguments.extend(literals.iter().map(String::as_str));
        self.must(&arguments);
    }

    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.kubectl
            .run(&[&["-n", self.namespace.as_str()], arguments].concat())
    }

    pub fn must(&self, arguments: &[&str]) -> String {
        self.kubectl
            .must(&[&["-n", self.namespace.as_str()], arguments].concat())
    }

    /// An object as it is now; none: there is none.
    pub fn object(&self, what: &str) -> Option<Value> {
        let text = self.run(&["get", what, "-o", "json"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Where manifests are written.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A kustomization of a user's in this namespace over an overlay of deploy/, with more lines of YAML; gives its folder.
    pub fn over(&self, overlay: &str, more: &str) -> PathBuf {
        let folder = self.folder.path().join(overlay);
        fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: {}\nresources:\n\
             - ../../../deploy/overlays/{overlay}\nimages:\n- name: pgbaton\n  newTag: {}\n{more}",
            self.namespace,
            tag()
        );
        fs::write(folder.join("kustomization.yaml"), text).unwrap();
        folder
    }

    pub fn apply(&self, folder: &Path) {
        self.kubectl.must(&["apply", "-k", &folder.to_string_lossy()]);
    }

    /// psql within the member's container, as the superuser.
    pub fn sql(&self, member: &str, text: &str) -> Result<String, String> {
        let pod = format!("{member}-0");
        let command = format!("psql -At -U \"$POSTGRES_USER\" -d \"$POSTGRES_DB\" -c \"{text}\"");
        let arguments = ["exec", &pod, "-c", "postgres", "--", "sh", "-c", &command];
        self.run(&arguments).map(|out| out.trim().to_owned())
    }

    /// The member's status page.
    pub fn status(&self, member: &str) -> Option<Value> {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{member}-0:8008/proxy/status",
            self.namespace
        );
        serde_json::from_str(&self.kubectl.run(&["get", "--raw", &path]).ok()?).ok()
    }

    /// One of the member's warnings has all these words.
    pub fn is_warned(&self, member: &str, words: &[&str]) -> bool {
        let Some(page) = self.status(member) else {
            return false;
        };
        let warnings = page["warnings"].as_array().into_iter().flatten();
        let mut texts = warnings.filter_map(Value::as_str);
        texts.any(|text| words.iter().all(|word| text.contains(word)))
    }

    /// Notes of the Events that have this reason.
    pub fn events(&self, reason: &str) -> Vec<String> {
        let list = self.object("events.v1.events.k8s.io").unwrap_or_default();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let of_it = items.iter().filter(|event| event["reason"] == reason);
        of_it
            .map(|event| event["note"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// One Event of this reason has all these words.
    pub fn event_says(&self, reason: &str, words: &[&str]) -> bool {
        let says = |note: &String| words.iter().all(|word| note.contains(word));
        self.events(reason).iter().any(says)
    }

    /// What the container logged, in this life and the one before.
    pub fn log(&self, pod: &str, container: &str) -> String {
        let before = self.run(&["logs", pod, "-c", container, "--previous"]);
        let now = self.run(&["logs", pod, "-c", container]);
        before.unwrap_or_default() + &now.unwrap_or_default()
    }

    /// The directory that is the member's volume.
    pub fn volume(&self, member: &str) -> PathBuf {
        self.volumes.join(member)
    }

    /// Nothing was put into the member's volume.
    pub fn is_empty(&self, member: &str) -> bool {
        fs::read_dir(self.volume(member)).unwrap().next().is_none()
    }

    /// Waits for the StatefulSets' pod to be gone.
    pub fn until_gone(&self, pod: &str) {
        eventually(&format!("pod {pod} is gone"), || {
            self.run(&["get", "pod", pod])
                .is_err_and(|error| error.contains("NotFound"))
        });
    }

    pub async fn kube(&self) -> Kube {
        Kube::connect(&kubeconfig(), &self.namespace).await.unwrap()
    }

    /// The cluster that is here now.
    pub async fn target(&self) -> Target {
        let tools = Tools {
            kubeconfig: kubeconfig(),
            pgbaton: pgbaton(),
            kubectl: Vec::new(),
        };
        Target::find(self.kube().await, None, tools).await.unwrap()
    }

    /// Waits until the cluster that is here is whole: see docs/chaos.md for what that is.
    pub async fn whole(&self) -> Target {
        self.whole_but(|_| false).await
    }

    /// As `whole`, whatever is missing that `is_meant`.
    pub async fn whole_but(&self, is_meant: impl Fn(&str) -> bool) -> Target {
        let (target, since, began) = (self.target().await, Timestamp::now(), Instant::now());
        loop {
            let missing = target.wait_whole_since(since, Duration::ZERO).await;
            let mut missing = missing.err().unwrap_or_default();
            missing.retain(|text| !is_meant(text));
            if missing.is_empty() {
                return target;
            }
            assert!(
                began.elapsed() < BOUND,
                "not whole within {BOUND:?}: {}",
                missing.join("; ")
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A volume for a pod of a StatefulSet beyond its first one.
    pub fn volume_for(&self, pod: &str) -> PathBuf {
        let like = format!("{}-{}", self.namespace, MEMBERS[0]);
        let mut volume: Value =
            serde_json::from_str(&self.kubectl.must(&["get", "pv", &like, "-o", "json"])).unwrap();
        let path = self.volumes.join(pod);
        fs::create_dir_all(&path).unwrap();
        volume["metadata"] = json!({ "name": format!("{}-{pod}", self.namespace) });
        volume["spec"]["claimRef"] = json!({ "namespace": self.namespace, "name": format!("data-{pod}") });
        volume["spec"]["local"]["path"] = json!(path);
        let file = self.folder.path().join(format!("{pod}.json"));
        fs::write(&file, volume.to_string()).unwrap();
        self.kubectl.must(&["create", "-f", &file.to_string_lossy()]);
        path
    }

    /// What a person would look at.
    fn told(&self) -> String {
        let mut text = String::new();
        for what in [&["get", "pods,sts,svc,lease,pvc", "-o", "wide"][..], &["events"]] {
            let out = self.run(what);
            let _ = writeln!(text, "--- {what:?}\n{}", out.unwrap_or_else(|error| error));
        }
        let pods = self.run(&["get", "pods", "-o", "name"]).unwrap_or_default();
        for pod in pods.lines() {
            for container in ["sidecar", "postgres"] {
                let log = self.log(pod, container);
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
                let _ = writeln!(text, "--- {pod} {container}\n{end}");
            }
        }
        text
    }

    fn remove(&self) {
        let gone = self
            .kubectl
            .run(&["delete", "namespace", &self.namespace, "--timeout=120s"]);
        if let Err(error) = gone {
            eprintln!("namespace {} stays: {error}", self.namespace);
            return;
        }
        let removed = Command::new(root().join("chaos/cluster/volumes.sh"))
            .args(["--remove", &self.namespace])
            .status();
        if !removed.is_ok_and(|status| status.success()) {
            eprintln!("volumes of {} stay in {}", self.namespace, self.volumes.display());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.told());
            if std::env::var_os("PGBATON_KEEP").is_some_and(|value| value == "1") {
                eprintln!("namespace {} stays", self.namespace);
                return;
            }
        }
        self.remove();
    }
}

/// All values of a variable in a StatefulSet, which must be one and the same wherever it stands.
pub fn variable(set: &Value, name: &str) -> String {
    let values = pgbaton_chaos::oracles::whole::env_values(set, name);
    assert!(!values.is_empty(), "no {name} in {set}");
    assert!(
        values.iter().all(|value| *value == values[0]),
        "{name}: {values:?}"
    );
    values[0].clone()
}

/// STANDBY_MODE and PRIMARY_SERVER_ADDRESS of a StatefulSet.
pub fn mode(set: &Value) -> (String, String) {
    let address = variable(set, pgbaton_chaos::names::PRIMARY_ADDRESS);
    (variable(set, STANDBY_MODE), address)
}

/// Of the image under test.
pub fn tag() -> String {
    std::env::var("PGBATON_TAG").unwrap_or_else(|_| SHIPPED.to_owned())
}

pub fn kubeconfig() -> PathBuf {
    std::env::var_os("KUBECONFIG").unwrap().into()
}

/// The binary whose commands people use.
pub fn pgbaton() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pgbaton-chaos")).with_file_name("pgbaton")
}
