//! A small kubelet and StatefulSet controller for one member: runs the pod that the StatefulSet's template of that moment
//! describes, restarts containers that end, re-creates the pod, ends it when the StatefulSet is gone.
//!
//! Differences to the real ones: a container that ends is started again at once, then after 1, 2, 4, 8, 10 s (real: 10 s doubling to
//! 5 min); a container that ran for a minute starts anew (real: 10 min). Probes, images and volumes are not looked at: a pod is Ready
//! when both containers run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::container::{Container, ContainerSpec};
use super::member::Member;
use super::readiness::{Told, tell};
use super::revision;
pub use super::role::Role;
use super::settings::Settings;
use super::store::{Kind, Store, is_terminating};
use super::template::{container_spec, grace_period, must_replace};

/// A container that ran this long starts anew with its back-off.
const BACK_OFF_RESET: Duration = Duration::from_secs(60);
/// Longest back-off.
const BACK_OFF_LIMIT: Duration = Duration::from_secs(10);
/// How long a process may take to be gone after SIGKILL; more means that the kernel is stuck with it.
const KILL_BOUND: Duration = Duration::from_secs(10);
/// What is left for the sidecar at least when the server used up the grace period (the kubelet's own value).
const LEAST_SIDECAR_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum Order {
    /// Stop signal, grace period, a new pod.
    Delete,
    /// SIGKILL to everything, then the volume is emptied, then a new pod.
    LoseData,
    /// SIGKILL to everything, and no pod again.
    End,
}

/// What a container's keeper is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Run, and again after each end.
    Run,
    /// Do not start again.
    Cease,
}

/// One member's kubelet.
#[derive(Debug)]
pub struct Kubelet {
    member: Member,
    inner: Arc<Inner>,
    orders: mpsc::Sender<(Order, oneshot::Sender<()>)>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    store: Store,
    member: Member,
    /// True: what ended stays down until this is false again.
    held: watch::Sender<bool>,
    server: Mutex<Option<Arc<Container>>>,
    sidecar: Mutex<Option<Arc<Container>>>,
    /// UID of the present pod.
    pod_uid: watch::Sender<Option<String>>,
    /// Held while something is told of a container.
    telling: Mutex<()>,
}

impl Inner {
    fn slot(&self, role: Role) -> &Mutex<Option<Arc<Container>>> {
        match role {
            Role::Server => &self.server,
            Role::Sidecar => &self.sidecar,
        }
    }

    fn container(&self, role: Role) -> Option<Arc<Container>> {
        let slot = self.slot(role).lock().unwrap_or_else(PoisonError::into_inner);
        slot.clone().filter(|container| container.is_running())
    }

    fn set(&self, role: Role, container: Option<Arc<Container>>) {
        *self.slot(role).lock().unwrap_or_else(PoisonError::into_inner) = container;
    }

    fn tell(&self, pod: &Value, role: Role, told: Told) {
        let _one = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&self.store, pod, role, told);
    }

    /// SIGKILL to all processes of both containers.
    fn kill_all(&self) {
        // Frozen first: nothing of the one sees the other's end before its own.
        let containers: Vec<_> = Role::ALL
            .into_iter()
            .filter_map(|role| self.container(role))
            .collect();
        for container in &containers {
            container.freeze();
        }
        for container in &containers {
            container.kill();
        }
    }
}

impl Kubelet {
    /// Starts to run the member's pods.
    #[must_use]
    pub fn start(settings: &Settings, store: &Store, member: &Member) -> Self {
        let inner = Arc::new(Inner {
            settings: settings.clone(),
            store: store.clone(),
            member: member.clone(),
            held: watch::channel(false).0,
            server: Mutex::new(None),
            sidecar: Mutex::new(None),
            pod_uid: watch::channel(None).0,
            telling: Mutex::new(()),
        });
        let (orders, inbox) = mpsc::channel(4);
        let worker = tokio::spawn(work(inner.clone(), inbox));
        Self {
            member: member.clone(),
            inner,
            orders,
            worker: Mutex::new(Some(worker)),
        }
    }

    /// The member.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// The running container, none between two runs.
    #[must_use]
    pub fn container(&self, role: Role) -> Option<Arc<Container>> {
        self.inner.container(role)
    }

    /// UID of the present pod.
    #[must_use]
    pub fn pod_uid(&self) -> Option<String> {
        self.inner.pod_uid.borrow().clone()
    }

    /// True: what ended stays down until this is called with false.
    pub fn hold(&self, held: bool) {
        self.inner.held.send_replace(held);
    }

    /// SIGKILL to every process of the member at once; its containers come back unless held.
    pub fn kill(&self) {
        self.inner.kill_all();
    }

    /// SIGSTOP to every process of the member.
    pub fn freeze(&self) {
        for container in Role::ALL.into_iter().filter_map(|role| self.container(role)) {
            container.freeze();
        }
    }

    /// SIGCONT to every process of the member.
    pub fn thaw(&self) {
        for container in Role::ALL.into_iter().filter_map(|role| self.container(role)) {
            container.thaw();
        }
    }

