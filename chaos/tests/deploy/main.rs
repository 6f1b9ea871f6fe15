//! The shipped manifests, without a cluster: what `kubectl kustomize` makes of each overlay is what Kubernetes knows and what pgbaton needs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod adopt;
mod monitoring;
mod network;
mod pods;
mod render;
mod restricted;
mod rights;

use std::fs;
use std::path::Path;

use pgbaton::core::record::{Availability, Durability, Record};
use pgbaton::lease::{INITIAL_ANNOTATION, RECORD_ANNOTATION};
use render::{Rendered, container, name_of, pod, root, unknown, variable};
use serde_json::{Value, json};

/// Where people's own manifests are, with the component over them.
const ADOPTED: &str = "chaos/tests/deploy/adopted";

/// Every way to run members.
fn clusters() -> Vec<Rendered> {
    let overlays = ["tutorial", "two-members", "restricted", "plain-sidecar"];
    let mut all: Vec<Rendered> = overlays
        .iter()
        .map(|o| Rendered::of(&format!("deploy/overlays/{o}")))
        .collect();
    all.push(Rendered::of(ADOPTED));
    all
}

#[test]
fn every_field_is_one_that_kubernetes_knows() {
    let mut all = clusters();
    all.extend(["flowschema", "admission"].map(|o| Rendered::of(&format!("deploy/optional/{o}"))));
    for rendered in all {
        assert!(!rendered.objects.is_empty());
        for object in &rendered.objects {
            let lost = unknown(object);
            assert!(
                lost.is_empty(),
                "{}: {} {}: {lost:?}",
                rendered.folder,
                object["kind"],
                name_of(object)
            );
        }
    }
    let misspelt = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" },
        "spec": { "publishNotReadyAdresses": true } });
    assert_eq!(
        unknown(&misspelt),
        ["/spec/publishNotReadyAdresses: true became null"]
    );
}

#[test]
fn without_kubectl_it_says_what_to_install() {
    let why = Rendered::by("/nonexistent/kubectl --flag", Path::new("deploy"))
        .err()
        .unwrap();
    assert!(
        why.contains("install it, or name it with PGBATON_KUBECTL"),
        "{why}"
    );
}

