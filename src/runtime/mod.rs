//! The sidecar at work: adapters around the pure core, one loop between them (DESIGN.md section 10).

pub mod brain;
mod chores;
mod clocks;
mod cluster;
mod convert;
mod drift;
mod effects;
mod ending;
mod events;
mod eyes;
#[cfg(test)]
mod fixtures;
mod forecast;
mod guard_link;
mod hands;
mod knock;
mod memory;
mod orders;
mod others;
mod page;
mod preflight;
mod promise;
mod readers;
mod rotation;
pub mod settings;
pub mod sight;
mod steering;
mod survey;
mod tally;
pub mod unguarded;
mod warnings;
mod words;
#[cfg(test)]
mod write_back_tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::Bytes;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use self::brain::{Brain, INPUTS_MAX, Input};
use self::guard_link::GuardLink;
use self::hands::Hands;
use self::page::Shown;
use self::settings::SidecarSettings;
use self::steering::{AskPlan, Steering};
use crate::core::observe::PeerReport;
use crate::core::types::Millis;
use crate::http::health::Pulse;
use crate::http::metrics::Metrics;
use crate::http::page::hosts::AllowedHosts;
use crate::http::page::stream::{Limits, Streams};
use crate::http::server::{PeerAnswer, PeerHandler, Served, serve};
use crate::kubernetes::counted::counted;
use crate::kubernetes::events::{Events, LeaseReference};
use crate::lease::{ApiServer, HolderId, LeaseSettings, LiveClock, WatchTimes};
use crate::peers::{Answer, Asker, Keys, MAC_HEADER, PEERS_VERSION};
use crate::postgres::Prober;

/// Answers to people that may wait to be written.
const ANSWERS_MAX: usize = 8;

