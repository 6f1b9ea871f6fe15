//! `pgbaton rollout` on live clusters, with exactly the rights that docs/rights.md gives a person.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::PolicyRule;
use pgbaton_chaos::local::api::{Change, ChangeType, Rule};
use pgbaton_chaos::local::settings::NAMESPACE;
use pgbaton_chaos::local::store::Kind;
use pgbaton_chaos::oracles::workload::Workload;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast::Receiver;
use tokio::time::Instant;

use super::support::{Live, Ran};

const PERSON: &str = "dba";

/// The rules under "What a person needs for `pgbaton rollout`".
fn documented_rights() -> Vec<Rule> {
    let page = include_str!("../../../docs/rights.md");
    let part = page.split_once("## A person's rollout").unwrap().1;
    let yaml = part.split("```").nth(1).unwrap().trim_start_matches("yaml\n");
    let rules: Vec<PolicyRule> = serde_saphyr::from_str(yaml).unwrap();
    let rules = rules.iter().map(|rule| Rule::from_policy(rule, Some(NAMESPACE)));
    rules.collect()
}

/// The command as somebody who may this and no more.
async fn rollout(live: &Live, words: &[&str]) -> Ran {
    let api = live.rig().store.api();
    api.add_user(PERSON, "dba-token", documented_rights());
    let kubeconfig = live.rig().settings.directory.join("dba-kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig(PERSON, NAMESPACE).unwrap()).unwrap();
    live.pgbaton_as(&kubeconfig, &[&["rollout"], words].concat())
        .await
}

fn expect(ran: &Ran, code: i32, words: &[&str]) {
    let said = format!("{}{}", ran.out, ran.err);
    assert!(
        ran.code == Some(code) && words.iter().all(|word| said.contains(word)),
        "expected {code} and {words:?}: {ran:#?}"
    );
}

/// Members' pods that were made since, in order.
fn made(changes: &mut Receiver<Arc<Change>>) -> Vec<String> {
    let mut made = Vec::new();
    while let Ok(change) = changes.try_recv() {
        if change.kind == Kind::Pod && change.change == ChangeType::Added {
            let name = change.object["metadata"]["name"].as_str().unwrap();
            made.push(name.trim_end_matches("-0").to_owned());
        }
    }
    made
}

fn uids(live: &Live) -> BTreeMap<String, String> {
    let members = live.rig().settings.member_names().into_iter();
    members
        .map(|name| {
            let uid = live.member(&name).pod_uid().unwrap_or_default();
            (name, uid)
        })
        .collect()
}

/// As an edited manifest that is applied again: an annotation and a variable of the server.
fn change_template(live: &Live, member: &str, value: &str) {
    let mut set = live.rig().store.get(Kind::StatefulSet, member).unwrap();
    let template = set.pointer_mut("/spec/template").unwrap();
    template["metadata"]["annotations"]["example.com/release"] = json!(value);
    let env = template.pointer_mut("/spec/containers/0/env").unwrap();
    let env = env.as_array_mut().unwrap();
    env.retain(|variable| variable["name"] != "RELEASE");
    env.push(json!({ "name": "RELEASE", "value": value }));
    let patch = json!({ "spec": { "template": set["spec"]["template"] } });
    live.rig().store.patch(Kind::StatefulSet, member, &patch).unwrap();
}

fn change_all(live: &Live, value: &str) {
    for member in live.rig().settings.member_names() {
        change_template(live, &member, value);
    }
}

/// What the pods that run were made with.
fn releases(live: &Live) -> Vec<Value> {
    let pods = live.rig().store.api().list(Kind::Pod, NAMESPACE);
    let release = |pod: &Arc<Value>| pod["metadata"]["annotations"]["example.com/release"].clone();
    pods.iter().map(release).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_templates_come_into_every_pod_once_and_no_write_is_lost() {
    let live = Live::whole(211, |_| {}).await;
    let rig = live.rig();
    // A switchover before: what pgbaton writes into the templates then is no reason for anything.
    assert_eq!(
        live.pgbaton(&["switchover", "--to", "postgres-2"]).await.code,
        Some(0)
    );
    live.until_settled().await;
    expect(&rollout(&live, &["--yes"]).await, 0, &["nothing to do"]);

    change_all(&live, "two");
    let mut changes = rig.store.api().subscribe();
    let before = uids(&live);
    let planned = [
        "1. postgres-1",
        "2. postgres-3",
        "3. switchover from postgres-2 to",
        "4. postgres-2",
        "env[RELEASE] (new)",
    ];
    expect(&rollout(&live, &["--dry-run"]).await, 0, &planned);
    expect(&rollout(&live, &[]).await, 2, &["--yes"]);
    assert_eq!((uids(&live), made(&mut changes)), (before.clone(), Vec::new()));

    let workload = Workload::start(&rig.settings.login, rig.settings.service_ip(), 4)
        .await
        .unwrap();
    let began = Instant::now();
    let ran = rollout(&live, &["--yes", "--timeout", "90s"]).await;
    expect(&ran, 0, &["done: new pods of postgres-1, postgres-3, postgres-2"]);
    let summary = workload.summary(began, Instant::now());
    assert_eq!(workload.lost().await.unwrap(), Vec::<i64>::new());
    workload.stop().await;
    println!("{}\n{summary:?}", ran.out);
    assert!(summary.acknowledged > 100, "{summary:?}");
    // Standbys first, the old primary last, each once.
    assert_eq!(made(&mut changes), ["postgres-1", "postgres-3", "postgres-2"]);
    assert!(uids(&live).iter().all(|(name, uid)| before[name] != *uid));
    assert_eq!(releases(&live), vec![json!("two"); 3]);
    assert_ne!(rig.primary().unwrap(), "postgres-2");
    live.until_settled().await;

    expect(&rollout(&live, &["--yes"]).await, 0, &["nothing to do"]);
    assert_eq!(made(&mut changes), Vec::<String>::new());
    live.end().await;
}

/// A template that cannot run stops the rollout at its first pod; a better one mends that pod first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_cannot_run_stops_at_the_first_pod() {
    let live = Live::whole(212, |_| {}).await;
    let store = &live.rig().store;
    let good: Vec<(String, Value)> = live
        .rig()
        .settings
        .member_names()
        .into_iter()
        .map(|member| {
            let set = store.get(Kind::StatefulSet, &member).unwrap();
            let command = set.pointer("/spec/template/spec/containers/0/command").unwrap();
            (member, command.clone())
        })
        .collect();
    let with_command = |command: &dyn Fn(&Value) -> Value| {
        for (member, good) in &good {
            let mut set = store.get(Kind::StatefulSet, member).unwrap();
            *set.pointer_mut("/spec/template/spec/containers/0/command")
                .unwrap() = command(good);
            let patch = json!({ "spec": { "template": set["spec"]["template"] } });
            store.patch(Kind::StatefulSet, member, &patch).unwrap();
        }
    };
    let before = uids(&live);
    with_command(&|_| json!(["/bin/false"]));
    let ran = rollout(&live, &["--yes", "--timeout", "15s"]).await;
    let says = [
        "stopped: not in time: postgres-2: its pod cannot run: container postgres: CrashLoopBackOff",
        "describe pod postgres-2-0",
        "It goes on where it stopped by: pgbaton rollout",
    ];
    expect(&ran, 3, &says);
    let now = uids(&live);
    assert_eq!(
        (&now["postgres-1"], &now["postgres-3"]),
        (&before["postgres-1"], &before["postgres-3"])
    );

    // Nothing to renew there, and the others are not touched beside it.
    let ran = rollout(&live, &["--yes", "--timeout", "5s"]).await;
    expect(&ran, 1, &["not begun: postgres-2: its pod cannot run"]);

    // The old template again: only that pod differs.
    with_command(&Value::clone);
    expect(
        &rollout(&live, &["--yes"]).await,
        0,
        &["done: new pods of postgres-2\n"],
    );
    live.until_settled().await;
    let after = uids(&live);
    assert_eq!(
        (&after["postgres-1"], &after["postgres-3"]),
        (&before["postgres-1"], &before["postgres-3"])
    );
    live.end().await;
}

/// One server: its pod is renewed in place, and that is said before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_server_is_renewed_too() {
    let live = Live::whole(213, |choice| choice.members = 1).await;
    change_all(&live, "two");
    let ran = rollout(&live, &["--yes"]).await;
    expect(&ran, 0, &["There is no standby", "done: new pods of postgres-1"]);
    assert_eq!(releases(&live), [json!("two")]);
    live.until_settled().await;
    live.end().await;
}