#[test]
fn the_lease_comes_never_initialised_and_without_a_record() {
    let initial = Record::never_initialised(Durability::Sync, Availability::Available).render();
    for rendered in clusters() {
        let lease = rendered.one("Lease", "postgres");
        let annotations = lease["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations[INITIAL_ANNOTATION], initial, "{}", rendered.folder);
        // Applied again, it would put the record back.
        assert!(!annotations.contains_key(RECORD_ANNOTATION));
        assert_eq!(lease["spec"], json!({}));
        assert_eq!(rendered.all("Lease").len(), 1);
    }
}

#[test]
fn everything_is_in_the_tutorials_namespace_and_no_secret_is_shipped() {
    for rendered in clusters() {
        for object in rendered.objects.iter().filter(|o| o["kind"] != "Namespace") {
            assert_eq!(
                object["metadata"]["namespace"],
                "psql-namespace",
                "{}",
                name_of(object)
            );
        }
        assert!(rendered.all("Secret").is_empty());
        for set in rendered.all("StatefulSet") {
            for container in render::containers(pod(set)) {
                for variable in container["env"].as_array().into_iter().flatten() {
                    let name = variable["name"].as_str().unwrap();
                    let secret = ["PASSWORD", "POSTGRES_USER", "POSTGRES_DB", "REPLICATION_USER"];
                    if secret.iter().any(|part| name.contains(part)) {
                        let from = &variable["valueFrom"]["secretKeyRef"];
                        assert_eq!(
                            (&from["name"], &from["key"]),
                            (&json!("postgresql"), &json!(name))
                        );
                        assert!(variable["value"].is_null(), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_services_lead_where_pgbaton_says() {
    for rendered in clusters() {
        let write = &rendered.one("Service", "postgres")["spec"];
        assert!(write["selector"].is_null(), "pgbaton owns it");
        assert_eq!(write["publishNotReadyAddresses"], true);
        let read = &rendered.one("Service", "postgres-ro")["spec"];
        assert_eq!(read["selector"]["pgbaton.dev/role"], "standby");
        assert!(read["publishNotReadyAddresses"].is_null());
        for member in rendered.members() {
            let own = &rendered.one("Service", member)["spec"];
            assert_eq!(own["clusterIP"], "None");
            assert_eq!(own["publishNotReadyAddresses"], true, "{}", rendered.folder);
            assert_eq!(own["selector"], json!({ "app": member }));
        }
        for service in rendered.all("Service") {
            assert_eq!(service["spec"]["ports"][0]["port"], 5432);
        }
    }
}

#[test]
fn drains_leave_all_but_one() {
    for rendered in clusters() {
        let budgets = rendered.all("PodDisruptionBudget");
        assert_eq!(budgets.len(), 1, "a pod in two budgets can never be drained");
        let spec = &budgets[0]["spec"];
        let members = rendered.members();
        assert_eq!(
            spec["minAvailable"],
            members.len() as u64 - 1,
            "{}",
            rendered.folder
        );
        assert_eq!(spec["unhealthyPodEvictionPolicy"], "AlwaysAllow");
        let wanted = spec["selector"]["matchLabels"].as_object().unwrap();
        for set in rendered.all("StatefulSet") {
            let labels = &set["spec"]["template"]["metadata"]["labels"];
            assert!(wanted.iter().all(|(k, v)| labels[k] == *v), "{labels}");
        }
    }
}

/// A fourth member is a folder of its own and one line; nothing else of the overlay is edited.
#[test]
fn a_fourth_member_is_a_folder_and_a_line() {
    let dir = tempfile::tempdir().unwrap();
    copy(&root().join("deploy"), dir.path());
    let overlay = dir.path().join("overlays/tutorial");
    let members = overlay.join("members");
    copy(&members.join("postgres-3"), &members.join("postgres-4"));
    let edit = |file: &Path, from: &str, to: &str| {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains(from));
        fs::write(file, text.replace(from, to)).unwrap();
    };
    edit(
        &members.join("postgres-4/kustomization.yaml"),
        "postgres-3",
        "postgres-4",
    );
    let line = "- members/postgres-3\n";
    edit(
        &overlay.join("kustomization.yaml"),
        line,
        &format!("{line}- members/postgres-4\n"),
    );
    let kubectl = std::env::var("PGBATON_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let rendered = Rendered::by(&kubectl, &overlay).unwrap();
    assert_eq!(
        rendered.members(),
        ["postgres-1", "postgres-2", "postgres-3", "postgres-4"]
    );
    let mut third = rendered.one("StatefulSet", "postgres-3").to_string();
    third = third.replace("postgres-3", "postgres-4");
    let third: Value = serde_json::from_str(&third).unwrap();
    assert_eq!(rendered.one("StatefulSet", "postgres-4"), &third);
    rights::are_exactly(&rendered, &[]);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The first server is the first primary; the others name it, wherever the variables stand.
#[test]
fn exactly_one_member_begins_as_primary() {
    for rendered in clusters() {
        let mut first = Vec::new();
        for set in rendered.all("StatefulSet") {
            let all: Vec<_> = render::containers(pod(set))
                .into_iter()
                .filter_map(|c| {
                    Some((
                        variable(c, "STANDBY_MODE")?,
                        variable(c, "PRIMARY_SERVER_ADDRESS")?,
                    ))
                })
                .collect();
            let places = if rendered.folder.contains(ADOPTED) { 1 } else { 2 };
            assert_eq!(all.len(), places, "{}: {}", rendered.folder, name_of(set));
            assert!(all.iter().all(|pair| *pair == all[0]), "{all:?}");
            let (mode, address) = (&all[0].0["value"], all[0].1["value"].as_str().unwrap());
            // For kubectl, a bare off is false.
            assert!(mode == "on" || mode == "off", "{mode}");
            assert_eq!(mode == "off", address.is_empty(), "{}", name_of(set));
            if mode == "off" {
                first.push(name_of(set));
            }
        }
        assert_eq!(first, ["postgres-1"]);
        let bare = ["on", "off", "yes", "no"];
        let bad = rendered
            .text
            .lines()
            .find(|l| bare.iter().any(|b| l.trim_end().ends_with(&format!(": {b}"))));
        assert_eq!(bad, None, "{}: kubectl takes it for a boolean", rendered.folder);
    }
}

#[test]
fn images_carry_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let tag = format!("pgbaton:{version}");
    for rendered in clusters() {
        for set in rendered.all("StatefulSet") {
            assert_eq!(container(pod(set), "sidecar")["image"], tag.as_str());
            for c in render::containers(pod(set)) {
                let image = c["image"].as_str().unwrap();
                assert!(image == tag || image == "postgres:15.0", "{image}");
            }
        }
    }
    let file = fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    assert!(file.contains(&format!("ARG VERSION={version}\n")));
}

/// What the guard writes itself must stand in nobody's file: it would be believed to count.
#[test]
fn the_shipped_configuration_leaves_the_guards_settings_alone() {
    let rendered = Rendered::of("deploy/overlays/tutorial");
    let data = &rendered.one("ConfigMap", "postgres-config")["data"];
    let settings: Vec<&str> = data["postgresql.conf"]
        .as_str()
        .unwrap()
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split(" =").next())
        .collect();
    for owned in [
        "primary_conninfo",
        "primary_slot_name",
        "synchronous_standby_names",
        "data_directory",
    ] {
        assert!(!settings.contains(&owned), "{owned}");
    }
    for needed in [
        "hba_file",
        "wal_log_hints",
        "max_wal_senders",
        "max_replication_slots",
        "archive_command",
    ] {
        assert!(settings.contains(&needed), "{needed}");
    }
    let rules = data["pg_hba.conf"].as_str().unwrap();
    for family in ["0.0.0.0/0", "::/0"] {
        for database in ["replication", "all"] {
            let found = rules.lines().any(|l| {
                let words: Vec<&str> = l.split_whitespace().collect();
                words == ["host", database, "all", family, "scram-sha-256"]
            });
            assert!(found, "{database} {family}");
        }
    }
}
