//! What people are shown: the status page, the metrics, and the report beside the record.

use std::sync::Arc;

use tokio::sync::watch;

use super::brain::record_of;
use super::forecast::could_fail_over;
use super::settings::SidecarSettings;
use super::sight::Sight;
use super::tally::Tally;
use super::warnings::warnings;
use crate::core::decide::Decision;
use crate::core::history;
use crate::core::observe::{LeaseView as Lease, Observation, PeerReport, RecordView, ServerView};
use crate::core::probe::Probe;
use crate::core::record::{Evidence, Record};
use crate::core::report::{MemberReport, REPORT_ANNOTATION, Report};
use crate::core::types::{Lsn, MemberData, Millis};
use crate::guard::protocol::{DownReason, Server, Status};
use crate::http::cluster::Feed;
use crate::http::health::Pulse;
use crate::http::metrics::Metrics;
use crate::http::status::{
    Build, CouldFailOverView, GuardView, LeaseView, OperationView, PeerView, PostgresView, ReplicationView,
    RightsView, Role, STATUS_VERSION, SettingsView, StatusPage, Why,
};
use crate::lease;
use crate::peers::{People, Said};

/// The page is made at most this often while nothing but time has changed.
const EVERY: Millis = Millis(250);

/// Where decisions are shown.
#[derive(Debug)]
pub struct Shown {
    /// The page.
    pub page: watch::Sender<Arc<StatusPage>>,
    /// The cluster, for the live page.
    pub cluster: watch::Sender<Arc<Feed>>,
    /// What the others' live pages show of this member.
    pub people: watch::Sender<Option<serde_json::Value>>,
    /// The report that goes with the next swap.
    pub report: watch::Sender<String>,
    /// Gauges.
    pub metrics: Metrics,
    /// The loop lives.
    pub pulse: Pulse,
    /// When the page was last made, and for which phase and reason.
    pub last: Option<(Millis, String)>,
    /// Raises the counters.
    pub tally: Tally,
}

impl Shown {
    /// Shows one decision.
    pub fn show(
        &mut self,
        settings: &SidecarSettings,
        decision: &Decision,
        seen: &Observation,
        sight: &Sight,
        view: &lease::LeaseView,
    ) {
        self.pulse.tick();
        let key = format!("{:?}", decision.phase);
        let due = self
            .last
            .as_ref()
            .is_none_or(|(at, old)| *old != key || seen.now.since(*at) >= EVERY);
        if !due {
            return;
        }
        self.last = Some((seen.now, key));
        let said = warnings(settings, record_of(&seen.lease), sight, view);
        let page = page(settings, decision, seen, sight, view, &said);
        self.metrics.show(&page);
        self.metrics.show_server(sight.probe.as_ref().map(|p| &p.value));
        let primaries = sight.unguarded.iter().filter(|u| u.what.takes_writes());
        self.metrics
            .show_unguarded(sight.unguarded.len(), primaries.count());
        self.metrics.show_clocks(sight.clocks.apart_ms());
        self.report.send_replace(report(&page, seen).render());
        let people = People::new(&page.phase, &page.why.code, &page.why.text, said.clone());
        self.people.send_replace(serde_json::to_value(people).ok());
        let cluster = super::cluster::view(settings, &page, seen, sight, said);
        self.cluster.send_replace(Arc::new(Feed::new(cluster)));
        self.page.send_replace(Arc::new(page));
    }
}

/// The page before the first decision.
#[must_use]
pub fn first_page(settings: &SidecarSettings) -> StatusPage {
    StatusPage {
        version: STATUS_VERSION,
        at: jiff::Timestamp::now().to_string(),
        member: settings.core.me.clone(),
        pod_uid: settings.pod_uid.clone(),
        role: Role::Unknown,
        phase: "starting".to_owned(),
        why: Why {
            code: "no_lease_seen_yet".to_owned(),
            text: crate::core::why::Why::NoLeaseSeenYet.to_string(),
        },
        term: crate::core::types::Term(0),
        lease: LeaseView {
            holder: None,
            age_ms: None,
            duration_ms: settings.core.lease_duration.0,
            transitions: crate::core::types::Term(0),
            contact_age_ms: None,
        },
        record: None,
        record_error: None,
        guard: None,
        postgres: postgres_view(None, None, Millis(0)),
        peers: Vec::new(),
        could_fail_over: CouldFailOverView::default(),
        warnings: Vec::new(),
        rights: RightsView::default(),
        settings: settings_view(settings),
        build: Build::this(),
    }
}

