//! `pgbaton rollout` with the StatefulSet controller, the kubelets and the rights of a real cluster.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use super::kubectl::{Kubectl, eventually, root};

/// A new one for each run: volumes of an earlier run hold its data.
static NAMESPACE: LazyLock<String> = LazyLock::new(|| format!("rollout-{}", std::process::id()));
const MEMBERS: [&str; 3] = ["postgres-1", "postgres-2", "postgres-3"];

struct Cluster {
    kubectl: Kubectl,
}

impl Cluster {
    fn must(&self, arguments: &[&str]) -> String {
        self.kubectl
            .must(&[&["-n", NAMESPACE.as_str()], arguments].concat())
    }

    /// The overlay `tutorial` in a namespace of its own.
    fn start() -> Self {
        let cluster = Self {
            kubectl: Kubectl::new(),
        };
        cluster.kubectl.must(&["create", "namespace", &NAMESPACE]);
        let volumes = root().join("chaos/cluster/volumes.sh");
        let mut volumes = Command::new(volumes);
        let made = volumes.arg(NAMESPACE.as_str()).args(MEMBERS).status().unwrap();
        assert!(made.success(), "volumes.sh: {made}");
        cluster.must(&[
            "create",
            "secret",
            "generic",
            "postgresql",
            "--from-literal=POSTGRES_USER=postgresadmin",
            "--from-literal=POSTGRES_PASSWORD=a1b2c3d4",
            "--from-literal=POSTGRES_DB=postgresdb",
            "--from-literal=REPLICATION_USER=replicationuser",
            "--from-literal=REPLICATION_PASSWORD=replicationPassword",
        ]);
        let folder = tempfile::tempdir_in(root().join("target")).unwrap();
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: {}\nresources: [../../deploy/overlays/tutorial]\n",
            *NAMESPACE
        );
        fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
        cluster
            .kubectl
            .must(&["apply", "-k", &folder.path().to_string_lossy()]);
        eventually("a standby could take over", || {
            cluster
                .pgbaton(&["status"])
                .1
                .contains("could fail over now: yes")
        });
        cluster
    }

    /// Exit status, and what it said.
    fn pgbaton(&self, words: &[&str]) -> (Option<i32>, String) {
        let chaos = PathBuf::from(env!("CARGO_BIN_EXE_pgbaton-chaos"));
        let mut command = Command::new(chaos.with_file_name("pgbaton"));
        command.args(words).args(["-n", NAMESPACE.as_str()]);
        let out = command.stdin(Stdio::null()).output().unwrap();
        let said = [out.stdout, out.stderr].concat();
        (out.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    fn rollout(&self, code: i32, words: &[&str], say: &[&str]) {
        let (ended, said) = self.pgbaton(&[&["rollout", "--yes"], words].concat());
        let right = ended == Some(code) && say.iter().all(|part| said.contains(part));
        assert!(right, "expected {code} and {say:?}: {ended:?}\n{said}");
    }

    fn uids(&self) -> Vec<String> {
        let uid = |member: &&str| {
            let pod = format!("{member}-0");
            self.must(&["get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"])
        };
        MEMBERS.iter().map(uid).collect()
    }

    fn patch_templates(&self, patch: &str) {
        let patch = format!(r#"{{"spec":{{"template":{patch}}}}}"#);
        for member in MEMBERS {
            self.must(&["patch", "sts", member, "-p", &patch]);
        }
    }

    fn set_image(&self, image: &str) {
        self.patch_templates(&format!(
            r#"{{"spec":{{"containers":[{{"name":"postgres","image":"{image}"}}]}}}}"#
        ));
    }
}

#[test]
fn new_templates_come_into_every_pod_and_bad_ones_into_one() {
    let cluster = Cluster::start();
    cluster.rollout(0, &[], &["nothing to do"]);
    let first = cluster.uids();
    cluster.patch_templates(r#"{"metadata":{"annotations":{"example.com/release":"two"}}}"#);
    let order = "done: new pods of postgres-2, postgres-3, postgres-1\n";
    cluster.rollout(0, &["--timeout", "3m"], &["metadata.annotations (new)", order]);
    let second = cluster.uids();
    assert!(
        first.iter().zip(&second).all(|(old, new)| old != new),
        "{first:?} {second:?}"
    );
    // The role moved, and with it the variables in the templates: no reason for anything.
    cluster.rollout(0, &[], &["nothing to do"]);

    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = cluster.must(&["get", "sts", "postgres-1", "-o", image]);
    cluster.set_image("localhost/no-such:1");
    let stuck = "not in time: postgres-1: its pod cannot run: container postgres: ";
    cluster.rollout(
        3,
        &["--timeout", "30s"],
        &[stuck, "It goes on where it stopped by"],
    );
    cluster.set_image(&image);
    cluster.rollout(0, &["--timeout", "3m"], &["done: new pods of postgres-1\n"]);
    assert_eq!(cluster.uids()[1..], second[1..], "the others were not touched");

    let namespace = ["delete", "namespace", &NAMESPACE, "--wait=true", "--timeout=120s"];
    cluster.kubectl.must(&namespace);
    for member in MEMBERS {
        let volume = format!("{}-{member}", *NAMESPACE);
        cluster.kubectl.must(&["delete", "pv", &volume]);
    }
}
