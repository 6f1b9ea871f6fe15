//! Given what is wrong, on a real cluster: said in the status (or, where the sidecar cannot run, in the pod's log), in an Event, and no data
//! is touched. The same on the local rig, with more of it: tests/live/bad_input.rs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pgbaton_chaos::cluster::target::Target;
use serde_json::Value;
use tokio::time::sleep;

use super::clients::Clients;
use super::kubectl::eventually;
use super::place::{MEMBERS, Place, tag};

/// How long nothing may happen: longer than a Lease and everything that waits for it.
const QUIET: Duration = Duration::from_secs(13);
/// The second member's env, in both containers that carry it.
fn second_says(mode: &str) -> String {
    format!(
        r#"patches:
- target: {{ kind: StatefulSet, name: postgres-2 }}
  patch: |
    apiVersion: apps/v1
    kind: StatefulSet
    metadata: {{ name: any }}
    spec:
      template:
        spec:
          initContainers:
          - name: sidecar
            env:
            - {{ name: STANDBY_MODE, value: "{mode}" }}
          containers:
          - name: postgres
            env:
            - {{ name: STANDBY_MODE, value: "{mode}" }}
"#
    )
}

/// What a container's state says: why it waits, or how it ended.
fn state(place: &Place, pod: &str, container: &str) -> String {
    let object = place.object(&format!("pod/{pod}")).unwrap_or_default();
    let of = |list: &str| object["status"][list].as_array().cloned().unwrap_or_default();
    let all = [of("initContainerStatuses"), of("containerStatuses")].concat();
    let of_it = all.iter().filter(|status| status["name"] == container);
    let words = |status: &Value| format!("{} {}", status["state"], status["lastState"]);
    of_it.map(words).collect()
}

fn until_event(place: &Place, reason: &str, words: &[&str]) {
    eventually(&format!("an Event {reason} says {words:?}"), || {
        place.event_says(reason, words)
    });
}

/// Not at once: between two lives of a container there is no log.
fn until_log(place: &Place, pod: &str, container: &str, words: &[&str]) {
    eventually(&format!("the log of {pod} {container} says {words:?}"), || {
        let log = place.log(pod, container);
        words.iter().all(|word| log.contains(word))
    });
}

/// Each file with its length and when it was written.
fn contents(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut rest = vec![folder.to_owned()];
    while let Some(next) = rest.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let about = path.symlink_metadata().unwrap();
            if about.is_dir() {
                rest.push(path.clone());
            }
            let size = if about.is_dir() { 0 } else { about.len() };
            found.insert(path.display().to_string(), (size, about.modified().unwrap()));
        }
    }
    found
}

