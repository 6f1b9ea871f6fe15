//! Every command of people against real processes, and what the sidecars serve meanwhile.

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::support::{BOUND, Live, Ran, short_lease};
use pgbaton_chaos::local::store::Kind;
use pgbaton_chaos::names::{CLUSTER, RECORD_ANNOTATION};
use std::time::Duration;

const DONE: Option<i32> = Some(0);
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);

fn expect(ran: &Ran, code: Option<i32>, words: &[&str]) {
    let said = format!("{}{}", ran.out, ran.err);
    assert!(
        ran.code == code && words.iter().all(|word| said.contains(word)),
        "expected {code:?} and {words:?}: {ran:#?}"
    );
}

async fn run(live: &Live, words: &[&str], code: Option<i32>, say: &[&str]) -> Ran {
    let ran = live.pgbaton(words).await;
    expect(&ran, code, say);
    ran
}

/// Until `pgbaton status` says all of this: the leader's report comes now and then.
async fn until_said(live: &Live, code: Option<i32>, say: &[&str]) -> Ran {
    let deadline = Instant::now() + BOUND;
    loop {
        let ran = live.pgbaton(&["status"]).await;
        if ran.code == code && say.iter().all(|word| ran.out.contains(word)) {
            return ran;
        }
        assert!(
            Instant::now() < deadline,
            "'pgbaton status' never said {say:?}: {ran:#?}"
        );
        sleep(Duration::from_millis(300)).await;
    }
}