fn page(
    settings: &SidecarSettings,
    decision: &Decision,
    seen: &Observation,
    sight: &Sight,
    view: &lease::LeaseView,
    said: &[Said],
) -> StatusPage {
    let record = record_of(&seen.lease);
    let status = sight.status().map(|s| &s.value);
    let mut page = first_page(settings);
    page.role = role_of(status);
    page.phase = serde_json::to_value(decision.phase)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default();
    page.why = Why {
        code: decision.why.code(),
        text: decision.why.to_string(),
    };
    page.lease = lease_view(settings, seen, view);
    page.term = page
        .lease
        .transitions
        .max(status.map_or(page.term, |s| s.highest_term));
    page.record = record.cloned();
    page.record_error = record_error(&seen.lease);
    page.guard = status.map(|s| guard_view(s, seen.now_boot));
    page.postgres = postgres_view(sight.probe.as_ref(), record, seen.now);
    page.postgres.diverged =
        matches!(decision.why, crate::core::why::Why::ForeignData { .. }) || diverged(record, status);
    page.peers = peers(settings, record, sight, seen.now);
    let told = view
        .state
        .seen()
        .and_then(|l| l.annotations.get(REPORT_ANNOTATION));
    page.could_fail_over = could_fail_over(
        settings,
        decision,
        record,
        seen,
        told.map(String::as_str),
        page.lease.contact_age_ms,
    );
    page.rights = sight.rights.view();
    page.warnings = said.iter().map(|said| said.text.clone()).collect();
    page
}

pub(super) fn role_of(status: Option<&Status>) -> Role {
    let Some(status) = status else {
        return Role::Unknown;
    };
    if status.operation.is_some() {
        return Role::Rebuilding;
    }
    match status.server {
        Server::Primary => Role::Primary,
        Server::Standby => Role::Standby,
        Server::Starting => Role::Starting,
        Server::Stopping => Role::Stopping,
        Server::Down { .. } => Role::Down,
    }
}

fn lease_view(settings: &SidecarSettings, seen: &Observation, view: &lease::LeaseView) -> LeaseView {
    let (holder, age_ms, transitions) = match &seen.lease {
        Lease::Seen(lease) => (lease.holder.clone(), Some(lease.unchanged_for.0), lease.term),
        Lease::Unknown | Lease::Absent => (None, None, crate::core::types::Term(0)),
    };
    LeaseView {
        holder,
        age_ms,
        duration_ms: settings.core.lease_duration.0,
        transitions,
        contact_age_ms: view.contact.answered_at.map(|at| seen.now.since(at).0),
    }
}

fn record_error(lease: &Lease) -> Option<String> {
    match lease {
        Lease::Unknown => None,
        Lease::Absent => Some("the Lease does not exist".to_owned()),
        Lease::Seen(seen) => match &seen.record {
            RecordView::Good(_) => None,
            RecordView::Missing => Some("the Lease carries no record".to_owned()),
            RecordView::Unreadable(why) => Some(why.clone()),
        },
    }
}

fn guard_view(status: &Status, now_boot: Millis) -> GuardView {
    GuardView {
        server: server_words(&status.server),
        data_id: status.data_id.clone(),
        system_identifier: status.system_identifier,
        highest_term: status.highest_term,
        pledged_term: status.pledge.as_ref().map(|p| p.term),
        pledged_position: status.pledge.as_ref().and_then(|p| p.position),
        permit_left_ms: status
            .permit
            .map(|p| p.deadline_boot_ms.saturating_sub(now_boot.0)),
        operation: status.operation.as_ref().map(|o| OperationView {
            kind: o.kind.clone(),
            bytes_done: o.bytes_done,
            bytes_total: o.bytes_total,
            #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
            percent: o
                .bytes_total
                .filter(|t| *t > 0)
                .map(|t| (100.0 * o.bytes_done as f64 / t as f64).min(100.0)),
            running_ms: o.running_ms,
        }),
        rest: status.rest.as_ref().map(|r| r.position),
        disk_free_bytes: status.disk_free,
        disk_total_bytes: status.disk_total,
        warning: status.warning.clone(),
    }
}

pub(super) fn server_words(server: &Server) -> String {
    match server {
        Server::Down { reason, .. } => {
            let reason = match reason {
                DownReason::NotStarted => "not started",
                DownReason::Stopped => "stopped",
                DownReason::Crashed => "crashed",
                DownReason::PermitEnded => "permit ended",
                DownReason::Unpermitted => "not permitted",
            };
            format!("down ({reason})")
        }
        Server::Starting => "starting".to_owned(),
        Server::Standby => "standby".to_owned(),
        Server::Primary => "primary".to_owned(),
        Server::Stopping => "stopping".to_owned(),
    }
}

fn postgres_view(probe: Option<&Evidence<Probe>>, record: Option<&Record>, now: Millis) -> PostgresView {
    let mut shown = PostgresView {
        answers: false,
        error: None,
        age_ms: probe.map(|p| now.since(p.asked_at).0),
        timeline: None,
        lsn: None,
        lag_bytes: None,
        diverged: false,
        replication: Vec::new(),
    };
    let leader = record.and_then(|r| r.leader_wal).map(|w| w.lsn);
    match probe.map(|p| &p.value) {
        None => {}
        Some(Probe::Primary(view)) => {
            shown.answers = true;
            shown.timeline = Some(view.server.timeline);
            shown.lsn = Some(view.insert_lsn);
            shown.lag_bytes = Some(0);
            shown.replication = view
                .replication
                .iter()
                .map(|r| ReplicationView {
                    name: r.application_name.clone(),
                    state: r.state.clone().unwrap_or_default(),
                    sync_state: r.sync_state.clone().unwrap_or_default(),
                    flush_lsn: r.flush_lsn,
                    lag_bytes: r.flush_lsn.map(|f| view.insert_lsn.0.saturating_sub(f.0)),
                })
                .collect();
        }
        Some(Probe::Standby(view)) => {
            shown.answers = true;
            shown.timeline = Some(view.server.timeline);
            shown.lsn = view.receive_lsn.max(view.replay_lsn);
            shown.lag_bytes = leader
                .zip(shown.lsn)
                .map(|(l, s): (Lsn, Lsn)| l.0.saturating_sub(s.0));
        }
        Some(other) => shown.error = Some(other.to_string()),
    }
    shown
}