    /// Waits until no process of the member runs.
    ///
    /// # Errors
    /// When one still runs after a bound that is long for the kernel.
    pub async fn gone(&self) -> Result<()> {
        for container in Role::ALL.into_iter().filter_map(|role| self.container(role)) {
            if container.exited_within(KILL_BOUND).await.is_none() {
                bail!(
                    "container {} still runs {KILL_BOUND:?} after SIGKILL",
                    container.name()
                );
            }
        }
        Ok(())
    }

    /// Deletes the pod as `kubectl delete pod` does and returns when it has ended. A new one comes by itself.
    ///
    /// # Errors
    /// When this kubelet has ended.
    pub async fn delete_pod(&self) -> Result<()> {
        self.order(Order::Delete).await
    }

    /// The member's node and volume are lost: everything is killed at once, and a new pod finds an empty volume.
    ///
    /// # Errors
    /// When this kubelet has ended.
    pub async fn lose_data(&self) -> Result<()> {
        self.order(Order::LoseData).await
    }

    /// Ends everything for good, at once.
    pub async fn end(&self) {
        self.hold(false);
        let ended = self.order(Order::End).await;
        if ended.is_err() {
            // The worker is gone already; what it left is killed here.
            self.inner.kill_all();
        }
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker
            && tokio::time::timeout(KILL_BOUND, worker).await.is_err()
        {
            tracing::warn!(
                member = self.member.name,
                "the member's kubelet did not end in time"
            );
        }
    }

    async fn order(&self, order: Order) -> Result<()> {
        let (done, wait) = oneshot::channel();
        let ended = || format!("the kubelet of {} has ended", self.member.name);
        self.orders
            .send((order, done))
            .await
            .map_err(|_| anyhow::anyhow!(ended()))?;
        wait.await.with_context(ended)
    }
}

/// What ended a pod.
enum PodEnd {
    /// The StatefulSet is gone, its template changed under RollingUpdate, or somebody deleted the Pod.
    Controller,
    /// Somebody deleted the Pod with a grace period of 0.
    Forced,
    Order(Order, oneshot::Sender<()>),
}

