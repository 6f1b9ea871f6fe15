//! The rig as a whole: API server, Service address, members; up and down.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use pgbaton::core::record::Record;

use super::api::{ADMIN, ApiServer, Options};
use super::faults::server_processes;
use super::forwarder::Forwarder;
use super::host;
use super::kubelet::{Kubelet, Role};
use super::member::{Member, write_entrypoint};
use super::objects::{self, Programs};
use super::process;
use super::settings::{API_PORT, Choice, NAMESPACE, Settings, random_hex};
use super::store::{Kind, Store};
use super::watchdog::{self, Watchdog};
use super::whole;
use crate::names::CLUSTER;
use crate::names::POSTGRES_PORT;
use crate::names::{PRIMARY_ADDRESS, STANDBY_MODE};
use crate::oracles::trial::Subject;

/// A running rig. End it with `end`; a rig that is dropped or killed is cleaned up by its watchdog.
#[derive(Debug)]
pub struct Rig {
    /// How it was made.
    pub settings: Settings,
    /// The API server's objects.
    pub store: Store,
    /// One for each member, in order.
    pub kubelets: Vec<Arc<Kubelet>>,
    /// Everybody's files.
    pub members: Vec<Member>,
    /// What people use: `pgbaton --kubeconfig`.
    pub kubeconfig: PathBuf,
    forwarder: Option<Forwarder>,
    watchdog: Watchdog,
}

impl Rig {
    /// Makes the directory, starts the API server with its objects, the Service's address and all members. Returns at once; see
    /// `wait_whole`.
    ///
    /// # Errors
    /// What is missing on this machine or taken, and what to do.
    pub async fn start(choice: Choice) -> Result<Self> {
        let settings = Settings::prepare(choice).await?;
        let watchdog = Watchdog::start(&settings.directory, settings.choice.chaos.as_deref())?;
        let started = Self::start_in(settings.clone(), watchdog).await;
        started.with_context(|| format!("the rig in {} could not be started", settings.directory.display()))
    }

    async fn start_in(settings: Settings, watchdog: Watchdog) -> Result<Self> {
        let address = SocketAddr::from((settings.api_ip(), API_PORT));
        let api = ApiServer::start(address, Options::default())
            .await
            .with_context(|| format!("cannot start the embedded API server on {address}"))?;
        let store = Store::new(api);
        let members: Vec<Member> = (1..=settings.choice.members)
            .map(|index| Member::new(&settings, index))
            .collect();
        let kubeconfig = settings.directory.join("kubeconfig");
        write_kubeconfig(&store, ADMIN, &kubeconfig)?;
        let entrypoint = write_entrypoint(&settings)?;
        for member in &members {
            member.lay_out()?;
        }
        seed(&settings, &store, &members, &entrypoint)?;
        let service = SocketAddrV4::new(settings.service_ip(), POSTGRES_PORT);
        let forwarder = Forwarder::start(service, CLUSTER, &store).await?;
        let kubelets = members
            .iter()
            .map(|member| Arc::new(Kubelet::start(&settings, &store, member)))
            .collect();
        Ok(Self {
            settings,
            store,
            kubelets,
            members,
            kubeconfig,
            forwarder: Some(forwarder),
            watchdog,
        })
    }

