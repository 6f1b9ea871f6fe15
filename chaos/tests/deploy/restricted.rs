//! The overlay for Pod Security "restricted": its rules, checked as the API server does.

use serde_json::{Value, json};

use super::render::{Rendered, container, containers, mount, pod};

const VOLUMES: [&str; 7] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
];

/// What Pod Security "restricted" would refuse.
fn refused(pod: &Value) -> Vec<String> {
    let mut bad = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            bad.push(what);
        }
    };
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        must(pod[key] != true, key.to_owned());
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().unwrap().keys().filter(|k| *k != "name");
        for kind in kinds {
            must(VOLUMES.contains(&kind.as_str()), format!("volume {kind}"));
        }
    }
    for container in containers(pod) {
        let name = &container["name"];
        let own = &container["securityContext"];
        let effective = |key: &str| {
            let own = &own[key];
            if own.is_null() {
                &pod["securityContext"][key]
            } else {
                own
            }
        };
        must(
            own["allowPrivilegeEscalation"] == false,
            format!("{name} may escalate"),
        );
        must(
            own["capabilities"] == json!({ "drop": ["ALL"] }),
            format!("{name} has capabilities"),
        );
        must(effective("runAsNonRoot") == true, format!("{name} may be root"));
        must(
            effective("runAsUser").as_u64().is_some_and(|u| u > 0),
            format!("{name} is root"),
        );
        must(
            effective("seccompProfile")["type"] == "RuntimeDefault",
            format!("{name} has no seccomp profile"),
        );
    }
    bad
}

#[test]
fn nothing_in_it_is_refused() {
    let rendered = Rendered::of("deploy/overlays/restricted");
    let namespace = rendered.one("Namespace", "psql-namespace");
    let labels = &namespace["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    assert_eq!(rendered.members().len(), 3);
    for set in rendered.all("StatefulSet") {
        assert_eq!(refused(pod(set)), [""; 0]);
    }
    let tutorial = Rendered::of("deploy/overlays/tutorial");
    let set = tutorial.one("StatefulSet", "postgres-1");
    let all = refused(pod(set)).join("\n");
    for why in [
        "\"postgres\" has capabilities",
        "\"postgres\" may be root",
        "\"postgres\" is root",
    ] {
        assert!(all.contains(why), "the check sees nothing: {all}");
    }
}

#[test]
fn root_file_systems_are_read_only_and_what_is_written_has_a_place() {
    let rendered = Rendered::of("deploy/overlays/restricted");
    for set in rendered.all("StatefulSet") {
        let pod = pod(set);
        for container in containers(pod) {
            assert_eq!(
                container["securityContext"]["readOnlyRootFilesystem"], true,
                "{}",
                container["name"]
            );
        }
        let server = container(pod, "postgres");
        for (volume, path) in [
            ("tmp", "/tmp"),
            ("sockets", "/var/run/postgresql"),
            ("data", "/data"),
            ("shm", "/dev/shm"),
            ("pgbaton-run", "/pgbaton-run"),
        ] {
            let mounted = mount(server, volume).unwrap();
            assert_eq!(mounted["mountPath"], path);
            assert!(mounted["readOnly"].is_null(), "{path}");
        }
        let context = &pod["securityContext"];
        assert_eq!(context["fsGroup"], context["runAsUser"]);
        assert_eq!(context["fsGroupChangePolicy"], "OnRootMismatch");
    }
}
