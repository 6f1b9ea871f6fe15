//! Every way to run members, as pods: they stream, the primary's pod is deleted, another one leads, the old one comes back, and nothing that
//! was acknowledged is lost.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use pgbaton_chaos::cluster::target::Target;
use serde_json::Value;
use tokio::time::Instant;

use super::clients::Clients;
use super::kubectl::eventually;
use super::place::{MEMBERS, Place, mode};

/// Of a takeover: a Lease, and time to spare.
const TAKEOVER: Duration = Duration::from_secs(60);
/// Of a handover, on a loaded machine.
const HANDOVER: Duration = Duration::from_secs(8);
/// PostgreSQL's user in the official image.
const POSTGRES: u32 = 999;

/// What may be missing of a whole cluster; nothing, in most.
fn nothing(_: &str) -> bool {
    false
}

/// Deletes the primary's pod, and gives the new primary when the old one has come back.
async fn survives(place: &Place, target: &Target, is_meant: impl Fn(&str) -> bool) -> String {
    let clients = Clients::start(target).await;
    let old = target.primary().await.unwrap();
    let at = Instant::now();
    place.must(&["delete", "pod", &format!("{old}-0"), "--wait=false"]);
    let new = target.taken_over(&old, TAKEOVER).await.unwrap();
    let taken = at.elapsed();
    clients.served().await;
    let outage = clients.workload.summary(at, Instant::now()).outage_ms;
    // Handed over: without that nobody leads before the Lease has run out (10 s).
    assert!(taken < HANDOVER, "{new} took over after {taken:?} only");
    let whole = place.whole_but(is_meant).await;
    let back = at.elapsed();
    assert_eq!(whole.primary().await.unwrap(), new, "one takeover");
    let summary = clients.end(&whole).await;
    println!(
        "{}: pod of {old} deleted: {new} recorded after {} ms, longest time without a write {outage} ms, whole again after {} ms; \
         {} writes acknowledged, none lost",
        place.namespace,
        taken.as_millis(),
        back.as_millis(),
        summary.acknowledged
    );
    new
}

/// Containers of a member's pod that run, init containers too.
fn running(place: &Place, member: &str) -> Vec<String> {
    let pod = place.object(&format!("pod/{member}-0")).unwrap_or_default();
    let of = |list: &str| pod["status"][list].as_array().cloned().unwrap_or_default();
    [of("initContainerStatuses"), of("containerStatuses")]
        .concat()
        .iter()
        .filter(|status| !status["state"]["running"].is_null())
        .map(|status| status["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Processes of a pod's server run as this user; root is in none of them.
fn runs_as(place: &Place, member: &str) -> Value {
    let pod = format!("{member}-0");
    let ids = [
        "exec",
        &pod,
        "-c",
        "postgres",
        "--",
        "sh",
        "-c",
        "cat /proc/[0-9]*/status | grep ^Uid: | sort -u",
    ];
    Value::from(place.must(&ids).split_whitespace().skip(1).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restricted_runs_where_the_namespace_enforces_it() {
    let place = Place::new("restricted", &MEMBERS);
    let overlay = place.over("restricted", "");
    place.apply(&overlay);
    let namespace = place
        .kubectl
        .must(&["get", "namespace", &place.namespace, "-o", "json"]);
    let namespace: Value = serde_json::from_str(&namespace).unwrap();
    let label = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
    assert_eq!(label, "restricted");
    // And it is enforced: a pod without all these settings is not let in.
    let wrong = place.run(&["run", "any", "--image=postgres:15.0", "--dry-run=server"]);
    let refusal = wrong.expect_err("a pod that may become root");
    assert!(refusal.contains("violates PodSecurity \"restricted"), "{refusal}");

    let target = place.whole().await;
    for member in MEMBERS {
        // A directory of root's until fsGroup made it PostgreSQL's.
        let volume = place.volume(member).metadata().unwrap();
        assert_eq!((volume.uid(), volume.gid()), (0, POSTGRES), "{member}");
        let pgdata = place.volume(member).join("pgdata").metadata().unwrap();
        assert_eq!(
            (pgdata.uid(), pgdata.mode() & 0o7777),
            (POSTGRES, 0o700),
            "{member}"
        );
        assert_eq!(runs_as(&place, member), Value::from(vec!["999"; 4]), "{member}");
    }
    survives(&place, &target, nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_change_places() {
    let members = [MEMBERS[0], MEMBERS[1]];
    let place = Place::new("two", &members);
    place.apply(&place.over("two-members", ""));
    let target = place.whole().await;
    assert_eq!(target.members, members);
    assert_eq!(survives(&place, &target, nothing).await, "postgres-2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_sidecar_fails_over_too() {
    let place = Place::new("plain", &MEMBERS);
    place.apply(&place.over("plain-sidecar", ""));
    let target = place.whole().await;
    for member in MEMBERS {
        assert_eq!(running(&place, member), ["postgres", "sidecar"], "{member}");
        let pod = place.object(&format!("pod/{member}-0")).unwrap();
        let init = pod["spec"]["initContainers"].as_array().unwrap();
        assert!(
            init.iter().all(|container| container["restartPolicy"].is_null()),
            "{member}"
        );
    }
    survives(&place, &target, nothing).await;
}

/// The variable is off and the Roles have no rule about StatefulSets.
const WITHOUT_STATEFUL_SETS: &str = r#"patches:
- target: { kind: Role, name: "postgres-.*" }
  patch: |
    - { op: test, path: /rules/0/resources/0, value: statefulsets }
    - { op: remove, path: /rules/0 }
- target: { kind: StatefulSet }
  patch: |
    apiVersion: apps/v1
    kind: StatefulSet
    metadata: { name: any }
    spec:
      template:
        spec:
          initContainers:
          - name: sidecar
            env:
            - { name: PGBATON_PATCH_ENV, value: "off" }
"#;

/// The members' own word on their rights: all were asked about, none is missing.
fn lacks_nothing(place: &Place, member: &str) -> bool {
    place.status(member).is_some_and(|page| {
        page["rights"]["unknown"] == 0 && page["rights"]["missing"].as_array().is_some_and(Vec::is_empty)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_right_to_stateful_sets_it_fails_over_and_leaves_them_alone() {
    let place = Place::new("env-off", &MEMBERS);
    place.apply(&place.over("tutorial", WITHOUT_STATEFUL_SETS));
    let account = format!("--as=system:serviceaccount:{}:pgbaton", place.namespace);
    let may = |verb: &str| {
        place
            .run(&["auth", "can-i", verb, "sts/postgres-1", &account])
            .is_ok()
    };
    assert!(!may("get") && !may("patch") && !may("list"));
    let sets = || MEMBERS.map(|member| place.object(&format!("sts/{member}")).unwrap());
    let before = sets();
    let stale = |text: &str| text.starts_with("StatefulSet ") && text.contains(" says ");
    let target = place.whole().await;
    let new = survives(&place, &target, stale).await;
    for (member, (was, now)) in MEMBERS.iter().zip(before.iter().zip(sets())) {
        assert_eq!(now["spec"], was["spec"], "{member}");
        assert_eq!(
            now["metadata"]["annotations"], was["metadata"]["annotations"],
            "{member}"
        );
        let (_, address) = mode(&now);
        assert_ne!(address, new, "{member}");
        eventually(&format!("{member} misses no right"), || {
            lacks_nothing(&place, member)
        });
    }
    for reason in ["MissingRights", "EffectRefused"] {
        assert_eq!(place.events(reason), Vec::<String>::new(), "{reason}");
    }
}