/// Runs the sidecar until it is told to end.
///
/// # Errors
/// When it cannot start: no API server configuration, the address is taken. Nothing was changed then.
pub async fn run(settings: SidecarSettings) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let listener = TcpListener::bind(settings.listen).await.with_context(|| {
        format!(
            "cannot listen on {} (--listen): is another sidecar running here?",
            settings.listen
        )
    })?;
    let clock = LiveClock::system();
    let api = settings
        .kubeconfig
        .clone()
        .map_or(ApiServer::InCluster, ApiServer::Kubeconfig);
    let me = HolderId::new(settings.core.me.clone(), &settings.pod_uid)
        .context("the pod's UID (POD_UID) cannot be used")?;
    let (metrics, registry) = Metrics::of(&settings.lease, settings.core.me.as_str());
    let forbidden = Arc::new(Notify::new());
    let (baton, watcher, lease) = crate::lease::open(LeaseSettings {
        client: counted(crate::lease::connect(&api).await?, &metrics, &forbidden),
        namespace: settings.namespace.clone(),
        name: settings.lease.clone(),
        me,
        duration: Duration::from_millis(settings.core.lease_duration.0),
        clock: clock.clone(),
        times: WatchTimes::default(),
    })?;
    let client = counted(crate::lease::connect(&api).await?, &metrics, &forbidden);
    let client_for_events = client.clone();
    let (inputs, queue) = mpsc::channel(INPUTS_MAX);
    let pulse = Pulse::start();
    let (page, status) = watch::channel(Arc::new(page::first_page(&settings)));
    let (cluster_page, cluster_shown) = watch::channel(cluster::first(&settings));
    let (people, people_told) = watch::channel(None);
    let (report, report_seen) = watch::channel(String::new());
    let (peer_report, told) = watch::channel(Arc::new(first_report(&settings)));
    let (probe_every, probe_pace) = watch::channel(Duration::from_millis(200));
    let (ask, ask_plan) = watch::channel(AskPlan {
        every: Duration::from_millis(500),
        ..AskPlan::default()
    });
    let (suspects, suspects_plan) = watch::channel(unguarded::Suspects::default());
    let (door, door_wanted) = watch::channel(None);
    let (damaged, damaged_seen) = watch::channel(false);
    let (survey, survey_wanted) = watch::channel(false);
    let drifted = Arc::new(Notify::new());
    let (recorded, recorded_seen) = watch::channel(std::collections::BTreeSet::new());
    let (effects, effects_wish) = watch::channel(None);
    let (replication, replication_wish) = watch::channel(None);
    let (answers, answers_queue) = mpsc::channel(ANSWERS_MAX);
    let probe_now = Arc::new(Notify::new());
    let guard = Arc::new(GuardLink::new(&settings.run_dir));
    let keys = Keys::derive(
        &settings.replication_password,
        settings.replication_password_previous.as_ref(),
    );
    let cluster = format!("{}/{}", settings.namespace, settings.lease);

    // Every task below is bounded by this process; the loop's end ends all of them.
    let mut tasks = tokio::task::JoinSet::new();
    let asker = Asker::new(
        keys.clone(),
        settings.core.me.clone(),
        settings.core.address.clone(),
        cluster.clone(),
        metrics.clone(),
    );
    let prober = Prober::new(settings.server.clone(), settings.superuser.clone());
    let promises = promise::Promises::default();
    let answering = Answering {
        keys,
        cluster,
        report: told,
        people: people_told,
        promises: promises.clone(),
        promised_for: settings.core.permit,
        clock: clock.clone(),
        inputs: inputs.clone(),
    };
    let peer = peer_handler(answering);
    let served = Served {
        status,
        pulse: pulse.clone(),
        registry: Arc::new(registry),
        peer,
        cluster: cluster_shown,
        streams: Streams::new(Limits::USUAL),
        hosts: Arc::new(AllowedHosts::new(
            settings.core.me.as_str(),
            &settings.service,
            &settings.namespace,
            &settings.allowed_hosts,
        )),
    };
    tasks.spawn(tick(clock.clone()));
    tasks.spawn(watch_lease(watcher));
    tasks.spawn(watch_guard(guard.clone(), clock.clone(), inputs.clone()));
    tasks.spawn(eyes::probe(
        prober,
        clock.clone(),
        probe_pace,
        probe_now.clone(),
        inputs.clone(),
    ));
    tasks.spawn(eyes::ask(asker, clock.clone(), ask_plan, inputs.clone()));
    tasks.spawn(unguarded::look(
        settings.superuser.clone(),
        suspects_plan,
        inputs.clone(),
    ));
    tasks.spawn(knock::watch(clock.clone(), door_wanted, inputs.clone()));
    tasks.spawn(survey::take(
        settings.clone(),
        client.clone(),
        clock.clone(),
        survey_wanted,
        inputs.clone(),
    ));
    tasks.spawn(drift::watch_service(
        settings.clone(),
        client.clone(),
        effects_wish.clone(),
        drifted.clone(),
    ));
    tasks.spawn(drift::tell_term(
        settings.clone(),
        client.clone(),
        damaged_seen,
        inputs.clone(),
    ));
    tasks.spawn(effects::keep(
        settings.clone(),
        client.clone(),
        effects_wish,
        drifted,
        inputs.clone(),
    ));
    tasks.spawn(preflight::keep(
        settings.clone(),
        client.clone(),
        recorded_seen,
        forbidden,
        inputs.clone(),
    ));
    tasks.spawn(chores::replication(
        settings.clone(),
        replication_wish,
        inputs.clone(),
    ));
    tasks.spawn(chores::answers(
        client,
        settings.clone(),
        answers_queue,
        inputs.clone(),
    ));
    tasks.spawn(serve(listener, served, std::future::pending()));
    tasks.spawn(until_told(inputs.clone()));
    let about = LeaseReference {
        namespace: settings.namespace.clone(),
        name: settings.lease.clone(),
        uid: None,
    };
    let (events, sender) = Events::new(client_for_events, about, settings.core.me.to_string());
    tokio::spawn(sender.run());

    let hands = Hands {
        settings: settings.clone(),
        clock: clock.clone(),
        baton: Arc::new(baton),
        guard,
        inputs,
        effects,
        replication,
        answers,
        report: report_seen,
        operation: None,
        followed: None,
        readers: readers::Readers::default(),
    };
    let (memory, led, writer) = memory::Memory::open(&settings.run_dir);
    tokio::spawn(writer.run());
    let brain = Brain {
        settings,
        memory,
        led,
        clock,
        lease,
        inputs: queue,
        hands,
        events,
        news: events::News::default(),
        steering: Steering {
            probe_every,
            probe_now,
            ask,
            report: peer_report,
            suspects,
            door,
            damaged,
            recorded,
            survey,
            promises,
        },
        shown: Shown {
            page,
            cluster: cluster_page,
            people,
            report,
            metrics,
            pulse,
            last: None,
            tally: tally::Tally::default(),
        },
    };
    let brain = brain.run();
    tokio::pin!(brain);
    tokio::select! {
        () = &mut brain => Ok(()),
        // A task that ends by itself has failed: better a restarted sidecar than one that is blind in one eye.
        ended = tasks.join_next() => anyhow::bail!("a part of the sidecar ended by itself ({ended:?}): ending, to be restarted"),
    }
}