/// One pod after the other, until the order to end.
async fn work(inner: Arc<Inner>, mut inbox: mpsc::Receiver<(Order, oneshot::Sender<()>)>) {
    let mut sets = inner.store.watch_one(Kind::StatefulSet, &inner.member.name);
    loop {
        let set = sets.borrow_and_update().clone();
        let Some(set) = set else {
            tokio::select! {
                changed = sets.changed() => if changed.is_err() { return },
                order = inbox.recv() => match order {
                    None | Some((Order::End, _)) => return,
                    Some((Order::LoseData, done)) => { forget_data(&inner); let _ = done.send(()); }
                    Some((Order::Delete, done)) => { let _ = done.send(()); }
                },
            }
            continue;
        };
        let end = match create_pod(&inner, &set) {
            Ok(pod) => run_pod(&inner, &set, &pod, &mut sets, &mut inbox).await,
            Err(error) => {
                tracing::error!(member = inner.member.name, "cannot create the pod: {error:#}");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        inner.pod_uid.send_replace(None);
        inner.store.remove(Kind::Pod, &inner.member.pod());
        revision::forget_unless_there(&inner.store, &set);
        match end {
            PodEnd::Controller | PodEnd::Forced => {}
            PodEnd::Order(Order::End, done) => {
                let _ = done.send(());
                return;
            }
            PodEnd::Order(Order::LoseData, done) => {
                forget_data(&inner);
                let _ = done.send(());
            }
            PodEnd::Order(Order::Delete, done) => {
                let _ = done.send(());
            }
        }
    }
}

fn forget_data(inner: &Inner) {
    if let Err(error) = inner.member.lose_data() {
        tracing::error!(member = inner.member.name, "cannot empty the volume: {error:#}");
    }
}

/// Registers the pod; the API server gives it a new UID.
fn create_pod(inner: &Inner, set: &Value) -> Result<Value> {
    inner.member.renew_run_directory()?;
    let template = set.pointer("/spec/template").cloned().unwrap_or_default();
    let revision = revision::note(&inner.store, set)?;
    let pod = super::objects::pod(&inner.member, set, &template, &revision);
    let pod = inner
        .store
        .create(Kind::Pod, pod)
        .context("cannot create the Pod object")?;
    let pod = inner
        .store
        .set_status(
            Kind::Pod,
            &inner.member.pod(),
            &super::objects::pod_status(&inner.member),
        )
        .unwrap_or(pod);
    let uid = pod
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .context("the Pod object has no UID")?;
    inner.pod_uid.send_replace(Some(uid.to_owned()));
    Ok(pod)
}

async fn run_pod(
    inner: &Arc<Inner>,
    set: &Value,
    pod: &Value,
    sets: &mut watch::Receiver<Option<Value>>,
    inbox: &mut mpsc::Receiver<(Order, oneshot::Sender<()>)>,
) -> PodEnd {
    let wish = watch::channel(Wish::Run).0;
    let sidecar_wish = watch::channel(Wish::Run).0;
    let sidecar = tokio::spawn(keep(
        inner.clone(),
        Role::Sidecar,
        pod.clone(),
        sidecar_wish.subscribe(),
    ));
    let server = tokio::spawn(keep(inner.clone(), Role::Server, pod.clone(), wish.subscribe()));
    let mut pods = inner.store.watch_one(Kind::Pod, &inner.member.pod());
    let end = loop {
        tokio::select! {
            changed = pods.changed() => {
                let now = pods.borrow_and_update().clone();
                match now.filter(|now| now.pointer("/metadata/uid") == pod.pointer("/metadata/uid")) {
                    Some(now) if !is_terminating(&now) && changed.is_ok() => {}
                    Some(_) => break PodEnd::Controller,
                    None => break PodEnd::Forced,
                }
            }
            changed = sets.changed() => {
                let now = sets.borrow_and_update().clone();
                revision::note_change(&inner.store, now.as_ref());
                if changed.is_err() || must_replace(set, now.as_ref()) {
                    break PodEnd::Controller;
                }
            }
            order = inbox.recv() => match order {
                Some((order, done)) => break PodEnd::Order(order, done),
                None => break PodEnd::Order(Order::End, oneshot::channel().0),
            },
        }
    };
    let at_once = matches!(
        end,
        PodEnd::Forced | PodEnd::Order(Order::LoseData | Order::End, _)
    );
    if at_once {
        wish.send_replace(Wish::Cease);
        sidecar_wish.send_replace(Wish::Cease);
        inner.kill_all();
    } else {
        let grace = grace_period(pod);
        let deadline = Instant::now() + grace;
        inner.store.mark_deleted(&inner.member.pod(), grace);
        wish.send_replace(Wish::Cease);
        stop(inner, Role::Server, grace).await;
        sidecar_wish.send_replace(Wish::Cease);
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(LEAST_SIDECAR_GRACE);
        stop(inner, Role::Sidecar, left).await;
    }
    for keeper in [server, sidecar] {
        if let Err(error) = keeper.await {
            tracing::error!(member = inner.member.name, "a container's keeper failed: {error}");
        }
    }
    end
}

/// Stop signal, grace, SIGKILL.
async fn stop(inner: &Inner, role: Role, grace: Duration) {
    let Some(container) = inner.container(role) else {
        return;
    };
    container.signal(role.stop_signal());
    if container.exited_within(grace).await.is_none() {
        tracing::warn!(
            container = container.name(),
            "did not end within its grace period: SIGKILL"
        );
        container.kill();
        let _ = container.exited_within(KILL_BOUND).await;
    }
}

/// Runs one container of a pod again and again until told to cease; returns when it has ended.
async fn keep(inner: Arc<Inner>, role: Role, pod: Value, mut wish: watch::Receiver<Wish>) {
    let mut held = inner.held.subscribe();
    let mut back_off = Duration::ZERO;
    loop {
        tokio::select! {
            free = held.wait_for(|held| !*held) => if free.is_err() { return },
            ceased = wish.wait_for(|wish| *wish == Wish::Cease) => { drop(ceased); return }
        }
        let spec = match container_spec(&inner.settings, &inner.member, role, &pod) {
            Ok(spec) => spec,
            Err(error) => {
                tracing::error!(member = inner.member.name, "the pod cannot be run: {error:#}");
                return;
            }
        };
        let ran = run_once(&inner, role, &spec, &wish, &pod).await;
        if *wish.borrow() == Wish::Cease {
            return;
        }
        if ran > BACK_OFF_RESET {
            back_off = Duration::ZERO;
        }
        inner.tell(&pod, role, Told::BackOff);
        if !*held.borrow() {
            tokio::select! {
                () = sleep(back_off) => {}
                ceased = wish.wait_for(|wish| *wish == Wish::Cease) => { drop(ceased); return }
            }
        }
        back_off = (back_off * 2).clamp(Duration::from_secs(1), BACK_OFF_LIMIT);
    }
}

/// One run of a container; how long it was.
async fn run_once(
    inner: &Inner,
    role: Role,
    spec: &ContainerSpec,
    wish: &watch::Receiver<Wish>,
    pod: &Value,
) -> Duration {
    match Container::launch(spec).await {
        Ok(container) => {
            let container = Arc::new(container);
            inner.set(role, Some(container.clone()));
            inner.tell(pod, role, Told::Running);
            super::watchdog::note(&inner.settings.directory, container.init_pid());
            // The wish may have come while it was launched; whoever wished found no container to stop.
            if *wish.borrow() == Wish::Cease {
                container.kill();
            }
            let status = container.exited().await;
            tracing::debug!(container = spec.name, %status, "a container ended");
            inner.set(role, None);
            container.age()
        }
        Err(error) => {
            tracing::error!("{error:#}");
            Duration::ZERO
        }
    }
}
