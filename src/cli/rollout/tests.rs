//! The whole command against a leader and controllers played by the test: they act after each read of the Lease.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::cli::status::tests::{LEASE, cluster, lease, record, report};
use crate::core::orders::{ORDER_ANNOTATION, ORDER_RESULT_ANNOTATION, OrderNote, OrderResult, OrderState};
use crate::core::record::{Member, Record, SyncSet};
use crate::core::report::{MemberReport, Report};
use crate::core::types::Term;
use crate::kubernetes::fake::FakeApi;

const STATE: &str = "pgbaton.dev/cluster-state";
const REPORT: &str = "pgbaton.dev/report";
const IPS: [(&str, &str); 2] = [("postgres-1", "127.0.0.11"), ("postgres-2", "fd00::2")];

fn template(image: &str, role: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": "postgres" } },
        "spec": { "containers": [{ "name": "postgres", "image": image, "env": [{ "name": "STANDBY_MODE", "value": role }] }] },
    })
}

fn pod(uid: &str, ip: &str, revision: &str) -> Value {
    json!({
        "metadata": { "uid": uid, "labels": { "controller-revision-hash": revision } },
        "spec": { "containers": [] },
        "status": { "podIP": ip, "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

fn full_report(at: u64) -> Report {
    let told = |(name, _): &(&str, &str)| MemberReport {
        member: name.parse().unwrap(),
        ..report().members[0].clone()
    };
    Report {
        at: at.to_string(),
        members: IPS.iter().map(told).collect(),
        ..report()
    }
}

/// Two members led by postgres-1, whose pods run the image 15.3 while their templates say 15.4.
fn stage() -> FakeApi {
    let api = FakeApi::default();
    api.put(
        LEASE,
        lease(&json!({ STATE: record().render(), REPORT: full_report(0).render() })),
    );
    for (name, ip) in IPS {
        let set = json!({
            "metadata": { "generation": 4 },
            "spec": { "replicas": 1, "updateStrategy": { "type": "OnDelete" }, "template": template("postgres:15.4", "off") },
            "status": { "observedGeneration": 4 },
        });
        api.put(&format!("statefulsets/{name}"), set);
        for (revision, image) in [("old", "postgres:15.3"), ("new", "postgres:15.4")] {
            let mut from = template(image, "on");
            from["$patch"] = json!("replace");
            let revision = format!("controllerrevisions/{name}-{revision}");
            api.put(
                &revision,
                json!({ "revision": 1, "data": { "spec": { "template": from } } }),
            );
        }
        let old = pod(&format!("{name}-first"), ip, &format!("{name}-old"));
        api.put(&format!("pods/{name}-0"), old);
    }
    api
}

fn change_record(objects: &mut BTreeMap<String, Value>, change: impl FnOnce(&mut Record)) {
    let annotations = &mut objects.get_mut(LEASE).unwrap()["metadata"]["annotations"];
    let mut record = Record::parse(annotations[STATE].as_str().unwrap()).unwrap();
    change(&mut record);
    annotations[STATE] = json!(record.render());
}

fn lead(record: &mut Record, to: &MemberName) {
    record.term = Term(record.term.0 + 1);
    record.primary = record.member(to).cloned();
    let standbys = record.members.iter().filter(|m| m.member != *to);
    record.sync_sets = vec![SyncSet {
        k: 1,
        standbys: standbys.map(Member::data).collect(),
    }];
}

/// Reports, and carries orders out.
fn leader(objects: &mut BTreeMap<String, Value>, turn: u64) {
    let annotations = &mut objects.get_mut(LEASE).unwrap()["metadata"]["annotations"];
    annotations[REPORT] = json!(full_report(turn).render());
    let order = annotations[ORDER_ANNOTATION]
        .as_str()
        .and_then(|text| OrderNote::parse(text).ok());
    let Some(order) = order.filter(|_| annotations[ORDER_RESULT_ANNOTATION].is_null()) else {
        return;
    };
    let result = OrderResult {
        id: order.id,
        state: OrderState::Done,
        text: "done".into(),
    };
    annotations[ORDER_RESULT_ANNOTATION] = json!(result.render());
    change_record(objects, |record| lead(record, &order.to.unwrap()));
}

/// Makes the pods that are missing, as the templates say.
fn controllers(objects: &mut BTreeMap<String, Value>, turn: u64) {
    for (name, ip) in IPS {
        objects.entry(format!("pods/{name}-0")).or_insert_with(|| {
            let mut pod = pod(&format!("{name}-{turn}"), ip, &format!("{name}-new"));
            pod["metadata"]["name"] = json!(format!("{name}-0"));
            pod
        });
    }
}

/// Plays the cluster: `more` after leader and controllers, with the number of the read.
fn play(
    api: &FakeApi,
    makes_pods: bool,
    mut more: impl FnMut(&mut BTreeMap<String, Value>, u64) + Send + 'static,
) {
    let mut turn = 0;
    api.interlope(move |path, objects| {
        if path != LEASE {
            return;
        }
        turn += 1;
        // A write that follows such a read goes well.
        if turn % 3 == 0 {
            return;
        }
        if makes_pods {
            controllers(objects, turn);
        }
        leader(objects, turn);
        more(objects, turn);
        let version = json!((10_000 + turn).to_string());
        objects.get_mut(LEASE).unwrap()["metadata"]["resourceVersion"] = version;
    });
}

fn args(line: &str) -> RolloutArgs {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: RolloutArgs,
    }
    let words = std::iter::once("rollout").chain(line.split_whitespace());
    <Line as clap::Parser>::parse_from(words).args
}

async fn stopped_by(
    api: &FakeApi,
    line: &str,
    stop: impl Future<Output = ()> + Send + 'static,
) -> (End, String) {
    let (cluster, args) = (cluster(api), args(line));
    let mut out = Vec::new();
    let mut rollout = Rollout::new(&cluster, &args, &mut out);
    let end = match rollout.begin().await {
        ControlFlow::Break(end) => end,
        ControlFlow::Continue(()) => rollout.go(stop).await,
    };
    (end, String::from_utf8(out).unwrap())
}

async fn run(api: &FakeApi, line: &str) -> (End, String) {
    stopped_by(api, line, std::future::pending()).await
}

/// Pods that were deleted, by the UID that the request named.
fn deleted(api: &FakeApi) -> Vec<String> {
    let requests = api.requests().into_iter();
    let deletions = requests.filter(|(line, _)| line.starts_with("DELETE"));
    deletions
        .map(|(_, body)| body["preconditions"]["uid"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn standbys_switchover_and_the_old_primary_each_once() {
    let api = stage();
    play(&api, true, |_, _| {});
    let (end, out) = run(&api, "").await;
    assert_eq!(end, End::Done, "{out}");
    assert_eq!(deleted(&api), ["postgres-2-first", "postgres-1-first"]);
    for line in [
        "rollout of default/postgres (sync, term 7, primary postgres-1):",
        "  1. postgres-2: a new pod: containers[postgres].image: postgres:15.3 -> postgres:15.4",
        "  2. switchover from postgres-1 to postgres-2",
        "  3. postgres-1: a new pod: containers[postgres].image: postgres:15.3 -> postgres:15.4",
        "switchover to postgres-2: done: done",
        "rollout of default/postgres: done: new pods of postgres-2, postgres-1",
        "The primary is postgres-2; 'pgbaton switchover --to postgres-1' takes the role back to postgres-1.",
    ] {
        assert!(out.lines().any(|said| said == line), "'{line}' is not in\n{out}");
    }
    let (end, out) = run(&api, "").await;
    assert_eq!(end, End::Done);
    assert!(out.contains("nothing to do"), "{out}");
    assert_eq!(deleted(&api).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn unchanged_pods_are_renewed_on_demand_only() {
    let api = stage();
    play(&api, true, |_, _| {});
    for (name, ip) in IPS {
        let current = pod(&format!("{name}-first"), ip, &format!("{name}-new"));
        api.put(&format!("pods/{name}-0"), current);
    }
    let (end, out) = run(&api, "").await;
    assert_eq!((end, deleted(&api).len()), (End::Done, 0), "{out}");
    let (end, out) = run(&api, "--restart --member postgres-2").await;
    assert_eq!(end, End::Done, "{out}");
    assert_eq!(deleted(&api), ["postgres-2-first"]);
    assert!(out.contains("asked for (--restart)"), "{out}");
}

#[tokio::test(start_paused = true)]
async fn a_plan_alone_changes_nothing_and_says_what_is_not_known() {
    let api = stage();
    play(&api, true, |objects, _| {
        objects.remove("controllerrevisions/postgres-2-old");
    });
    let (cluster, args) = (cluster(&api), args("--dry-run"));
    let mut out = Vec::new();
    let begun = Rollout::new(&cluster, &args, &mut out).begin().await;
    assert_eq!(begun, ControlFlow::Continue(()));
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("ControllerRevision postgres-2-old is gone"), "{out}");
    assert!(out.contains("one standby only"), "{out}");
    assert!(api.writes().is_empty() && deleted(&api).is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_come_back_stops_it() {
    let api = stage();
    play(&api, false, |_, _| {});
    let (end, out) = run(&api, "--timeout 30s").await;
    assert_eq!(end, End::Unknown, "{out}");
    assert_eq!(deleted(&api), ["postgres-2-first"]);
    for part in [
        "stopped: not in time: postgres-2: its pod is not there",
        "kubectl -n default describe pod postgres-2-0",
        "It goes on where it stopped by: pgbaton rollout -n default --lease postgres",
    ] {
        assert!(out.contains(part), "'{part}' is not in\n{out}");
    }
    // The pod is there again: the rest is done, and this one not twice.
    play(&api, true, |_, _| {});
    let (end, out) = run(&api, "").await;
    assert_eq!(end, End::Done, "{out}");
    assert_eq!(deleted(&api), ["postgres-2-first", "postgres-1-first"]);
}

#[tokio::test(start_paused = true)]
async fn ctrl_c_says_how_to_go_on() {
    let api = stage();
    play(&api, false, |_, _| {});
    let stop = tokio::time::sleep(Duration::from_secs(5));
    let (end, out) = stopped_by(&api, "--restart", stop).await;
    assert_eq!(end, End::Unknown);
    assert!(out.contains("stopped: interrupted"), "{out}");
    assert!(out.ends_with("--restart --member postgres-1\n"), "{out}");
}

#[tokio::test(start_paused = true)]
async fn a_failover_meanwhile_is_planned_anew() {
    let api = stage();
    let mut failed_over = false;
    play(&api, true, move |objects, _| {
        let is_new = objects["pods/postgres-2-0"]["metadata"]["uid"] != "postgres-2-first";
        if is_new && !failed_over {
            failed_over = true;
            change_record(objects, |record| lead(record, &"postgres-2".parse().unwrap()));
        }
    });
    let (end, out) = run(&api, "").await;
    assert_eq!(end, End::Done, "{out}");
    assert!(
        out.contains("The primary is postgres-2 since term 8, not by this rollout"),
        "{out}"
    );
    assert_eq!(deleted(&api), ["postgres-2-first", "postgres-1-first"]);
    assert!(!out.contains("switchover to postgres-2: ordered"), "{out}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_a_while_is_waited_for() {
    let api = stage();
    play(&api, true, |_, _| {});
    let hung = api.clone();
    tokio::spawn(async move {
        while deleted(&hung).is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        hung.hang(true);
        tokio::time::sleep(Duration::from_secs(25)).await;
        hung.hang(false);
    });
    let (end, out) = run(&api, "").await;
    assert_eq!(end, End::Done, "{out}");
    assert!(out.contains("still waiting"), "{out}");
    assert_eq!(deleted(&api).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_fit_is_refused_before_anything_is_done() {
    let refused = async |change: &dyn Fn(&FakeApi), line: &str, parts: &[&str]| {
        let api = stage();
        play(&api, true, |_, _| {});
        change(&api);
        let (end, out) = run(&api, line).await;
        assert_eq!(end, End::Failed, "{out}");
        for part in parts {
            assert!(out.contains(part), "'{part}' is not in\n{out}");
        }
        assert!(out.contains("not begun") && deleted(&api).is_empty(), "{out}");
    };
    refused(
        &|_| {},
        "--member postgres-9",
        &["postgres-9 is no member", "postgres-1, postgres-2"],
    )
    .await;
    let denied = [
        "the right to delete pods postgres-2-0 in namespace default is missing",
        "- {apiGroups: [\"\"], resources: [pods], resourceNames: [postgres-2-0], verbs: [delete]}",
    ];
    refused(&|api| api.deny("delete", "pods/postgres-2-0"), "", &denied).await;
    refused(
        &|api| api.deny("patch", "leases/postgres"),
        "",
        &["patch leases.coordination.k8s.io postgres"],
    )
    .await;
    let forbidden = [
        "the right to get controllerrevisions",
        "- {apiGroups: [\"apps\"], resources: [controllerrevisions], verbs: [get]}",
    ];
    refused(
        &|api| api.forbid("GET", "controllerrevisions/postgres-1-old"),
        "",
        &forbidden,
    )
    .await;
    let paused = |api: &FakeApi| {
        let mut record = record();
        record.paused = true;
        api.put(
            LEASE,
            lease(&json!({ STATE: record.render(), REPORT: full_report(0).render() })),
        );
    };
    refused(&paused, "", &["pgbaton resume"]).await;
    let damaged = |api: &FakeApi| api.put(LEASE, lease(&json!({ STATE: "nonsense" })));
    refused(&damaged, "", &["is damaged"]).await;
}