fn is_uninitialised(place: &Place) -> bool {
    let lease = place.object("lease/postgres").unwrap();
    let record = &lease["metadata"]["annotations"]["pgbaton.dev/cluster-state"];
    record.is_null() && lease["spec"]["holderIdentity"].is_null()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_without_a_key_and_a_mode_that_there_is_not() {
    let place = Place::without_secret("bad-key", &MEMBERS);
    let key = "REPLICATION_PASSWORD";
    place.secret(&[key]);
    place.apply(&place.over("tutorial", &second_says("primary")));
    let words = [&format!("couldn't find key {key} in Secret")[..], "postgresql"];
    for member in MEMBERS {
        eventually(&format!("{member} says which key is missing"), || {
            let state = state(&place, &format!("{member}-0"), "sidecar");
            state.contains("CreateContainerConfigError") && words.iter().all(|word| state.contains(word))
        });
    }
    until_event(&place, "Failed", &words);
    sleep(QUIET).await;
    assert!(
        MEMBERS.iter().all(|member| place.is_empty(member)),
        "a volume was written"
    );
    assert!(is_uninitialised(&place));

    let patch = format!(r#"{{"stringData":{{"{key}":"replicationPassword"}}}}"#);
    place.must(&["patch", "secret", "postgresql", "--type", "merge", "-p", &patch]);
    a_mode_that_there_is_not(&place).await;
    place.apply(&place.over("tutorial", ""));
    place.must(&["delete", "pod", "postgres-2-0"]);
    let whole = place.whole().await;
    assert_eq!(whole.primary().await.unwrap(), "postgres-1");
}

/// The others go on without the member, which does nothing.
async fn a_mode_that_there_is_not(place: &Place) {
    let words = ["'primary'", "(STANDBY_MODE)", "on, off"];
    until_event(
        place,
        "SidecarRefused",
        &[&words[..], &["pod postgres-2-0"]].concat(),
    );
    until_log(place, "postgres-2-0", "sidecar", &words);
    eventually("kubectl describe shows its words", || {
        let state = state(place, "postgres-2-0", "sidecar");
        words.iter().all(|word| state.contains(word)) && state.contains("\"exitCode\":2")
    });
    eventually("the two others are a cluster", || {
        place
            .status("postgres-1")
            .is_some_and(|page| page["could_fail_over"]["yes"] == true)
    });
    assert!(place.is_empty("postgres-2"), "its volume was written");
}

/// Both sidecars see the Lease at the same moment, when it comes: else the second one may come too late to be a rival.
async fn two_that_are_first(place: &Place) -> Target {
    let rivals = second_says("off");
    let without = r#"- patch: |
    { apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: { name: postgres }, $patch: delete }
"#;
    place.apply(&place.over("tutorial", &format!("{rivals}{without}")));
    for member in MEMBERS {
        eventually(&format!("{member} misses the Lease"), || {
            place
                .status(member)
                .is_some_and(|page| page["why"]["code"] == "lease_absent")
        });
    }
    place.apply(&place.over("tutorial", &rivals));
    let target = place.whole().await;
    let first = target.primary().await.unwrap();
    let second = MEMBERS[..2].iter().find(|member| **member != first).unwrap();
    let words = ["STANDBY_MODE is off here", &first, "exactly one member"];
    until_event(place, "AnotherMarkedFirst", &words);
    until_log(place, &format!("{second}-0"), "sidecar", &words);
    let made = |member: &&&str| {
        let log = place.log(&format!("{member}-0"), "postgres");
        log.contains("PostgreSQL init process complete")
    };
    assert_eq!(
        MEMBERS.iter().filter(made).count(),
        1,
        "one initdb for one cluster"
    );
    target
}

async fn a_stateful_set_of_two(place: &Place, member: &str, primary: &str) {
    let (set, pod) = (format!("sts/{member}"), format!("{member}-1"));
    let volume = place.volume_for(&pod);
    place.must(&["scale", &set, "--replicas=2"]);
    let door = [pod.as_str(), "(POD_NAME)", "--replicas=1"];
    until_event(place, "SidecarRefused", &door);
    until_log(place, &pod, "sidecar", &door);
    let leader = [
        &format!("StatefulSet {member} has 2 replicas")[..],
        "Scale it to 1",
    ];
    until_event(place, "EffectRefused", &leader);
    eventually("the leader's status says so", || {
        place.is_warned(primary, &leader)
    });
    assert!(
        fs::read_dir(volume).unwrap().next().is_none(),
        "{pod} wrote into its volume"
    );
    assert_eq!(
        place.object(&set).unwrap()["spec"]["replicas"],
        2,
        "no object is scaled by pgbaton"
    );
    place.must(&["scale", &set, "--replicas=1"]);
    place.until_gone(&pod);
    place.whole().await;
}

/// An image of another major version is not needed for that: data that says it is of another one is the same to the guard.
async fn data_of_another_major_version(place: &Place, member: &str) {
    let (set, pod) = (format!("sts/{member}"), format!("{member}-0"));
    place.must(&["scale", &set, "--replicas=0"]);
    place.until_gone(&pod);
    let pgdata = place.volume(member).join("pgdata");
    let version = pgdata.join("PG_VERSION");
    let own = fs::read(&version).unwrap();
    fs::write(&version, "14\n").unwrap();
    let before = contents(&pgdata);
    place.must(&["scale", &set, "--replicas=1"]);
    let words = [
        "PGDATA /data/pgdata is of PostgreSQL 14",
        "is of PostgreSQL 15",
        "changes nothing",
    ];
    eventually("its status says so", || place.is_warned(member, &words));
    until_event(place, "GuardWarns", &words);
    until_log(place, &pod, "postgres", &words);
    sleep(QUIET).await;
    let after = contents(&pgdata);
    let changed: Vec<&String> = before
        .iter()
        .filter(|(path, about)| after.get(*path) != Some(about))
        .map(|(path, _)| path)
        .collect();
    assert!(
        changed.is_empty() && before.len() == after.len(),
        "touched: {changed:?}"
    );
    fs::write(&version, own).unwrap();
    place.must(&["delete", "pod", &pod]);
    place.whole().await;
}

/// As somebody writes it who mounts the volume where PGDATA is.
fn mounted_at_pgdata(member: &str) -> String {
    format!(
        r#"patches:
- target: {{ kind: StatefulSet, name: {member} }}
  patch: |
    - {{ op: test, path: /spec/template/spec/containers/0/volumeMounts/0/name, value: data }}
    - {{ op: replace, path: /spec/template/spec/containers/0/volumeMounts/0/mountPath, value: /data/pgdata }}
"#
    )
}

async fn pgdata_that_is_a_mount_point(place: &Place, member: &str) {
    let pod = format!("{member}-0");
    place.must(&["scale", &format!("sts/{member}"), "--replicas=0"]);
    place.until_gone(&pod);
    let before = contents(&place.volume(member));
    place.apply(&place.over("tutorial", &mounted_at_pgdata(member)));
    let words = ["PGDATA /data/pgdata is itself a mount point", "one level higher"];
    until_event(place, "GuardRefused", &words);
    eventually("its status says so", || place.is_warned(member, &words));
    until_log(place, &pod, "postgres", &words);
    sleep(QUIET).await;
    assert_eq!(contents(&place.volume(member)), before, "touched");
    place.apply(&place.over("tutorial", ""));
    place.must(&["delete", "pod", &pod]);
    place.whole().await;
}

/// Both containers of a member's pod in the images that chaos/cluster/ahead.sh makes: their wall clock is five minutes ahead.
fn with_its_clock_ahead(member: &str) -> String {
    format!(
        r#"patches:
- target: {{ kind: StatefulSet, name: {member} }}
  patch: |
    apiVersion: apps/v1
    kind: StatefulSet
    metadata: {{ name: any }}
    spec:
      template:
        spec:
          initContainers:
          - {{ name: sidecar, image: "docker.io/library/pgbaton:{}-ahead" }}
          containers:
          - {{ name: postgres, image: "docker.io/library/postgres:15.0-ahead" }}
"#,
        tag()
    )
}

/// Nothing is decided by wall clocks: a member whose clock is minutes ahead follows, leads and follows again, and people are told.
async fn a_clock_that_is_minutes_ahead(place: &Place, member: &str, primary: &str) {
    place.apply(&place.over("tutorial", &with_its_clock_ahead(member)));
    let pod = format!("{member}-0");
    place.must(&["delete", "pod", &pod]);
    let target = place.whole().await;
    let words = [&format!("the clock of {member} is about 300 s ahead")[..], "NTP"];
    until_event(place, "ClockApart", &words);
    until_log(place, &format!("{primary}-0"), "sidecar", &words);
    eventually("the primary's status says so", || {
        place.is_warned(primary, &words)
    });
    let behind = [&format!("the clock of {primary} is about 300 s behind this member's")[..]];
    eventually("its own status says so", || place.is_warned(member, &behind));
    for to in [member, primary] {
        target.pgbaton("switchover", &["--to", to]).await.unwrap();
        place.whole().await;
        assert_eq!(target.primary().await.unwrap(), to);
        // Longer than a Lease: nobody takes it for expired.
        sleep(QUIET).await;
        assert_eq!(target.primary().await.unwrap(), to, "nobody took over");
    }
    place.apply(&place.over("tutorial", ""));
    place.must(&["delete", "pod", &pod]);
    place.whole().await;
    eventually("nobody is warned any more", || !place.is_warned(primary, &words));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mistake_is_said_and_the_cluster_goes_on() {
    let place = Place::new("bad-input", &MEMBERS);
    let target = two_that_are_first(&place).await;
    let primary = target.primary().await.unwrap();
    let clients = Clients::start(&target).await;
    a_stateful_set_of_two(&place, "postgres-3", &primary).await;
    clients.served().await;
    data_of_another_major_version(&place, "postgres-3").await;
    clients.served().await;
    pgdata_that_is_a_mount_point(&place, "postgres-3").await;
    clients.served().await;
    a_clock_that_is_minutes_ahead(&place, "postgres-3", &primary).await;
    assert_eq!(target.primary().await.unwrap(), primary, "nobody took over");
    let summary = clients.end(&target).await;
    println!(
        "{} writes acknowledged, none lost; longest time without one {} ms",
        summary.acknowledged, summary.outage_ms
    );
}