    /// The kubelet of the member with that name.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn kubelet(&self, member: &str) -> Result<&Arc<Kubelet>> {
        let found = self
            .kubelets
            .iter()
            .find(|kubelet| kubelet.member().name == member);
        found.with_context(|| format!("this rig has no member '{member}'"))
    }

    /// The recorded primary's name.
    #[must_use]
    pub fn primary(&self) -> Option<String> {
        let record = whole::record(&self.store)?;
        Some(record.primary?.member.as_str().to_owned())
    }

    /// The recorded primary's kubelet.
    ///
    /// # Errors
    /// When none is recorded.
    pub fn primary_kubelet(&self) -> Result<&Arc<Kubelet>> {
        let Some(name) = self.primary() else {
            bail!("the record names no primary");
        };
        self.kubelet(&name)
    }

    /// The kubelets of all other members.
    ///
    /// # Errors
    /// When no primary is recorded.
    pub fn standby_kubelets(&self) -> Result<Vec<Arc<Kubelet>>> {
        let primary = self.primary_kubelet()?.member().name.clone();
        Ok(self
            .kubelets
            .iter()
            .filter(|kubelet| kubelet.member().name != primary)
            .cloned()
            .collect())
    }

    /// Waits until the cluster is whole.
    ///
    /// # Errors
    /// What is missing after `bound`.
    pub async fn wait_whole(&self, bound: Duration) -> Result<(), Vec<String>> {
        whole::wait(&self.settings, &self.store, &self.members, None, bound).await
    }

    /// Applies a member's StatefulSet again, as `kubectl apply` of its manifest does, with these values of the tutorial's env.
    ///
    /// # Errors
    /// What the API server says.
    pub fn apply_stateful_set(&self, member: &Member, standby_mode: &str, primary: &str) -> Result<()> {
        let programs = self.programs_of(member);
        let mut set = objects::stateful_set(&self.settings, member, &programs);
        objects::set_env(&mut set, STANDBY_MODE, standby_mode);
        objects::set_env(&mut set, PRIMARY_ADDRESS, primary);
        self.store.create(Kind::StatefulSet, set).map(|_| ())
    }

    /// Paths for a member's template.
    pub(super) fn programs_of(&self, member: &Member) -> Programs {
        let entrypoint = self.settings.directory.join("bin").join("docker-entrypoint.sh");
        programs(&self.settings, member, &entrypoint)
    }

    /// Ends everything. `keep`: the directory stays.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub async fn end(mut self, keep: bool) -> Result<()> {
        if keep {
            watchdog::keep_directory(&self.settings.directory)?;
        }
        self.forwarder.take();
        futures_util::future::join_all(self.kubelets.iter().map(|kubelet| kubelet.end())).await;
        self.store.api().down().await;
        watchdog::kill_noted(&self.settings.directory);
        let directory = self.settings.directory.clone();
        self.watchdog.finish();
        if !keep && directory.exists() {
            std::fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        Ok(())
    }
}

/// A file that only its owner reads: it holds a token.
fn write_kubeconfig(store: &Store, user: &str, path: &Path) -> Result<()> {
    let text = store.api().kubeconfig(user, NAMESPACE);
    let text = text.with_context(|| format!("the API server has no user '{user}'"))?;
    std::fs::write(path, text)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn programs(settings: &Settings, member: &Member, entrypoint: &Path) -> Programs {
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Programs {
        pgbaton: settings.pgbaton.display().to_string(),
        entrypoint: entrypoint.display().to_string(),
        path: format!("{}:{usual}", settings.programs.display()),
        kubeconfig: member.root.join("kubeconfig").display().to_string(),
    }
}

/// What `kubectl apply` of the manifests makes. Each member has a user of its own, so that its requests are counted apart.
fn seed(settings: &Settings, store: &Store, members: &[Member], entrypoint: &Path) -> Result<()> {
    store.create(Kind::Lease, objects::lease(settings))?;
    for service in objects::services(members) {
        store.create(Kind::Service, service)?;
    }
    for member in members {
        store
            .api()
            .add_user(&member.name, &random_hex(16)?, objects::member_rights(members));
        let path = member.root.join("kubeconfig");
        write_kubeconfig(store, &member.name, &path)?;
        host::give(&path, settings.account.as_ref())?;
        let programs = programs(settings, member, entrypoint);
        let set = if settings.choice.plain {
            super::plain::stateful_set(settings, member, &programs)
        } else {
            objects::stateful_set(settings, member, &programs)
        };
        store.create(Kind::StatefulSet, set)?;
    }
    Ok(())
}

impl Subject for Rig {
    async fn record(&self) -> Option<Record> {
        whole::record(&self.store)
    }

    /// Each member's postmaster, with its start time.
    async fn servers(&self) -> BTreeMap<String, String> {
        let of = |kubelet: &Arc<Kubelet>| {
            let container = kubelet.container(Role::Server)?;
            let pid = *server_processes(&container).first()?;
            let run = format!("{pid} {:?}", process::start_time(pid));
            Some((kubelet.member().name.clone(), run))
        };
        self.kubelets.iter().filter_map(of).collect()
    }

    async fn wait_whole_since(&self, since: Timestamp, bound: Duration) -> Result<(), Vec<String>> {
        whole::wait(&self.settings, &self.store, &self.members, Some(since), bound).await
    }
}
