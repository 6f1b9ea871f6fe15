//! Given what is wrong: said where people look, and nothing changed by it.

use std::time::Duration;

use pgbaton_chaos::local::api::Rule;
use pgbaton_chaos::local::kubelet::Role;
use pgbaton_chaos::local::objects;
use pgbaton_chaos::local::store::Kind;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::support::{Live, short_lease};

/// How long nothing may happen: longer than a short Lease and everything that waits for it.
const QUIET: Duration = Duration::from_secs(7);

/// Gives a member other rights under the token that it has.
fn set_rights(live: &Live, member: &str, keep: impl Fn(&Rule) -> bool) {
    let rules = objects::member_rights(&live.rig().members);
    live.set_rules(member, rules.into_iter().filter(keep).collect());
}

fn all_members(live: &Live) -> Vec<String> {
    live.rig().settings.member_names()
}

fn leases(rule: &Rule) -> bool {
    rule.resources.iter().any(|resource| resource == "leases")
}

fn stateful_sets(rule: &Rule) -> bool {
    rule.resources.iter().any(|resource| resource == "statefulsets")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_sets_that_are_forbidden_or_missing() {
    let live = Live::whole(241, |_| {}).await;
    for member in all_members(&live) {
        set_rights(&live, &member, |rule| !stateful_sets(rule));
    }
    let sets = || -> Vec<Value> {
        let names = all_members(&live);
        let specs = names
            .iter()
            .map(|name| live.rig().store.get(Kind::StatefulSet, name).unwrap());
        specs.map(|set| set["spec"].clone()).collect()
    };
    let before = sets();
    let ran = live.pgbaton(&["switchover", "--to", "postgres-2"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    live.until_warned("postgres-2", &["StatefulSet", "forbidden"])
        .await;
    assert_eq!(sets(), before);
    // The rest was done: clients are served by the new primary.
    assert!(live.takes_writes("postgres-2").await);
    let service = live.rig().store.get(Kind::Service, "postgres").unwrap();
    assert_eq!(service["spec"]["selector"]["app"], json!("postgres-2"));
    for member in all_members(&live) {
        set_rights(&live, &member, |_| true);
    }
    live.until_settled().await;
    assert_ne!(sets(), before);
    a_stateful_set_is_missing(&live).await;
    a_stateful_set_of_several_pods_or_without_the_variables(&live).await;
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_the_lease() {
    let live = Live::start(242, |choice| {
        choice.members = 2;
        short_lease(choice);
    })
    .await;
    for member in all_members(&live) {
        set_rights(&live, &member, |rule| !leases(rule));
    }
    for member in all_members(&live) {
        // A watch that was open already ends with its sidecar.
        live.member(&member).kill();
        live.until_warned(&member, &["the Lease cannot be read", "forbidden"])
            .await;
    }
    sleep(QUIET).await;
    for member in &live.rig().members {
        assert!(
            !member.pgdata().join("PG_VERSION").exists(),
            "{} has data",
            member.name
        );
    }
    assert!(live.record().is_none_or(|record| record.primary.is_none()));
    for member in all_members(&live) {
        set_rights(&live, &member, |_| true);
    }
    live.until_whole().await;
    live.end().await;
}

/// The leader's watch goes on, its renewals are refused: it loses the baton, another one takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_the_right_to_renew() {
    let live = Live::whole(243, short_lease).await;
    let rig = live.rig();
    let before = rig.store.api().requests();
    set_rights(&live, "postgres-1", |rule| !leases(rule));
    live.until_status("postgres-1", "it says what is missing", |page| {
        page["warnings"].to_string().contains("forbidden")
    })
    .await;
    // Longer than a Lease: it stays by the promises of the others.
    sleep(Duration::from_secs(8)).await;
    assert_eq!(rig.primary().as_deref(), Some("postgres-1"));
    assert!(live.takes_writes("postgres-1").await);
    set_rights(&live, "postgres-1", |_| true);
    live.until_whole().await;
    assert_eq!(rig.primary().as_deref(), Some("postgres-1"));
    let asked = rig.store.api().requests().since(&before);
    // Refused, it asks again now and then: never at once.
    let times = asked.count("postgres-1", "patch", "leases");
    assert!(times < 150, "postgres-1 asked {times} times to change the Lease");
    live.end().await;
}

async fn a_stateful_set_is_missing(live: &Live) {
    live.rig().store.delete(Kind::StatefulSet, "postgres-3").unwrap();
    let ran = live.pgbaton(&["switchover", "--to", "postgres-1"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    live.until_warned("postgres-1", &["StatefulSet", "postgres-3"])
        .await;
    assert!(live.rig().store.get(Kind::StatefulSet, "postgres-3").is_none());
    assert!(live.takes_writes("postgres-1").await);
    let member = live.member("postgres-3").member().clone();
    live.rig()
        .apply_stateful_set(&member, "on", "postgres-2")
        .unwrap();
    live.until_whole().await;
}

/// Said by the leader, and the right ones are kept as before.
async fn a_stateful_set_of_several_pods_or_without_the_variables(live: &Live) {
    live.until_settled().await;
    let store = &live.rig().store;
    let scale = |replicas: u32| {
        let patch = json!({ "spec": { "replicas": replicas } });
        store.patch(Kind::StatefulSet, "postgres-2", &patch).unwrap();
    };
    let template = |set: &Value| set["spec"]["template"]["spec"].clone();
    let before = template(&store.get(Kind::StatefulSet, "postgres-3").unwrap());
    let mut bare = before.clone();
    for list in ["initContainers", "containers"] {
        let env = bare[list][0]["env"].as_array_mut().unwrap();
        env.retain(|v| v["name"] != json!("STANDBY_MODE") && v["name"] != json!("PRIMARY_SERVER_ADDRESS"));
    }
    let set_template = |spec: &Value| {
        let patch = json!({ "spec": { "template": { "spec": spec } } });
        store.patch(Kind::StatefulSet, "postgres-3", &patch).unwrap();
    };
    scale(2);
    set_template(&bare);
    let ran = live.pgbaton(&["switchover", "--to", "postgres-2"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let several = "StatefulSet postgres-2 has 2 replicas";
    let neither = "StatefulSet postgres-3 carries neither STANDBY_MODE nor PRIMARY_SERVER_ADDRESS";
    live.until_warned("postgres-2", &[several, neither]).await;
    let event = live.until_event("postgres-2", "EffectRefused").await;
    assert!(
        event.contains(several) || event.contains("StatefulSet postgres-3"),
        "{event}"
    );
    let log = live.log("postgres-2", Role::Sidecar);
    assert!(log.contains(several) && log.contains(neither));
    let set = store.get(Kind::StatefulSet, "postgres-2").unwrap();
    assert_eq!(
        set["spec"]["replicas"],
        json!(2),
        "no object is scaled by pgbaton"
    );
    assert_eq!(
        template(&store.get(Kind::StatefulSet, "postgres-3").unwrap()),
        bare
    );
    // None is a member that somebody scaled away for a while: no news.
    scale(1);
    set_template(&before);
    live.until_whole().await;
    live.until_status("postgres-2", "no warning", |page| {
        !page["warnings"].to_string().contains("StatefulSet")
    })
    .await;
}

/// The rest of the cluster goes on as if the member were away, and the member says why it is.
async fn one_member_is_wrong(subnet: u8, name: &str, value: &str, said: impl Fn(&Value) -> bool) {
    let env = (3, name.to_owned(), value.to_owned());
    let live = Live::start(subnet, |choice| {
        choice.member_sidecar_env = vec![env];
        short_lease(choice);
    })
    .await;
    live.until_status("postgres-1", "it leads, and postgres-2 follows", |page| {
        page["role"] == json!("primary") && page["could_fail_over"]["yes"] == json!(true)
    })
    .await;
    live.until_status("postgres-3", "it says what is wrong", &said)
        .await;
    let before = (live.rig().primary(), live.term());
    sleep(QUIET).await;
    assert_eq!((live.rig().primary(), live.term()), before);
    assert!(live.takes_writes("postgres-1").await);
    live.until_status("postgres-3", "it still says what is wrong", &said)
        .await;
    for role in Role::ALL {
        let log = live.log("postgres-3", role);
        assert!(
            !log.contains(value),
            "the password is in the {} log",
            role.container()
        );
    }
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_of_the_superuser() {
    one_member_is_wrong(245, "POSTGRES_PASSWORD", "not-this-one-8f3a", |page| {
        page["warnings"].to_string().contains("POSTGRES_PASSWORD")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_password_of_replication() {
    one_member_is_wrong(246, "REPLICATION_PASSWORD", "not-this-one-8f3a", |page| {
        let peers = page["peers"].as_array().unwrap();
        let says = |peer: &Value| peer["error"].to_string().contains("REPLICATION_PASSWORD differ");
        let warned = page["warnings"]
            .to_string()
            .contains("REPLICATION_PASSWORD_PREVIOUS");
        warned && peers.len() == 2 && peers.iter().all(says)
    })
    .await;
}

/// The swap that writes "initialising" makes one of them the first primary; the other one clones it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_that_say_off() {
    let live = Live::whole(247, |choice| {
        choice.member_sidecar_env = vec![(2, "STANDBY_MODE".to_owned(), "off".to_owned())];
    })
    .await;
    let record = live.record().unwrap();
    assert_eq!(record.term.0, 1);
    assert_eq!(record.history.len(), 1, "{:#?}", record.history);
    let initialised = |member: &str| {
        let page = live.log(member, Role::Server);
        page.contains("PostgreSQL init process complete")
    };
    let count = all_members(&live)
        .iter()
        .filter(|member| initialised(member))
        .count();
    assert_eq!(count, 1, "one initdb for one cluster");
    // Whoever came second says what is wrong, with both members' names to tell by.
    let told = |member: &String| {
        live.log(member, Role::Sidecar)
            .contains("STANDBY_MODE is off here")
    };
    assert_eq!(all_members(&live).iter().filter(|m| told(m)).count(), 1);
    live.end().await;
}

/// The sidecar with these settings, until it refuses them.
async fn refused_at_the_door(changes: &[(&str, &str)]) -> (Option<i32>, String) {
    let pgbaton = std::path::PathBuf::from(env!("CARGO_BIN_EXE_pgbaton-chaos")).with_file_name("pgbaton");
    let good = [
        ("PGBATON_MEMBER", "postgres-2"),
        ("POD_NAMESPACE", "default"),
        ("POD_NAME", "postgres-2-0"),
        ("POD_UID", "0e6c5f0a"),
        ("POD_IP", "127.0.0.1"),
        ("STANDBY_MODE", "on"),
        ("POSTGRES_PASSWORD", "secret"),
        ("REPLICATION_USER", "replicator"),
        ("REPLICATION_PASSWORD", "secret too"),
    ];
    let mut command = tokio::process::Command::new(pgbaton);
    command
        .arg("sidecar")
        .env_clear()
        .envs(good)
        .envs(changes.iter().copied())
        .kill_on_drop(true);
    let output = tokio::time::timeout(QUIET, command.output())
        .await
        .unwrap()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// No API server is asked and nothing is started: exit status 2, and what to put there.
#[tokio::test]
async fn a_pod_that_cannot_be_a_member_is_refused_at_the_door() {
    let wrong: [(&str, &str, &[&str]); 3] = [
        (
            "STANDBY_MODE",
            "primary",
            &["'primary'", "(STANDBY_MODE)", "on, off", "first primary"],
        ),
        ("STANDBY_MODE", "", &["(STANDBY_MODE)", "on, off"]),
        (
            "POD_NAME",
            "postgres-2-1",
            &[
                "(POD_NAME)",
                "postgres-2-1",
                "pod postgres-2-0",
                "--replicas=1",
                "nothing was started",
            ],
        ),
    ];
    for (name, value, words) in wrong {
        let (code, said) = refused_at_the_door(&[(name, value)]).await;
        assert_eq!(code, Some(2), "{name}={value}: {said}");
        for word in words {
            assert!(said.contains(word), "{name}={value}: '{word}' is not in: {said}");
        }
    }
}

/// Its container is gone with its words; the sidecar has them all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_refuses_to_begin_is_quoted() {
    let live = Live::start(248, |choice| {
        choice.members = 1;
        choice
            .guard_env
            .push(("PGDATA".to_owned(), "/pgbaton-no-such-place".to_owned()));
    })
    .await;
    let words = [
        "the guard did not begin",
        "directly below /",
        "PGDATA=/data/pgdata",
    ];
    live.until_warned("postgres-1", &words).await;
    let event = live.until_event("postgres-1", "GuardRefused").await;
    assert!(words.iter().all(|word| event.contains(word)), "{event}");
    assert!(live.log("postgres-1", Role::Sidecar).contains(words[0]));
    sleep(QUIET).await;
    assert!(live.record().is_none_or(|record| record.is_never_initialised()));
    let volume = live.member("postgres-1").member().volume();
    assert!(!volume.join("pgdata").exists() && !volume.join("pgbaton").exists());
    live.end().await;
}
