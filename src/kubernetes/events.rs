//! Events (events.k8s.io/v1) on the Lease: what people would ask about, in `kubectl events`. Fire and forget: nothing waits for
//! them, and they wait for nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client::with_causes;
use crate::core::orders::clipped;

/// Events that wait to be sent; more are dropped.
const QUEUE: usize = 32;
/// How long sending one may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The same event is not sent again within this time.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// Events remembered for that.
const REMEMBERED: usize = 64;
/// Longest note that the API server takes, in bytes.
const MAX_NOTE: usize = 1024;
/// Longest reason and action that the API server takes, in bytes.
const MAX_WORD: usize = 128;
/// `reportingController` of each event.
const CONTROLLER: &str = "pgbaton.dev/sidecar";

/// How an event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Something happened as it should.
    Normal,
    /// A person should look.
    Warning,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventNote {
    /// How it is shown.
    pub kind: EventKind,
    /// What it is about, in CamelCase (`Promoted`, `RejoinFailed`); at most 128 bytes.
    pub reason: String,
    /// What was done or tried, in CamelCase (`Promote`); at most 128 bytes.
    pub action: String,
    /// For people; cut to 1 KiB.
    pub note: String,
}

/// Where events are handed in. Cheap to clone; the sender ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Events {
    queue: mpsc::Sender<EventNote>,
    uid: Arc<Mutex<Option<String>>>,
}

impl Events {
    /// A queue and its sender; the sender has to be run (`tokio::spawn(sender.run())`).
    #[must_use]
    pub fn new(client: Client, lease: LeaseReference, member: String) -> (Self, EventSender) {
        let (queue, notes) = mpsc::channel(QUEUE);
        let uid = Arc::new(Mutex::new(lease.uid.clone()));
        let sender = EventSender {
            api: Api::namespaced(client, &lease.namespace),
            lease,
            member,
            notes,
            uid: uid.clone(),
            sent: VecDeque::new(),
        };
        (Self { queue, uid }, sender)
    }

    /// The Lease as it is seen now has this UID.
    pub fn regard(&self, uid: &str) {
        let mut known = self.uid.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(uid) {
            *known = Some(uid.to_owned());
        }
    }

    /// Hands in an event; never waits. False: dropped, the queue is full or its sender gone.
    pub fn post(&self, note: EventNote) -> bool {
        match self.queue.try_send(note) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "event dropped");
                false
            }
        }
    }
}

/// The Lease that the events are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where known: `kubectl describe` finds an event by it.
    pub uid: Option<String>,
}

/// Sends what was handed in.
pub struct EventSender {
    api: Api<Event>,
    lease: LeaseReference,
    member: String,
    notes: mpsc::Receiver<EventNote>,
    uid: Arc<Mutex<Option<String>>>,
    sent: VecDeque<(EventNote, Instant)>,
}

impl std::fmt::Debug for EventSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventSender")
            .field("lease", &self.lease)
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl EventSender {
    /// Sends until every `Events` is dropped. An event that cannot be sent is logged and forgotten.
    pub async fn run(mut self) {
        while let Some(note) = self.notes.recv().await {
            if self.is_repeated(&note) {
                continue;
            }
            let event = self.event(&note);
            let params = PostParams::default();
            let sending = self.api.create(&params, &event);
            match tokio::time::timeout(SEND_TIMEOUT, sending).await {
                Ok(Ok(_)) => tracing::debug!(reason = note.reason, "event sent"),
                Ok(Err(error)) => {
                    let error = with_causes(&error);
                    tracing::warn!(reason = note.reason, note = note.note, error, "event not sent");
                }
                Err(_) => tracing::warn!(reason = note.reason, note = note.note, "event not sent in time"),
            }
        }
    }

    fn is_repeated(&mut self, note: &EventNote) -> bool {
        let now = Instant::now();
        self.sent.retain(|(_, at)| now - *at < REPEAT_AFTER);
        if self.sent.iter().any(|(earlier, _)| earlier == note) {
            return true;
        }
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((note.clone(), now));
        false
    }

    fn event(&self, note: &EventNote) -> Event {
        let now = Timestamp::now();
        let kind = match note.kind {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", self.lease.name, now.as_nanosecond())),
                namespace: Some(self.lease.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(kind.to_owned()),
            reason: Some(clipped(&note.reason, MAX_WORD)),
            action: Some(clipped(&note.action, MAX_WORD)),
            note: Some(clipped(&note.note, MAX_NOTE)),
            regarding: Some(ObjectReference {
                api_version: Some("coordination.k8s.io/v1".to_owned()),
                kind: Some("Lease".to_owned()),
                name: Some(self.lease.name.clone()),
                namespace: Some(self.lease.namespace.clone()),
                uid: self.uid.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(clipped(&self.member, MAX_WORD)),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fake::FakeApi;

    fn note(text: &str) -> EventNote {
        EventNote {
            kind: EventKind::Normal,
            reason: "Promoted".into(),
            action: "Promote".into(),
            note: text.into(),
        }
    }

    fn lease() -> LeaseReference {
        LeaseReference {
            namespace: "default".into(),
            name: "postgres".into(),
            uid: Some("u-1".into()),
        }
    }

    #[tokio::test]
    async fn an_event_names_the_lease_and_is_sent_once() {
        let api = FakeApi::default();
        let (events, sender) = Events::new(api.client(), lease(), "postgres-2".into());
        assert!(events.post(note("postgres-2 leads")));
        assert!(events.post(note("postgres-2 leads")));
        assert!(events.post(note(&"é".repeat(2000))));
        drop(events);
        sender.run().await;
        let sent = api.created();
        assert_eq!(sent.len(), 2, "{sent:?}");
        assert_eq!(sent[0]["regarding"]["kind"], "Lease");
        assert_eq!(sent[0]["regarding"]["uid"], "u-1");
        assert_eq!(sent[0]["reason"], "Promoted");
        assert_eq!(sent[0]["type"], "Normal");
        assert!(
            sent[1]["note"]
                .as_str()
                .is_some_and(|text| text.len() <= MAX_NOTE)
        );
    }

    #[tokio::test]
    async fn an_event_regards_the_lease_as_it_was_last_seen() {
        let api = FakeApi::default();
        let mut unknown = lease();
        unknown.uid = None;
        let (events, sender) = Events::new(api.client(), unknown, "postgres-2".into());
        events.regard("u-2");
        events.post(note("postgres-2 leads"));
        drop(events);
        sender.run().await;
        assert_eq!(api.created()[0]["regarding"]["uid"], "u-2");
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_event_comes_again_after_a_while() {
        let api = FakeApi::default();
        let (events, sender) = Events::new(api.client(), lease(), "postgres-2".into());
        let running = tokio::spawn(sender.run());
        events.post(note("again"));
        tokio::time::sleep(REPEAT_AFTER + Duration::from_secs(1)).await;
        events.post(note("again"));
        drop(events);
        running.await.unwrap();
        assert_eq!(api.created().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_holds_up_nobody() {
        let api = FakeApi::default();
        api.hang(true);
        let (events, sender) = Events::new(api.client(), lease(), "postgres-2".into());
        let accepted = (0..QUEUE + 5)
            .filter(|n| events.post(note(&n.to_string())))
            .count();
        assert_eq!(accepted, QUEUE);
        drop(events);
        sender.run().await;
        assert!(api.created().is_empty());
    }
}