async fn tick(clock: LiveClock) {
    match clock.tick().await {}
}

async fn watch_lease(watcher: crate::lease::LeaseWatcher) {
    match watcher.run().await {}
}

async fn watch_guard(guard: Arc<GuardLink>, clock: LiveClock, inputs: mpsc::Sender<Input>) {
    guard.watch(clock, inputs).await;
}

/// Passes on the signals by which a container is told to end.
async fn until_told(inputs: mpsc::Sender<Input>) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!(
            "signals cannot be caught: the sidecar ends without finishing a handover when told to end"
        );
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        hands::send(&inputs, Input::Terminate).await;
    }
}

fn first_report(settings: &SidecarSettings) -> PeerReport {
    PeerReport {
        member: settings.core.me.clone(),
        pod_uid: settings.pod_uid.clone(),
        address: settings.core.address.clone(),
        guard: None,
        server: None,
        terminating: false,
        stepped_down_in_ms: None,
        wall_ms: None,
        missing_rights: 0,
    }
}

/// What answers to peers are made of.
#[derive(Clone)]
struct Answering {
    keys: Keys,
    cluster: String,
    report: watch::Receiver<Arc<PeerReport>>,
    people: watch::Receiver<Option<serde_json::Value>>,
    promises: promise::Promises,
    promised_for: Millis,
    clock: LiveClock,
    inputs: mpsc::Sender<Input>,
}

/// Answers peers: an authentic question for this cluster gets the newest report; everything else is refused.
fn peer_handler(answering: Answering) -> PeerHandler {
    Arc::new(move |body: Bytes, headers: HeaderMap| {
        let answering = answering.clone();
        Box::pin(async move { answering.answer(&body, &headers) })
    })
}

impl Answering {
    /// Of a cluster, with nothing to promise.
    #[cfg(test)]
    fn plain(keys: Keys, cluster: &str, report: PeerReport, inputs: mpsc::Sender<Input>) -> Self {
        Self {
            keys,
            cluster: cluster.to_owned(),
            report: watch::channel(Arc::new(report)).1,
            people: watch::channel(None).1,
            promises: promise::Promises::default(),
            promised_for: Millis(8_000),
            clock: LiveClock::system(),
            inputs,
        }
    }

    fn answer(&self, body: &Bytes, headers: &HeaderMap) -> PeerAnswer {
        let mac = headers
            .get(MAC_HEADER)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let (question, key) = match self.keys.read_question(&self.cluster, mac, body) {
            Ok(read) => read,
            Err(error) => {
                let text = Bytes::from(error.to_string());
                return (StatusCode::FORBIDDEN, HeaderMap::new(), text);
            }
        };
        if settings::checked_ip(&question.address.ip).is_ok() {
            // The loop is busy when its queue is full: the peer asks again.
            let leads = question.leads.max(question.heartbeat.as_ref().map(|h| h.term));
            let asked = Input::Asked(question.member, question.address, leads);
            let _ = self.inputs.try_send(asked);
        }
        let now = self.clock.now();
        let promise = question
            .heartbeat
            .and_then(|heartbeat| self.promises.give(&heartbeat, now, self.promised_for));
        let answer = Answer {
            version: PEERS_VERSION,
            cluster: self.cluster.clone(),
            report: PeerReport {
                wall_ms: Some(clocks::wall_ms()),
                ..(**self.report.borrow()).clone()
            },
            promise,
            challenge: self.promises.challenge(now),
            people: self.people.borrow().clone(),
        };
        let Ok(body) = serde_json::to_vec(&answer) else {
            return (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), Bytes::new());
        };
        let mut headers = HeaderMap::new();
        if let Ok(mac) = HeaderValue::from_str(&key.sign_answer(&question.nonce, &body)) {
            headers.insert(MAC_HEADER, mac);
        }
        (StatusCode::OK, headers, Bytes::from(body))
    }
}
