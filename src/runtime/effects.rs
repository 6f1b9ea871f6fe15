//! Keeps Service, env and labels as the leader wishes: on change, when a watch says that the Service was changed, and now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::brain::Input;
use super::hands::send;
use super::settings::SidecarSettings;
use crate::core::types::{MemberName, Term};
use crate::kubernetes::effects::{Desired, EffectError, label_pods, point_service, reconcile_members};

/// Drift that no watch tells is put right this often.
const EVERY: Duration = Duration::from_secs(60);
/// A missing object or right is a person's to mend: looked at this often.
const MENDED: Duration = Duration::from_secs(10);
/// After a failure.
const RETRY: Duration = Duration::from_millis(500);
/// A pod that is not there is looked for after this time, then later each time.
const POD_ABSENT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// Between two times that the Service is put right: somebody may put it back each time.
const SERVICE_PAUSE: Duration = Duration::from_millis(250);

/// Source of warnings that may be gone with the next try.
pub const KUBERNETES: &str = "kubernetes";
/// Source of warnings that a person must see to.
pub const KUBERNETES_REFUSED: &str = "kubernetes_refused";

/// What Kubernetes shall show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectsWish {
    /// Whose term.
    pub term: Term,
    /// Where writes go.
    pub primary: MemberName,
    /// All members.
    pub members: Vec<MemberName>,
    /// Standbys that nobody shall read from.
    pub not_for_reading: Vec<MemberName>,
    /// Clients are led to the primary; else nowhere.
    pub open: bool,
}

impl EffectsWish {
    /// With what the settings say.
    #[must_use]
    pub fn desired(&self, settings: &SidecarSettings) -> Desired {
        Desired {
            namespace: settings.namespace.clone(),
            term: self.term,
            primary: self.primary.clone(),
            open: self.open,
            members: self.members.clone(),
            not_for_reading: self.not_for_reading.clone(),
            service: settings.service.clone(),
            patch_env: settings.patch_env,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// Everything.
    All,
    /// The Service alone.
    Service,
    /// The labels of pods that were not there.
    Pods,
}

/// What is known of the last rounds.
#[derive(Debug, Default)]
struct Kept {
    service: Option<EffectError>,
    members: Vec<EffectError>,
    absent: Vec<MemberName>,
    /// How long to wait before the next look for absent pods.
    absent_pause: Duration,
}

impl Kept {
    /// Until everything is looked at again.
    fn pause(&self) -> Duration {
        let mut all = self.service.iter().chain(&self.members).peekable();
        match (all.peek().is_none(), all.any(EffectError::is_transient)) {
            (true, _) => EVERY,
            (false, true) => RETRY,
            (false, false) => MENDED,
        }
    }

    fn warnings(&self, transient: bool) -> String {
        let those = self.service.iter().chain(&self.members);
        let those = those.filter(|error| error.is_transient() == transient);
        those.map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// Keeps them until the loop is gone.
pub async fn keep(
    settings: Arc<SidecarSettings>,
    client: kube::Client,
    mut wish: watch::Receiver<Option<EffectsWish>>,
    drifted: Arc<Notify>,
    inputs: mpsc::Sender<Input>,
) {
    let mut kept = Kept::default();
    let mut due = Due::All;
    let mut next = Instant::now();
    loop {
        let Some(wanted) = wish.borrow_and_update().clone() else {
            // Whoever leads now has warnings of its own.
            for source in [KUBERNETES, KUBERNETES_REFUSED] {
                send(&inputs, Input::Warning(source, String::new())).await;
            }
            if wish.changed().await.is_err() {
                return;
            }
            (kept, due) = (Kept::default(), Due::All);
            continue;
        };
        let desired = wanted.desired(&settings);
        if due != Due::Pods {
            kept.service = point(&client, &desired, &inputs).await;
        }
        match due {
            Due::All => members(&client, &desired, &mut kept).await,
            Due::Pods => pods(&client, &desired, &mut kept).await,
            Due::Service => tokio::time::sleep(SERVICE_PAUSE).await,
        }
        let again = Instant::now() + kept.pause();
        next = if due == Due::All { again } else { next.min(again) };
        for (source, transient) in [(KUBERNETES, true), (KUBERNETES_REFUSED, false)] {
            send(&inputs, Input::Warning(source, kept.warnings(transient))).await;
        }
        due = tokio::select! {
            changed = wish.changed() => match changed {
                Ok(()) => Due::All,
                Err(_) => return,
            },
            () = drifted.notified() => Due::Service,
            () = tokio::time::sleep_until(next) => Due::All,
            () = tokio::time::sleep(kept.absent_pause), if !kept.absent.is_empty() => Due::Pods,
        };
    }
}

async fn point(
    client: &kube::Client,
    desired: &Desired,
    inputs: &mpsc::Sender<Input>,
) -> Option<EffectError> {
    match point_service(client, desired).await {
        Ok(change) => {
            if let Some(change) = change {
                tracing::info!(%change, "changed");
            }
            let leads = desired.open.then(|| desired.primary.clone());
            let points = Input::ServicePoints(desired.term, leads);
            send(inputs, points).await;
            None
        }
        Err(error) => Some(error),
    }
}

async fn members(client: &kube::Client, desired: &Desired, kept: &mut Kept) {
    let report = reconcile_members(client, desired).await;
    for change in &report.changes {
        tracing::info!(%change, "changed");
    }
    kept.members = report.warnings;
    kept.absent = report.pods_absent;
    kept.absent_pause = POD_ABSENT.0;
}

/// A pod that is being made anew is labelled soon; one that is gone for good costs a request now and then.
async fn pods(client: &kube::Client, desired: &Desired, kept: &mut Kept) {
    let report = label_pods(client, desired, &kept.absent).await;
    for change in &report.changes {
        tracing::info!(%change, "changed");
    }
    // What else went wrong is told by the next round of all.
    kept.absent = report.pods_absent;
    kept.absent_pause = (kept.absent_pause * 2).min(POD_ABSENT.1);
}
