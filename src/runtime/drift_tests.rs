//! Drift, against an API server in memory. Time is the test's: what is done within a second is not done by the round of a minute.

use serde_json::{Value, json};

use super::*;
use crate::core::types::Term;
use crate::kubernetes::fake::FakeApi;
use crate::runtime::effects;
use crate::runtime::fixtures;

const SERVICE: &str = "services/postgres";

fn service(to: &str) -> Value {
    json!({ "metadata": { "annotations": { "pgbaton.dev/term": "3" } },
        "spec": { "selector": { "app": to }, "publishNotReadyAddresses": true } })
}

fn wish() -> EffectsWish {
    EffectsWish {
        term: Term(3),
        primary: fixtures::name(1),
        members: vec![fixtures::name(1)],
        not_for_reading: Vec::new(),
        open: true,
    }
}

struct Running {
    api: FakeApi,
    _wish: watch::Sender<Option<EffectsWish>>,
    inputs: mpsc::Receiver<Input>,
}

/// Effects and watch of a leader with one member.
fn start(api: &FakeApi) -> Running {
    let mut settings = fixtures::settings(1);
    settings.patch_env = false;
    let settings = Arc::new(settings);
    let (sender, receiver) = watch::channel(Some(wish()));
    let (inputs, queue) = mpsc::channel(1_000);
    let drifted = Arc::new(Notify::new());
    let client = api.client();
    tokio::spawn(watch_service(
        settings.clone(),
        client.clone(),
        receiver.clone(),
        drifted.clone(),
    ));
    tokio::spawn(effects::keep(settings, client, receiver, drifted, inputs));
    Running {
        api: api.clone(),
        _wish: sender,
        inputs: queue,
    }
}

fn with_pod() -> FakeApi {
    let api = FakeApi::default();
    api.put(SERVICE, service("somebody"));
    api.put("pods/postgres-1-0", json!({ "metadata": {} }));
    api
}

impl Running {
    fn leads_to(&self) -> Value {
        self.api.object(SERVICE)["spec"]["selector"]["app"].clone()
    }

    /// Requests within this time.
    async fn requests_in(&self, seconds: u64) -> usize {
        let before = self.api.requests().len();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.api.requests().len() - before
    }
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_is_put_back_is_put_right_at_once_and_rest_costs_nothing() {
    let running = start(&with_pod());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(running.leads_to(), "postgres-1");
    for _ in 0..3 {
        running.api.put(SERVICE, service("postgres-9"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(running.leads_to(), "postgres-1");
    }
    let requests = running.requests_in(50).await;
    assert!(
        requests <= 5,
        "{requests} requests in 50 s: {:?}",
        running.api.requests()
    );
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_watch_it_is_read_now_and_then() {
    let api = with_pod();
    api.forbid("WATCH", SERVICE);
    let running = start(&api);
    tokio::time::sleep(Duration::from_secs(2)).await;
    running.api.put(SERVICE, service("postgres-9"));
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(running.leads_to(), "postgres-1");
    let requests = running.requests_in(100).await;
    assert!(requests <= 12, "{requests} requests in 100 s");
}

#[tokio::test(start_paused = true)]
async fn a_fight_over_the_service_is_slow() {
    let running = start(&with_pod());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = running.api.requests().len();
    for _ in 0..100 {
        running.api.put(SERVICE, service("postgres-9"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let requests = running.api.requests().len() - before;
    assert!(requests <= 100, "{requests} requests in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_is_labelled_soon() {
    let api = FakeApi::default();
    api.put(SERVICE, service("postgres-1"));
    let running = start(&api);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    running.api.put("pods/postgres-1-0", json!({ "metadata": {} }));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pod = running.api.object("pods/postgres-1-0");
    assert_eq!(pod["metadata"]["labels"]["pgbaton.dev/role"], "primary");
    // One that is gone for good costs little.
    let api = FakeApi::default();
    api.put(SERVICE, service("postgres-1"));
    let running = start(&api);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let requests = running.requests_in(300).await;
    assert!(requests <= 60, "{requests} requests in 300 s");
}

#[tokio::test(start_paused = true)]
async fn refusals_and_hiccups_are_told_apart() {
    let api = with_pod();
    api.forbid("PATCH", SERVICE);
    let mut running = start(&api);
    let mut refused = String::new();
    while let Some(input) = running.inputs.recv().await {
        if let Input::Warning(effects::KUBERNETES_REFUSED, text) = input {
            refused = text;
            break;
        }
    }
    assert!(refused.contains("Service postgres"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_services_term_is_told_while_it_is_wanted() {
    let api = FakeApi::default();
    api.put(
        SERVICE,
        json!({ "metadata": { "annotations": { "pgbaton.dev/term": "41" } }, "spec": {} }),
    );
    let (wanted, receiver) = watch::channel(false);
    let (inputs, mut queue) = mpsc::channel(10);
    let settings = Arc::new(fixtures::settings(1));
    tokio::spawn(tell_term(settings, api.client(), receiver, inputs));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(api.requests().is_empty(), "nobody asked");
    wanted.send(true).unwrap();
    assert!(matches!(queue.recv().await, Some(Input::ServiceTerm(Term(41)))));
}