/// The pages of all members satisfy their schema, and the other paths are answered.
async fn all_paths_answer(live: &Live) {
    for member in live.rig().settings.member_names() {
        let page = live.status(&member).await.unwrap();
        assert_eq!(page["member"], json!(member));
        for path in ["/healthz", "/readyz"] {
            live.get_good(&member, path).await;
        }
        let metrics = live.get_good(&member, "/metrics").await;
        let named = |line: &&str| line.starts_with("# HELP pgbaton_");
        assert!(metrics.lines().filter(named).count() > 5, "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    }
}

fn primary(live: &Live) -> String {
    live.rig().primary().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_history_pause_and_switchover() {
    let live = Live::whole(232, |_| {}).await;
    all_paths_answer(&live).await;
    status_and_history(&live).await;

    // A pause is written once, and said.
    run(&live, &["pause"], DONE, &["pause: done"]).await;
    run(&live, &["pause"], DONE, &["nothing to do", "paused"]).await;
    run(&live, &["status"], DONE, &["paused: no takeover until"]).await;
    all_paths_answer(&live).await;
    while_paused(&live).await;
    run(&live, &["resume"], DONE, &["resume: done"]).await;
    run(&live, &["resume"], DONE, &["nothing to do"]).await;
    live.until_settled().await;

    // A switchover to somebody, to the primary itself, to a stranger, to whoever is fittest.
    let from = primary(&live);
    let to = if from == "postgres-3" {
        "postgres-1"
    } else {
        "postgres-3"
    };
    run(&live, &["switchover", "--to", to], DONE, &["done"]).await;
    assert_eq!(primary(&live), to);
    live.until_settled().await;
    run(
        &live,
        &["switchover", "--to", to],
        DONE,
        &["nothing to do", "it is the primary"],
    )
    .await;
    run(
        &live,
        &["switchover", "--to", "postgres-9"],
        FAILED,
        &["postgres-9 is no member"],
    )
    .await;
    run(&live, &["switchover"], DONE, &["done"]).await;
    assert_ne!(primary(&live), to);
    live.until_settled().await;
    run(&live, &["history"], DONE, &[to, "initialised", "switchover"]).await;

    nothing_to_waive(&live, to).await;
    live.end().await;
}

/// While somebody leads there is nothing to waive and nothing to adopt.
async fn nothing_to_waive(live: &Live, to: &str) {
    let leads = primary(live);
    let waive = [
        "failover",
        "--accept-data-loss",
        "--cluster",
        "default/postgres",
        "--to",
    ];
    run(
        live,
        &[&waive[..], &[to]].concat(),
        FAILED,
        &["refused", "pgbaton switchover"],
    )
    .await;
    run(live, &["failover", "--to", to], USAGE, &["--accept-data-loss"]).await;
    let other = [
        "failover",
        "--accept-data-loss",
        "--cluster",
        "default/other",
        "--to",
        to,
    ];
    run(live, &other, USAGE, &["nothing was ordered"]).await;
    run(
        live,
        &["adopt", "--to", to],
        FAILED,
        &["refused", "nothing to adopt"],
    )
    .await;
    assert_eq!(primary(live), leads);
}

async fn status_and_history(live: &Live) {
    let says = [
        "cluster default/postgres: sync, term 1",
        "led by postgres-1",
        "postgres-2",
        "postgres-3",
        "why: leads",
        "could fail over now: yes, to postgres-",
    ];
    until_said(live, DONE, &says).await;
    let ran = run(live, &["status", "-o", "json"], DONE, &[]).await;
    let page: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(page["record"]["primary"]["member"], json!("postgres-1"));
    assert_eq!(page["report"]["could_fail_over"]["yes"], json!(true));
    assert_eq!(page["record_error"], Value::Null);
    run(live, &["history"], DONE, &["postgres-1", "initialised"]).await;
    let ran = run(live, &["history", "-o", "json"], DONE, &[]).await;
    let history: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(history.to_string().contains("initialised"), "{history}");
}

/// A pause forbids takeovers; a switchover that a person orders is none.
async fn while_paused(live: &Live) {
    let before = primary(live);
    run(live, &["switchover", "--timeout", "30s"], DONE, &["done"]).await;
    live.until_whole().await;
    assert_ne!(primary(live), before);
    assert!(live.takes_writes(&primary(live)).await);
}

/// The primary and another member are gone: what is left may lack an acknowledged commit, so only a person's word promotes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failover_without_proof() {
    let live = Live::whole(233, short_lease).await;
    let term = live.term();
    live.away("postgres-2").await;
    live.away("postgres-1").await;
    let page = live
        .until_status("postgres-3", "it says why it does not take over", |page| {
            page["why"]["code"] == json!("not_taking_over")
        })
        .await;
    assert_eq!(page["could_fail_over"]["yes"], json!(false), "{page:#}");
    until_said(&live, DONE, &["no leader"]).await;
    // Longer than a Lease: time alone is no proof.
    sleep(Duration::from_secs(5)).await;
    assert_eq!((live.term(), primary(&live)), (term, "postgres-1".to_owned()));
    assert!(!live.takes_writes("postgres-3").await);

    let order = [
        "failover",
        "--to",
        "postgres-3",
        "--accept-data-loss",
        "--cluster",
        "default/postgres",
    ];
    run(&live, &order, DONE, &["without proof", "lost for good", "done"]).await;
    assert_eq!(primary(&live), "postgres-3");
    assert!(live.takes_writes("postgres-3").await);
    for member in ["postgres-1", "postgres-2"] {
        live.member(member).hold(false);
    }
    live.until_settled().await;
    assert_eq!(primary(&live), "postgres-3");
    run(&live, &["history"], DONE, &["postgres-3", "waived by a person"]).await;
    all_paths_answer(&live).await;
    live.end().await;
}

/// The record is nonsense and no server runs that could write it back: nobody leads until a person says whose data count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopt_on_a_damaged_lease() {
    let live = Live::whole(234, |_| {}).await;
    let members = live.rig().settings.member_names();
    for member in &members {
        live.away(member).await;
    }
    let damage = json!({ "metadata": { "annotations": { RECORD_ANNOTATION: "{nonsense" } } });
    live.rig().store.patch(Kind::Lease, CLUSTER, &damage).unwrap();
    for member in &members {
        live.member(member).hold(false);
    }
    for member in &members {
        let page = live
            .until_status(member, "the Lease is damaged", |page| {
                page["why"]["code"] == json!("lease_damaged")
            })
            .await;
        assert_eq!(page["record"], Value::Null);
        assert_ne!(page["record_error"], Value::Null);
        assert_ne!(page["guard"]["server"], json!("primary"));
    }
    until_said(&live, FAILED, &["pgbaton adopt"]).await;
    run(&live, &["switchover"], FAILED, &["not ordered"]).await;
    assert!(live.record().is_none(), "somebody wrote the record");

    run(&live, &["adopt", "--to", "postgres-1"], DONE, &["done"]).await;
    live.until_settled().await;
    assert_eq!(primary(&live), "postgres-1");
    assert!(live.term() > 1);
    run(&live, &["history"], DONE, &["adopted by a person"]).await;
    all_paths_answer(&live).await;
    live.end().await;
}