fn diverged(record: Option<&Record>, status: Option<&Status>) -> bool {
    let position = status.and_then(|s| s.rest.as_ref()).map(|r| r.position);
    record
        .zip(position)
        .is_some_and(|(record, position)| !history::is_on_primary_history(record, position))
}

fn peers(settings: &SidecarSettings, record: Option<&Record>, sight: &Sight, now: Millis) -> Vec<PeerView> {
    let mut names: Vec<_> = sight
        .peers
        .keys()
        .chain(sight.peer_trouble.keys())
        .cloned()
        .collect();
    names.extend(
        record
            .into_iter()
            .flat_map(|r| r.members.iter().map(|m| m.member.clone())),
    );
    names.sort();
    names.dedup();
    names.retain(|n| *n != settings.core.me);
    names
        .into_iter()
        .map(|member| {
            let report = sight.peers.get(&member);
            let guard = report.and_then(|r| r.value.guard.as_ref());
            let pledge = guard.and_then(|g| g.pledge.as_ref());
            PeerView {
                age_ms: report.map(|r| now.since(r.asked_at).0),
                role: report.map(|r| role_of(r.value.guard.as_ref())),
                data_id: guard.and_then(|g| g.data_id.clone()),
                pledged_term: pledge.map(|p| p.term),
                position: pledge.and_then(|p| p.position),
                error: sight.peer_trouble.get(&member).cloned(),
                member,
            }
        })
        .collect()
}

fn settings_view(settings: &SidecarSettings) -> SettingsView {
    SettingsView {
        lease: settings.lease.clone(),
        service: settings.service.clone(),
        lease_duration_ms: settings.core.lease_duration.0,
        renew_interval_ms: settings.core.renew_interval.0,
        silence_timeout_ms: settings.core.silence_timeout.0,
        durability: settings.durability.clone(),
        availability: settings.availability.clone(),
        maximum_lag_bytes: settings.core.maximum_lag,
        maximum_read_lag_bytes: settings.maximum_read_lag,
        patch_env: settings.patch_env,
    }
}

/// The leader's short report: only what a person asks first.
fn report(page: &StatusPage, seen: &Observation) -> Report {
    let members = page.record.as_ref().map_or(Vec::new(), |record| {
        record
            .members
            .iter()
            .map(|m| member_report(page, record, &m.data(), seen))
            .collect()
    });
    Report {
        at: page.at.clone(),
        why: page.why.text.clone(),
        could_fail_over: page.could_fail_over.answer.clone(),
        members,
        warnings: page.warnings.clone(),
    }
}

fn member_report(page: &StatusPage, record: &Record, data: &MemberData, seen: &Observation) -> MemberReport {
    let mine = data.member == page.member;
    let peer: Option<&Evidence<PeerReport>> = seen.peers.get(&data.member);
    let role = if mine {
        Some(page.role)
    } else {
        page.peers
            .iter()
            .find(|p| p.member == data.member && p.error.is_none())
            .and_then(|p| p.role)
    };
    let row = page
        .postgres
        .replication
        .iter()
        .find(|r| r.name == data.standby_name());
    let former = record.sync_sets.iter().skip(1).any(|s| s.standbys.contains(data));
    let sync = match row {
        Some(row) => row.sync_state.clone(),
        None if former => "former".to_owned(),
        None => String::new(),
    };
    let operation = peer.and_then(|p| p.value.guard.as_ref()?.operation.as_ref());
    let state = match (mine, row, operation) {
        (true, _, _) => String::new(),
        (_, Some(row), _) => row.state.clone(),
        (_, None, Some(operation)) => {
            let total = operation
                .bytes_total
                .map_or_else(String::new, |t| format!(" of {t}"));
            format!("{}: {}{total} bytes", operation.kind, operation.bytes_done)
        }
        (_, None, None) => "not streaming".to_owned(),
    };
    let timeline = match peer.and_then(|p| p.value.server.as_ref()) {
        Some(ServerView::Primary { timeline, .. }) => Some(*timeline),
        _ if mine => page.postgres.timeline,
        _ => None,
    };
    MemberReport {
        member: data.member.clone(),
        role: role.map_or("unknown", Role::as_str).to_owned(),
        lag_bytes: if mine {
            page.postgres.lag_bytes
        } else {
            row.and_then(|r| r.lag_bytes)
        },
        sync,
        timeline,
        state,
    }
}
