//! Asks every server of the namespace what it is, while the cluster may still have to be adopted in place: the StatefulSets that carry a
//! member's variables name them, each server answers for itself. Env says nothing here (invariant 7).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::brain::{Input, record_of};
use super::hands::send;
use super::settings::SidecarSettings;
use crate::core::adoption::{FoundServer, ServerAnswer, Survey};
use crate::core::observe::{GuardView, LeaseView};
use crate::core::probe::Probe;
use crate::core::types::{Address, MemberName};
use crate::guard::protocol::DataState;
use crate::kubernetes::servers::{Listed, list_servers};
use crate::lease::LiveClock;
use crate::postgres::{Health, Prober, ServerAt};

/// Between two rounds.
const EVERY: Duration = Duration::from_millis(1_000);
/// Longest time for a name.
const RESOLVE: Duration = Duration::from_millis(500);
/// Longest time for one server's answer.
const LOOK: Duration = Duration::from_millis(1_000);

/// Asking is wanted: the record says never initialised, and there is data here, or this member is marked to make a database; or the
/// record is lost, and the data here was never adopted.
#[must_use]
pub fn is_wanted(settings: &SidecarSettings, lease: &LeaseView, guard: &GuardView) -> bool {
    let status = match guard {
        GuardView::Heard(status) => &status.value,
        GuardView::Lost { .. } | GuardView::Unknown => return false,
    };
    match record_of(lease) {
        Some(record) if record.is_never_initialised() => {
            settings.core.first_primary || status.data == DataState::Complete
        }
        Some(_) => false,
        None => status.found.is_some(),
    }
}

/// Where the servers that were found have their sidecars, if they have any.
#[must_use]
pub fn addresses(survey: &Survey) -> BTreeMap<MemberName, Address> {
    let Survey::Taken { servers, .. } = survey else {
        return BTreeMap::new();
    };
    let known =
        |(member, server): (&MemberName, &FoundServer)| Some((member.clone(), server.address.clone()?));
    servers.iter().filter_map(known).collect()
}

/// Asks as long as it is wanted, until the loop is gone.
pub async fn take(
    settings: Arc<SidecarSettings>,
    client: Client,
    clock: LiveClock,
    mut wanted: watch::Receiver<bool>,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        let asked_at = clock.now();
        let survey = match list_servers(&client, &settings.namespace).await {
            Ok(listed) => Survey::Taken {
                asked_at,
                servers: ask(&settings, listed).await,
            },
            Err(error) => Survey::Failed {
                forbidden: error.is_forbidden(),
                why: error.to_string(),
            },
        };
        send(&inputs, Input::Survey(Box::new(survey))).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// All at once: the round is as long as its slowest answer.
async fn ask(settings: &SidecarSettings, listed: Vec<Listed>) -> BTreeMap<MemberName, FoundServer> {
    let others = listed.into_iter().map(|listed| async move {
        let (address, answer) = look(settings, &listed.member).await;
        let found = FoundServer {
            replicas: listed.replicas,
            address,
            answer,
        };
        (listed.member, found)
    });
    join_all(others).await.into_iter().collect()
}

async fn look(settings: &SidecarSettings, member: &MemberName) -> (Option<Address>, ServerAnswer) {
    let named = settings.server_addresses.get(member);
    let host = named.map_or_else(|| member.to_string(), Clone::clone);
    let port = settings.core.address.postgres_port;
    let resolved = timeout(RESOLVE, tokio::net::lookup_host((host.as_str(), port))).await;
    let ip: Option<IpAddr> = match resolved {
        Ok(Ok(mut all)) => all.next().map(|at| at.ip()),
        Ok(Err(_)) | Err(_) => None,
    };
    let Some(ip) = ip else {
        let why = format!("its name {host} leads nowhere: no pod of it runs");
        return (None, ServerAnswer::Silent { why });
    };
    let address = Address {
        ip: ip.to_string(),
        postgres_port: port,
        sidecar_port: settings.core.address.sidecar_port,
    };
    let at = ServerAt {
        host: address.ip.clone(),
        port,
    };
    let prober = Prober::new(at, settings.superuser.clone());
    let probe = prober.probe_fresh(LOOK, Health::Read).await;
    (Some(address), answer_of(&probe))
}

fn answer_of(probe: &Probe) -> ServerAnswer {
    match probe {
        Probe::Primary(view) => ServerAnswer::ReadWrite {
            system_identifier: view.server.system_identifier,
        },
        Probe::Standby(view) => ServerAnswer::Standby {
            system_identifier: view.server.system_identifier,
            timeline: view.server.timeline,
            held: view.receive_lsn.max(view.replay_lsn),
        },
        other => ServerAnswer::Silent {
            why: other.to_string(),
        },
    }
}
