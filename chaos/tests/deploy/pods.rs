//! The pods: what order, who has the token, when they are ready, and that nothing restarts them.

use serde_json::{Value, json};

use super::clusters;
use super::render::{container, containers, mount, name_of, pod, variable};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Restarts of its own would be a failover for each change of the template.
#[test]
fn nothing_restarts_a_pod_by_itself() {
    for rendered in clusters() {
        for set in rendered.all("StatefulSet") {
            let spec = &set["spec"];
            assert_eq!(spec["updateStrategy"], json!({ "type": "OnDelete" }));
            assert_eq!(spec["replicas"], 1);
            assert_eq!(spec["serviceName"], name_of(set));
            assert_eq!(pod(set)["terminationGracePeriodSeconds"], 60);
        }
    }
}

#[test]
fn a_pod_is_labelled_as_its_member_and_as_one_of_the_cluster() {
    for rendered in clusters() {
        for set in rendered.all("StatefulSet") {
            let labels = &set["spec"]["template"]["metadata"]["labels"];
            assert_eq!(labels["app"], name_of(set));
            // Only that: the selector of a StatefulSet that is there cannot be changed.
            assert_eq!(
                set["spec"]["selector"],
                json!({ "matchLabels": { "app": name_of(set) } })
            );
            for (key, value) in [
                ("name", "postgres"),
                ("instance", "postgres"),
                ("component", "database"),
                ("part-of", "pgbaton"),
            ] {
                assert_eq!(labels[format!("app.kubernetes.io/{key}")], value);
            }
        }
    }
}

#[test]
fn the_sidecar_starts_first_and_gates_the_rest() {
    for rendered in clusters() {
        let plain = rendered.folder.contains("plain-sidecar");
        for set in rendered.all("StatefulSet") {
            let pod = pod(set);
            let sidecar = container(pod, "sidecar");
            if plain {
                assert!(
                    sidecar["restartPolicy"].is_null(),
                    "ordinary containers have none"
                );
                let init = pod["initContainers"].as_array().unwrap();
                assert_eq!(init.len(), 1);
                assert_eq!(init[0]["command"], json!(["/pgbaton", "install", "/pgbaton-bin"]));
                assert_eq!(pod["containers"].as_array().unwrap().len(), 2);
            } else {
                assert_eq!(&pod["initContainers"][0], sidecar, "{}", rendered.folder);
                assert_eq!(sidecar["restartPolicy"], "Always");
            }
            assert_eq!(sidecar["command"], json!(["/pgbaton", "sidecar"]));
            let install = &variable(sidecar, "PGBATON_INSTALL").unwrap()["value"];
            assert_eq!(&mount(sidecar, "pgbaton-bin").unwrap()["mountPath"], install);
            let server = container(pod, "postgres");
            let guard = format!("{}/pgbaton", install.as_str().unwrap());
            assert_eq!(
                server["command"],
                json!([guard, "guard", "--", "docker-entrypoint.sh"])
            );
            assert_eq!(
                server["args"],
                json!(["-c", "config_file=/config/postgresql.conf"])
            );
            assert_eq!(mount(server, "pgbaton-bin").unwrap()["readOnly"], true);
            for both in [sidecar, server] {
                let run = &variable(both, "PGBATON_RUN_DIR").unwrap()["value"];
                assert_eq!(&mount(both, "pgbaton-run").unwrap()["mountPath"], run);
            }
        }
    }
}

/// A container that refuses to start is gone with its words: `kubectl describe pod` shows the last of them.
#[test]
fn a_containers_last_words_are_shown() {
    for rendered in clusters() {
        for set in rendered.all("StatefulSet") {
            for container in containers(pod(set)) {
                let policy = &container["terminationMessagePolicy"];
                assert_eq!(
                    policy, "FallbackToLogsOnError",
                    "{}: {}",
                    rendered.folder, container["name"]
                );
            }
        }
    }
}

/// A superuser of PostgreSQL reads every file of its container.
#[test]
fn the_token_is_in_the_sidecar_only() {
    for rendered in clusters() {
        let account = rendered.one("ServiceAccount", "pgbaton");
        assert_eq!(account["automountServiceAccountToken"], false);
        for set in rendered.all("StatefulSet") {
            let pod = pod(set);
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["serviceAccountName"], "pgbaton");
            let tokens: Vec<&Value> = pod["volumes"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|v| v.to_string().contains("serviceAccountToken"))
                .collect();
            assert_eq!(tokens.len(), 1);
            let volume = tokens[0]["name"].as_str().unwrap();
            for container in containers(pod) {
                let is_sidecar = container["name"] == "sidecar";
                let mounted = mount(container, volume);
                assert_eq!(mounted.is_some(), is_sidecar, "{}", container["name"]);
                if let Some(mounted) = mounted {
                    assert_eq!(mounted["mountPath"], TOKEN_PATH);
                    assert_eq!(mounted["readOnly"], true);
                }
            }
            let files: Vec<&str> = ["token", "ca.crt", "namespace"]
                .into_iter()
                .filter(|f| tokens[0].to_string().contains(&format!("\"path\":\"{f}\"")))
                .collect();
            assert_eq!(
                files,
                ["token", "ca.crt", "namespace"],
                "what a client in a pod reads"
            );
        }
    }
}

#[test]
fn probes_ask_the_sidecar_only() {
    for rendered in clusters() {
        for set in rendered.all("StatefulSet") {
            for container in containers(pod(set)) {
                let probe = |name: &str| container[name]["httpGet"].clone();
                if container["name"] == "sidecar" {
                    for (name, path) in [
                        ("startupProbe", "/healthz"),
                        ("livenessProbe", "/healthz"),
                        ("readinessProbe", "/readyz"),
                    ] {
                        assert_eq!(probe(name), json!({ "path": path, "port": "pgbaton" }));
                    }
                    let port = &container["ports"][0];
                    assert_eq!(
                        (&port["name"], &port["containerPort"]),
                        (&json!("pgbaton"), &json!(8008))
                    );
                } else {
                    for name in ["startupProbe", "livenessProbe", "readinessProbe"] {
                        assert!(
                            container[name].is_null(),
                            "the guard is up while the server is down"
                        );
                    }
                }
            }
        }
    }
}

/// The sidecar always gets its share of CPU, and has no limit of it: throttled, it misses renewals.
#[test]
fn the_sidecar_is_not_starved() {
    for rendered in clusters() {
        for set in rendered.all("StatefulSet") {
            let sidecar = container(pod(set), "sidecar");
            let resources = &sidecar["resources"];
            assert!(resources["requests"]["cpu"].is_string());
            assert!(resources["limits"]["cpu"].is_null());
            assert_eq!(resources["requests"]["memory"], resources["limits"]["memory"]);
            let context = &sidecar["securityContext"];
            assert_eq!(context["runAsNonRoot"], true);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"], json!({ "drop": ["ALL"] }));
        }
    }
}

/// The guard lets root, its own user and the one it is told of to its socket. It starts as root or as the pod's user.
#[test]
fn the_guard_knows_the_sidecars_user() {
    for rendered in clusters() {
        for set in rendered.all("StatefulSet") {
            let sidecar = container(pod(set), "sidecar")["securityContext"]["runAsUser"].to_string();
            let server = container(pod(set), "postgres");
            match variable(server, "PGBATON_PEER_UID") {
                Some(told) => assert_eq!(told["value"], sidecar.as_str()),
                None => assert_eq!(
                    pod(set)["securityContext"]["runAsUser"].to_string(),
                    sidecar,
                    "{}",
                    rendered.folder
                ),
            }
        }
    }
}
