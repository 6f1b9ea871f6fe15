//! `pgbaton rollout` with the StatefulSet controller, the kubelets and the rights of a real cluster.

use std::process::{Command, Stdio};

use super::kubectl::eventually;
use super::place::{MEMBERS, Place, pgbaton};

struct Cluster(Place);

impl Cluster {
    /// The overlay `tutorial` in a namespace of its own.
    fn start() -> Self {
        let cluster = Self(Place::new("rollout", &MEMBERS));
        cluster.0.apply(&cluster.0.over("tutorial", ""));
        eventually("a standby could take over", || {
            let (_, said) = cluster.pgbaton(&["status"]);
            said.contains("could fail over now: yes")
        });
        cluster
    }

    /// Exit status, and what it said.
    fn pgbaton(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(pgbaton());
        command.args(words).args(["-n", &self.0.namespace]);
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
            self.0
                .must(&["get", "pod", &pod, "-o", "jsonpath={.metadata.uid}"])
        };
        MEMBERS.iter().map(uid).collect()
    }

    fn patch_templates(&self, patch: &str) {
        let patch = format!(r#"{{"spec":{{"template":{patch}}}}}"#);
        for member in MEMBERS {
            self.0.must(&["patch", "sts", member, "-p", &patch]);
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
    let image = cluster.0.must(&["get", "sts", "postgres-1", "-o", image]);
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
}
