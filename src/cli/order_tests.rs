//! Orders against a leader played by the test: it acts on the Lease after the n-th read.

use serde_json::{Value, json};

use super::*;
use crate::cli::ClusterArgs;
use crate::cli::status::tests::{LEASE, cluster, lease, record};
use crate::core::orders::OrderResult;
use crate::core::record::{Record, Step};
use crate::kubernetes::fake::FakeApi;

const STATE: &str = "pgbaton.dev/cluster-state";

fn args(seconds: u64) -> OrderArgs {
    OrderArgs {
        cluster: ClusterArgs {
            namespace: None,
            lease: "postgres".into(),
            kubeconfig: None,
        },
        timeout: Duration::from_secs(seconds),
        replace: false,
    }
}

fn api(record: &Record) -> FakeApi {
    let api = FakeApi::default();
    api.put(LEASE, lease(&json!({ STATE: record.render() })));
    api
}

fn to(name: &str) -> Option<MemberName> {
    Some(name.parse().unwrap())
}

async fn ordered(api: &FakeApi, order: &OrderNote, args: &OrderArgs) -> (End, String) {
    let mut out = Vec::new();
    let end = give(&cluster(api), order, args, &mut out, std::future::pending()).await;
    (end, String::from_utf8(out).unwrap())
}

async fn run(api: &FakeApi, kind: OrderKind, member: Option<MemberName>) -> (End, String) {
    ordered(api, &new_order(kind, member).unwrap(), &args(30)).await
}

/// What a leader does to the annotations at one moment.
type Play = Box<dyn Fn(&OrderId, &mut Value) + Send>;

/// Plays a leader: `script` holds what it writes, one entry a read once the order is there.
fn leader(api: &FakeApi, script: Vec<Play>) {
    let mut steps = script.into_iter();
    let mut version = 10_000;
    api.interlope(move |path, objects| {
        let Some(object) = objects.get_mut(path) else {
            return;
        };
        let annotation = object["metadata"]["annotations"][ORDER_ANNOTATION].clone();
        let Some(order) = annotation.as_str().and_then(|text| OrderNote::parse(text).ok()) else {
            return;
        };
        if let Some(step) = steps.next() {
            step(&order.id, &mut object["metadata"]["annotations"]);
            version += 1;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
        }
    });
}

fn answers(state: OrderState, text: &'static str) -> Play {
    Box::new(move |id, annotations| {
        let result = OrderResult {
            id: id.clone(),
            state,
            text: text.into(),
        };
        annotations[ORDER_RESULT_ANNOTATION] = json!(result.render());
    })
}

fn records(change: impl Fn(&mut Record) + Send + 'static) -> Play {
    Box::new(move |_, annotations| {
        let mut record = Record::parse(annotations[STATE].as_str().unwrap()).unwrap();
        change(&mut record);
        annotations[STATE] = json!(record.render());
    })
}

fn moves_to_second(record: &mut Record) {
    record.step = None;
    record.term = Term(8);
    record.sync_sets.clear();
    record.primary = record.members.get(1).cloned();
}

