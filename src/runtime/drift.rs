//! Follows the read-write Service by watch while this member leads, so that a selector which somebody put back is noticed at
//! once, without a request a second. And reads the Service's term while the Lease is damaged.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, WatchEvent, WatchParams};
use tokio::sync::{Notify, mpsc, watch};

use super::brain::Input;
use super::effects::EffectsWish;
use super::hands::send;
use super::settings::SidecarSettings;
use crate::kubernetes::{is_pointed, service_term};

/// Longest wait for the start of a watch.
const START: Duration = Duration::from_secs(2);
/// Longest life of one watch, in seconds; the API server ends it then.
const WATCH_SECONDS: u32 = 280;
/// A watch that the API server has not ended by then is dead.
const WATCH_LIFE: Duration = Duration::from_secs(300);
/// First pause after a failure; it doubles up to the last one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Without the right to watch the Service is read this often.
const WITHOUT_RIGHT: Duration = Duration::from_secs(30);
/// The Service's term is read this often while it is wanted.
const TERM_EVERY: Duration = Duration::from_secs(2);

/// How one watch ended.
enum End {
    /// In the ordinary course, or the wish is another one.
    Over,
    /// For people.
    Failed(String),
    /// 403.
    Forbidden(String),
    /// The sidecar ends.
    Gone,
}

/// Notifies `drifted` whenever the Service is seen not to be as wished.
pub async fn watch_service(
    settings: Arc<SidecarSettings>,
    client: kube::Client,
    mut wish: watch::Receiver<Option<EffectsWish>>,
    drifted: Arc<Notify>,
) {
    let api: Api<Service> = Api::namespaced(client, &settings.namespace);
    let mut pause = PAUSE.0;
    let mut said = false;
    loop {
        if wish.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let pause_now = match watch_once(&settings, &api, &mut wish, &drifted).await {
            End::Gone => return,
            End::Over => {
                pause = PAUSE.0;
                PAUSE.0
            }
            End::Failed(reason) => {
                tracing::debug!(reason, "the watch of the Service failed");
                pause = (pause * 2).min(PAUSE.1);
                pause
            }
            End::Forbidden(reason) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        reason,
                        "the right to watch the Service {} is missing: it is read every {} s; grant it with the Role of deploy/",
                        settings.service,
                        WITHOUT_RIGHT.as_secs()
                    );
                }
                drifted.notify_one();
                WITHOUT_RIGHT
            }
        };
        tokio::time::sleep(pause_now).await;
    }
}

async fn watch_once(
    settings: &SidecarSettings,
    api: &Api<Service>,
    wish: &mut watch::Receiver<Option<EffectsWish>>,
    drifted: &Notify,
) -> End {
    let parameters = WatchParams::default()
        .fields(&format!("metadata.name={}", settings.service))
        .timeout(WATCH_SECONDS)
        // From version 0 with bookmarks is a streamed list, which an API server with an etcd below 3.4.25 refuses.
        .disable_bookmarks();
    // Version 0: what is there now comes first, so nothing between a read and the watch is missed.
    match tokio::time::timeout(START, api.watch(&parameters, "0")).await {
        Err(_) => End::Failed("no answer in time".to_owned()),
        Ok(Err(error)) => of_error(error),
        Ok(Ok(events)) => follow(settings, events, wish, drifted).await,
    }
}

fn of_error(error: kube::Error) -> End {
    match error {
        kube::Error::Api(status) if status.code == 403 => End::Forbidden(status.message.clone()),
        kube::Error::Api(status) if status.code == 410 => End::Over,
        other => End::Failed(other.to_string()),
    }
}

async fn follow(
    settings: &SidecarSettings,
    events: impl Stream<Item = kube::Result<WatchEvent<Service>>>,
    wish: &mut watch::Receiver<Option<EffectsWish>>,
    drifted: &Notify,
) -> End {
    let mut events = std::pin::pin!(events);
    let life = tokio::time::sleep(WATCH_LIFE);
    tokio::pin!(life);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            changed = wish.changed() => match changed {
                // The same Service, another wish: the effects are under way for it.
                Ok(()) if wish.borrow().is_some() => continue,
                Ok(()) => return End::Over,
                Err(_) => return End::Gone,
            },
            () = &mut life => return End::Failed("it did not end in time".to_owned()),
        };
        let wanted = wish.borrow().as_ref().map(|w| w.desired(settings));
        match event {
            None => return End::Over,
            Some(Err(error)) => return of_error(error),
            Some(Ok(WatchEvent::Error(status))) if status.code == 410 => return End::Over,
            Some(Ok(WatchEvent::Error(status))) => return End::Failed(status.message.clone()),
            Some(Ok(WatchEvent::Bookmark(_))) => {}
            Some(Ok(WatchEvent::Deleted(_))) => drifted.notify_one(),
            Some(Ok(WatchEvent::Added(found) | WatchEvent::Modified(found))) => {
                if wanted.is_some_and(|desired| !is_pointed(&found, &desired)) {
                    drifted.notify_one();
                }
            }
        }
    }
}

/// Tells the Service's term while it is wanted: a record that is written back must be above it.
pub async fn tell_term(
    settings: Arc<SidecarSettings>,
    client: kube::Client,
    mut wanted: watch::Receiver<bool>,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        if wanted.wait_for(|w| *w).await.is_err() {
            return;
        }
        match service_term(&client, &settings.namespace, &settings.service).await {
            Ok(Some(term)) => send(&inputs, Input::ServiceTerm(term)).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the Service's term is not known"),
        }
        tokio::time::sleep(TERM_EVERY).await;
    }
}

#[cfg(test)]
#[path = "drift_tests.rs"]
mod tests;
