//! A sidecar that refuses its settings runs no loop that could tell people of it. It tells them all the same, by an Event on the Lease: the
//! container's log is not where they look first.

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;

use crate::kubernetes::client;
use crate::kubernetes::events::{EventKind, EventNote, Events, LeaseReference};

/// Longest time for all of it. The container ends afterwards and is started again, later and later.
const BOUND: Duration = Duration::from_secs(4);

/// Who refuses, as far as the environment says it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    pod: String,
    lease: LeaseReference,
    kubeconfig: Option<PathBuf>,
}

/// None: this is no pod of a member's, and nobody waits for an Event.
fn place(variable: impl Fn(&str) -> Option<String>) -> Option<Place> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    Some(Place {
        pod: given("POD_NAME")?,
        lease: LeaseReference {
            namespace: given("POD_NAMESPACE")?,
            name: given("PGBATON_LEASE").unwrap_or_else(|| "postgres".to_owned()),
            uid: None,
        },
        kubeconfig: given("KUBECONFIG").map(PathBuf::from),
    })
}

/// Tells what was refused. Silent where that cannot be told: the log has it.
pub fn tell(text: &str) {
    let Some(place) = place(|name| std::env::var(name).ok()) else {
        return;
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    let telling = async {
        if let Ok(client) = client::connect(place.kubeconfig.as_deref()).await {
            send(client, place.lease, place.pod, text).await;
        }
    };
    // Too late is as good as not at all.
    let _ = runtime.block_on(async { tokio::time::timeout(BOUND, telling).await });
}

async fn send(client: Client, lease: LeaseReference, pod: String, text: &str) {
    let note = format!(
        "the sidecar of pod {pod} refuses its settings and does not run: {}",
        text.trim()
    );
    let (events, sender) = Events::new(client, lease, pod);
    let _ = events.post(EventNote {
        kind: EventKind::Warning,
        reason: "SidecarRefused".to_owned(),
        action: "Start".to_owned(),
        note,
    });
    drop(events);
    sender.run().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fake::FakeApi;

    fn with(set: &[(&str, &str)]) -> Option<Place> {
        let find = |name: &str| set.iter().find(|(known, _)| *known == name);
        place(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn only_a_pod_of_a_member_tells() {
        let pod = [
            ("POD_NAME", "postgres-2-0"),
            ("POD_NAMESPACE", "prod"),
            ("KUBECONFIG", ""),
        ];
        let found = with(&pod).unwrap();
        assert_eq!((found.pod.as_str(), found.kubeconfig), ("postgres-2-0", None));
        assert_eq!(
            (found.lease.namespace.as_str(), found.lease.name.as_str()),
            ("prod", "postgres")
        );
        let named = [&pod[..], &[("PGBATON_LEASE", "other")]].concat();
        assert_eq!(with(&named).unwrap().lease.name, "other");
        assert_eq!(with(&pod[1..]), None, "a person at a terminal");
        assert_eq!(with(&pod[..1]), None);
    }

    #[tokio::test]
    async fn what_was_refused_is_told_on_the_lease() {
        let api = FakeApi::default();
        let lease = with(&[("POD_NAME", "postgres-2-0"), ("POD_NAMESPACE", "prod")])
            .unwrap()
            .lease;
        send(
            api.client(),
            lease,
            "postgres-2-0".into(),
            "error: (STANDBY_MODE)\n",
        )
        .await;
        let sent = api.created();
        assert_eq!(sent.len(), 1, "{sent:?}");
        let event = &sent[0];
        assert_eq!(
            (&event["reason"], &event["type"]),
            (&"SidecarRefused".into(), &"Warning".into())
        );
        assert_eq!(event["regarding"]["kind"], "Lease");
        assert_eq!(event["reportingInstance"], "postgres-2-0");
        let note = event["note"].as_str().unwrap();
        assert!(
            note.contains("pod postgres-2-0") && note.ends_with("error: (STANDBY_MODE)"),
            "{note}"
        );
    }
}