#[tokio::test(start_paused = true)]
async fn a_switchover_is_followed_to_its_end() {
    let api = api(&record());
    leader(
        &api,
        vec![
            answers(OrderState::Accepted, "handing over to postgres-2"),
            records(|record| {
                record.step = Some(Step::Handover {
                    from: "postgres-1".parse().unwrap(),
                    to: "postgres-2".parse().unwrap(),
                    why: "ordered".into(),
                    planned: true,
                });
            }),
            records(moves_to_second),
            answers(OrderState::Done, "postgres-2 takes writes after 380 ms"),
        ],
    );
    let (end, out) = run(&api, OrderKind::Switchover, to("postgres-2")).await;
    assert_eq!(end, End::Done, "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "switchover to postgres-2: ordered; waiting for at most 30 s",
            "  handing over to postgres-2",
            "  in progress: handover from postgres-1 to postgres-2: ordered",
            "  term 8: the primary is postgres-2",
            "switchover to postgres-2: done: postgres-2 takes writes after 380 ms",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_an_answer_to_another_order_is_not_taken() {
    let api = api(&record());
    leader(
        &api,
        vec![
            Box::new(|_, annotations| {
                let other = r#"{"id":"ffffffffffffffff","state":"done","text":"an earlier one"}"#;
                annotations[ORDER_RESULT_ANNOTATION] = json!(other);
            }),
            answers(OrderState::Refused, "postgres-2 lags by 2.0 GB"),
        ],
    );
    let (end, out) = run(&api, OrderKind::Switchover, to("postgres-2")).await;
    assert_eq!(end, End::Failed);
    assert!(
        out.ends_with("switchover to postgres-2: refused: postgres-2 lags by 2.0 GB\n"),
        "{out}"
    );
    assert!(!out.contains("earlier"), "{out}");
}

#[tokio::test(start_paused = true)]
async fn an_order_that_nobody_takes_up_is_withdrawn() {
    let api = api(&record());
    let (end, out) = run(&api, OrderKind::Switchover, None).await;
    assert_eq!(end, End::Unknown);
    assert!(
        out.contains("nobody took the order up in time") && out.contains("withdrawn"),
        "{out}"
    );
    assert_eq!(
        api.object(LEASE)["metadata"]["annotations"].get(ORDER_ANNOTATION),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_that_was_taken_up_is_not_withdrawn() {
    let api = api(&record());
    leader(
        &api,
        vec![answers(OrderState::Running, "waiting for a CHECKPOINT")],
    );
    let (end, out) = run(&api, OrderKind::Switchover, None).await;
    assert_eq!(end, End::Unknown);
    assert!(
        out.ends_with("taken up and not ended in time; it goes on, see 'pgbaton status'\n"),
        "{out}"
    );
    assert!(api.object(LEASE)["metadata"]["annotations"][ORDER_ANNOTATION].is_string());
}

#[tokio::test(start_paused = true)]
async fn what_the_record_shows_counts_when_the_answer_does_not_come() {
    let api_switched = api(&record());
    leader(&api_switched, vec![records(moves_to_second)]);
    let (end, out) = run(&api_switched, OrderKind::Switchover, None).await;
    assert_eq!(end, End::Done, "{out}");
    let api_paused = api(&record());
    leader(&api_paused, vec![records(|record| record.paused = true)]);
    let (end, out) = run(&api_paused, OrderKind::Pause, None).await;
    assert_eq!((end, out.ends_with("pause: done\n")), (End::Done, true), "{out}");
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_not_written() {
    let table = [
        (
            OrderKind::Switchover,
            to("postgres-9"),
            End::Failed,
            "postgres-9 is no member; members are postgres-1, postgres-2",
        ),
        (
            OrderKind::Failover,
            to("postgres-9"),
            End::Failed,
            "postgres-9 is no member",
        ),
        (
            OrderKind::Switchover,
            to("postgres-1"),
            End::Done,
            "it is the primary",
        ),
        (OrderKind::Resume, None, End::Done, "takeovers are not paused"),
    ];
    for (kind, member, end, text) in table {
        let api = api(&record());
        let (got, out) = run(&api, kind, member).await;
        assert_eq!((got, out.contains(text)), (end, true), "{kind}: {out}");
        assert!(api.writes().is_empty(), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_damaged_lease_only_an_adoption_is_written() {
    for (kind, member, written) in [
        (OrderKind::Failover, to("postgres-2"), 0),
        (OrderKind::Pause, None, 0),
        (OrderKind::Adopt, to("postgres-2"), 1),
    ] {
        let api = FakeApi::default();
        api.put(LEASE, lease(&json!({})));
        leader(&api, vec![answers(OrderState::Done, "adopted")]);
        let (end, out) = run(&api, kind, member).await;
        assert_eq!(api.writes().len(), written, "{out}");
        assert_eq!(end == End::Done, written == 1, "{out}");
        assert_eq!(out.contains("is damaged"), written == 0, "{out}");
    }
}

/// The record shows what was ordered, and the leader has not answered yet.
#[tokio::test(start_paused = true)]
async fn the_same_order_again_is_nothing_to_do_when_its_end_is_reached() {
    let api = api(&record());
    for (open, said) in [
        (OrderKind::Resume, "nothing to do"),
        (OrderKind::Pause, "another order is open"),
    ] {
        let earlier = new_order(open, None).unwrap();
        let mut object = api.object(LEASE);
        object["metadata"]["annotations"][ORDER_ANNOTATION] = json!(earlier.render());
        api.put(LEASE, object);
        let (_, out) = ordered(&api, &new_order(OrderKind::Resume, None).unwrap(), &args(5)).await;
        assert!(out.contains(said), "{out}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_order_of_somebody_else_stands_until_replaced() {
    let api = api(&record());
    let earlier = new_order(OrderKind::Pause, None).unwrap();
    let mut object = api.object(LEASE);
    object["metadata"]["annotations"][ORDER_ANNOTATION] = json!(earlier.render());
    api.put(LEASE, object);
    let order = new_order(OrderKind::Switchover, None).unwrap();
    let (end, out) = ordered(&api, &order, &args(5)).await;
    assert_eq!(
        (end, out.contains("another order is open")),
        (End::Failed, true),
        "{out}"
    );
    assert!(api.writes().is_empty());
    let replacing = OrderArgs {
        replace: true,
        ..args(5)
    };
    let (_, out) = ordered(&api, &order, &replacing).await;
    assert!(out.starts_with("switchover: ordered"), "{out}");
    assert!(
        api.writes()[0]["metadata"]["annotations"][ORDER_ANNOTATION]
            .as_str()
            .unwrap()
            .contains(order.id.as_str())
    );
}

#[tokio::test(start_paused = true)]
async fn the_leaders_renewals_do_not_get_in_the_way() {
    let api = api(&record());
    let mut renewals = 0;
    api.interlope(move |path, objects| {
        renewals += 1;
        if let Some(object) = objects.get_mut(path).filter(|_| renewals < 5) {
            object["metadata"]["resourceVersion"] = json!((1000 + renewals).to_string());
        }
    });
    let (_, out) = run(&api, OrderKind::Switchover, None).await;
    assert!(out.starts_with("switchover: ordered"), "{out}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_to_order_is_named() {
    let api = api(&record());
    api.forbid("PATCH", LEASE);
    let (end, out) = run(&api, OrderKind::Pause, None).await;
    assert_eq!(end, End::Failed);
    assert!(
        out.contains("not ordered: the right to patch Lease postgres in namespace default is missing"),
        "{out}"
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_person_says_so() {
    let api = api(&record());
    let order = new_order(OrderKind::Switchover, None).unwrap();
    let mut out = Vec::new();
    let interrupt = tokio::time::sleep(Duration::from_secs(1));
    let began = Instant::now();
    let end = give(&cluster(&api), &order, &args(3600), &mut out, interrupt).await;
    assert_eq!(end, End::Unknown);
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(String::from_utf8(out).unwrap().contains("withdrawn"));
}

#[tokio::test]
async fn only_a_member_adopts_where_the_record_tells_who_is_one() {
    let api = api(&record());
    let (end, text) = run(&api, OrderKind::Adopt, to("postgres-9")).await;
    assert_eq!(end, End::Failed);
    assert!(
        text.contains("postgres-9 is no member; members are postgres-1"),
        "{text}"
    );
    assert!(api.writes().is_empty());
}
