//! The local rig by itself: real PostgreSQL in its containers, a stand-in for pgbaton.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbaton_chaos::local::kubelet::{Kubelet, Role};
use pgbaton_chaos::local::process;
use pgbaton_chaos::local::rig::Rig;
use pgbaton_chaos::local::settings::Choice;
use pgbaton_chaos::local::store::Kind;
use pgbaton_chaos::names::CLUSTER;
use pgbaton_chaos::oracles::sql;
use pgbaton_chaos::oracles::workload::Workload;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Generous: the machine may be loaded.
const BOUND: Duration = Duration::from_secs(60);

fn chaos() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pgbaton-chaos"))
}

fn fake() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-pgbaton.sh")
}

fn choice(members: u8, subnet: u8) -> Choice {
    Choice {
        members,
        subnet,
        pgbaton: Some(fake()),
        chaos: Some(chaos()),
        ..Choice::default()
    }
}

async fn wait(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {BOUND:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn answers(rig: &Rig, kubelet: &Kubelet) {
    wait("the server answers", async || {
        sql::ask_one(&rig.settings.login, kubelet.member().ip, "SELECT 1")
            .await
            .is_ok()
    })
    .await;
}

async fn system_identifier(rig: &Rig, kubelet: &Kubelet) -> String {
    let question = "SELECT system_identifier FROM pg_control_system()";
    sql::ask_one(&rig.settings.login, kubelet.member().ip, question)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_pods_volumes_and_the_service_behave_as_in_kubernetes() {
    let rig = Rig::start(choice(2, 201)).await.unwrap();
    let first = rig.kubelets[0].clone();
    answers(&rig, &first).await;

    // Without a selector nobody is served; with one, new connections go where it points.
    assert!(
        sql::ask(&rig.settings.login, rig.settings.service_ip(), "SELECT 1")
            .await
            .is_err()
    );
    let selector = json!({ "spec": { "selector": { "app": "postgres-1" } } });
    rig.store.patch(Kind::Service, CLUSTER, &selector).unwrap();
    let address = sql::ask_one(
        &rig.settings.login,
        rig.settings.service_ip(),
        "SELECT inet_server_addr()",
    )
    .await
    .unwrap();
    assert_eq!(address, first.member().ip.to_string());

    // The entrypoint kept the image's contract.
    let question =
        "SELECT current_database() || ' ' || current_user || ' ' || current_setting('data_checksums')";
    let answer = sql::ask_one(&rig.settings.login, first.member().ip, question)
        .await
        .unwrap();
    assert_eq!(answer, "postgresdb postgresadmin on");

    // A server's processes are seen from outside, and run under no root.
    let server = first.container(Role::Server).unwrap();
    let pids = server.pids();
    assert_eq!(pids[0], server.init_pid());
    assert!(pids.len() > 3, "{pids:?}");
    for pid in &pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        assert_ne!(
            uid.split_whitespace().nth(1),
            Some("0"),
            "{}",
            process::command_line(*pid)
        );
    }

    // Clients write; a killed pod comes back under the same UID, and nothing that was acknowledged is lost.
    let workload = Workload::start(&rig.settings.login, rig.settings.service_ip(), 4)
        .await
        .unwrap();
    let began = Instant::now();
    wait("writes", async || workload.acknowledged_since(began) > 100).await;
    let uid = first.pod_uid().unwrap();
    let killed = Instant::now();
    first.kill();
    wait("all of them are gone", async || {
        pids.iter().all(|&pid| !process::is_alive(pid))
    })
    .await;
    wait("writes again", async || workload.acknowledged_since(killed) > 100).await;
    assert_eq!(first.pod_uid().unwrap(), uid);
    assert_eq!(workload.lost().await.unwrap(), Vec::<i64>::new());
    assert!(workload.summary(killed, Instant::now()).outage_ms > 0);

    // Frozen and thawed.
    let frozen = Instant::now();
    first.freeze();
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(
        workload.acknowledged_since(frozen + Duration::from_millis(200)),
        0
    );
    first.thaw();
    wait("writes after the thaw", async || {
        workload.acknowledged_since(frozen + Duration::from_millis(1500)) > 10
    })
    .await;
    workload.stop().await;

    // A deleted pod is stopped in order and comes back with a new UID and the same data.
    let identifier = system_identifier(&rig, &first).await;
    first.delete_pod().await.unwrap();
    wait("a new pod", async || {
        first.pod_uid().is_some_and(|new| new != uid)
    })
    .await;
    answers(&rig, &first).await;
    assert_eq!(system_identifier(&rig, &first).await, identifier);
    let log = std::fs::read_to_string(first.member().log("postgres")).unwrap();
    assert!(log.contains("received fast shutdown request"), "{log}");

    // An emptied volume is initialised anew.
    first.lose_data().await.unwrap();
    wait("a new pod", async || first.pod_uid().is_some()).await;
    answers(&rig, &first).await;
    assert_ne!(system_identifier(&rig, &first).await, identifier);

    let directory = rig.settings.directory.clone();
    let all: Vec<i32> = rig
        .kubelets
        .iter()
        .filter_map(|k| Some(k.container(Role::Server)?.pids()))
        .flatten()
        .collect();
    rig.end(false).await.unwrap();
    assert!(!directory.exists());
    assert!(
        all.iter().all(|&pid| !process::is_alive(pid)),
        "processes are left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_controller_follows_the_stateful_set() {
    let rig = Rig::start(choice(2, 202)).await.unwrap();
    let second = rig.kubelets[1].clone();
    let environment =
        || std::fs::read_to_string(second.member().run_directory().join("env")).unwrap_or_default();
    wait("the sidecar runs", async || {
        environment().contains("PGBATON_MEMBER=postgres-2")
    })
    .await;
    answers(&rig, &second).await;
    let text = environment();
    assert!(
        text.contains("STANDBY_MODE=on") && text.contains("PRIMARY_SERVER_ADDRESS=postgres-1"),
        "{text}"
    );
    let uid = second.pod_uid().unwrap();
    assert!(
        text.contains(&format!("POD_UID={uid}")) && text.contains("POD_IP=127.0.202.12"),
        "{text}"
    );

    // Under RollingUpdate a changed template replaces the pod; under OnDelete the next pod gets it.
    let set_env = |value: &str| {
        let mut set = rig.store.get(Kind::StatefulSet, "postgres-2").unwrap();
        pgbaton_chaos::local::objects::set_env(&mut set, "STANDBY_MODE", value);
        let patch = json!({ "spec": { "template": set["spec"]["template"] } });
        rig.store.patch(Kind::StatefulSet, "postgres-2", &patch).unwrap();
    };
    set_env("off");
    wait("a replaced pod", async || {
        second.pod_uid().is_some_and(|new| new != uid)
    })
    .await;
    wait("the new env", async || environment().contains("STANDBY_MODE=off")).await;
    answers(&rig, &second).await;
    let strategy = json!({ "spec": { "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } } });
    rig.store
        .patch(Kind::StatefulSet, "postgres-2", &strategy)
        .unwrap();
    let uid = second.pod_uid().unwrap();
    set_env("maybe");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(
        second.pod_uid().as_ref(),
        Some(&uid),
        "OnDelete must leave the pod alone"
    );
    // Somebody deletes the Pod object: the same as through the kubelet.
    rig.store.delete(Kind::Pod, "postgres-2-0").unwrap();
    wait("a new pod", async || {
        second.pod_uid().is_some_and(|new| new != uid)
    })
    .await;
    wait("the newest env", async || {
        environment().contains("STANDBY_MODE=maybe")
    })
    .await;
    answers(&rig, &second).await;

    // A deleted StatefulSet takes its pod along; an applied one brings a pod.
    rig.store.delete(Kind::StatefulSet, "postgres-2").unwrap();
    wait("no pod", async || {
        rig.store.get(Kind::Pod, "postgres-2-0").is_none() && second.pod_uid().is_none()
    })
    .await;
    assert!(second.container(Role::Server).is_none() && second.container(Role::Sidecar).is_none());
    rig.apply_stateful_set(second.member(), "on", "postgres-1")
        .unwrap();
    wait("a pod again", async || second.container(Role::Sidecar).is_some()).await;
    rig.end(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_member_stays_down_and_restarts_back_off() {
    let rig = Rig::start(choice(1, 203)).await.unwrap();
    let kubelet = rig.kubelets[0].clone();
    // Killed in the middle of its first initialisation, this server without a guard would never start again.
    answers(&rig, &kubelet).await;
    kubelet.hold(true);
    kubelet.kill();
    kubelet.gone().await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert!(kubelet.container(Role::Server).is_none() && kubelet.container(Role::Sidecar).is_none());
    kubelet.hold(false);
    wait("it runs again", async || {
        kubelet.container(Role::Server).is_some()
    })
    .await;
    rig.end(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taken_addresses_are_named() {
    let taken = std::net::TcpListener::bind("127.0.204.11:5432").unwrap();
    let error = Rig::start(choice(1, 204)).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("127.0.204.11:5432") && text.contains("--subnet"),
        "{text}"
    );
    drop(taken);
}

/// A rig that is killed leaves no process and no directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_rig_is_cleaned_up() {
    let parent = tempfile::tempdir().unwrap();
    // The server's user must pass through.
    std::fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let directory = parent.path().join("rig");
    let mut rig = tokio::process::Command::new(chaos())
        .args([
            "demo",
            "--members",
            "1",
            "--subnet",
            "205",
            "--fault",
            "sidecar-kill",
            "--pgbaton",
        ])
        .arg(fake())
        .arg("--dir")
        .arg(&directory)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let postmaster = directory.join("postgres-1/data/pgdata/postmaster.pid");
    wait("a server runs", async || postmaster.exists()).await;
    let noted = std::fs::read_to_string(directory.join("processes")).unwrap();
    let pids: Vec<i32> = noted
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(!pids.is_empty());
    rig.start_kill().unwrap();
    rig.wait().await.unwrap();
    wait("no process is left", async || {
        pids.iter().all(|&pid| !process::is_alive(pid))
    })
    .await;
    wait("no directory is left", async || !directory.exists()).await;
}
