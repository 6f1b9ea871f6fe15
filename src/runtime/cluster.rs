//! Fills the live page: the cluster as this member knows it, each member by its own last answer, what the primary sees of it, and the
//! record. Nothing is decided by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::brain::record_of;
use super::page::{first_page, role_of, server_words};
use super::settings::SidecarSettings;
use super::sight::Sight;
use crate::core::history;
use crate::core::observe::{Observation, PeerReport, ReplicationRow, ServerView};
use crate::core::record::{Availability, Durability, Evidence, Record};
use crate::core::types::{Address, Lsn, MemberData, MemberName, Millis};
use crate::guard::protocol::Status;
use crate::http::cluster::{
    ClusterView, Feed, MEMBERS_MAX, MemberView, Recorded, Setting, Sync, TERMS_SHOWN, WARNINGS_MAX, Warning,
    Work,
};
use crate::http::page::runbook;
use crate::http::status::{Role, StatusPage, Why};
use crate::peers::Said;

/// Heading of the runbook where no other one fits.
const LOOK_FIRST: &str = "look-first";

/// The page before the first decision.
#[must_use]
pub fn first(settings: &SidecarSettings) -> Arc<Feed> {
    let page = first_page(settings);
    let serves = MemberView {
        serves: true,
        endpoint: Some(endpoint(&settings.core.address)),
        ..unheard(settings.core.me.clone())
    };
    Arc::new(Feed::new(ClusterView {
        members: vec![serves],
        ..frame(settings, &page)
    }))
}

/// The page.
#[must_use]
pub fn view(
    settings: &SidecarSettings,
    page: &StatusPage,
    seen: &Observation,
    sight: &Sight,
    said: Vec<Said>,
) -> ClusterView {
    let look = Look {
        settings,
        page,
        seen,
        sight,
        record: record_of(&seen.lease),
    };
    let mut view = frame(settings, page);
    let mut names = look.names();
    view.more_members = names.len().saturating_sub(MEMBERS_MAX);
    names.truncate(MEMBERS_MAX);
    view.members = names.into_iter().map(|name| look.member(name)).collect();
    view.record = look.record.map(recorded);
    if let Some((leader, why)) = look.leaders_word() {
        view.why = why;
        view.why_of = leader;
    }
    view.why_see = heading(&view.why.code);
    view.history = look.record.map_or(Vec::new(), |record| {
        let newest_first = record.history.iter().rev();
        newest_first.take(TERMS_SHOWN).cloned().collect()
    });
    view.warnings = look.warnings(said);
    view
}

/// What needs no look at others.
fn frame(settings: &SidecarSettings, page: &StatusPage) -> ClusterView {
    ClusterView {
        cluster: format!("{}/{}", settings.namespace, settings.lease),
        namespace: settings.namespace.clone(),
        member: page.member.clone(),
        version: page.build.version.clone(),
        at: page.at.clone(),
        term: page.term,
        lease: page.lease.clone(),
        record: None,
        record_error: page.record_error.clone(),
        why: page.why.clone(),
        why_of: page.member.clone(),
        why_see: heading(&page.why.code),
        could_fail_over: page.could_fail_over.clone(),
        members: Vec::new(),
        more_members: 0,
        history: Vec::new(),
        warnings: Vec::new(),
        settings: in_force(settings),
    }
}

fn heading(code: &str) -> String {
    let known = runbook::has(code);
    if known { code } else { LOOK_FIRST }.to_owned()
}

/// Everything that the page is made of.
struct Look<'a> {
    settings: &'a SidecarSettings,
    page: &'a StatusPage,
    seen: &'a Observation,
    sight: &'a Sight,
    record: Option<&'a Record>,
}

impl Look<'_> {
    fn me(&self) -> &MemberName {
        &self.settings.core.me
    }

    fn names(&self) -> Vec<MemberName> {
        let recorded = self.record.into_iter().flat_map(|record| &record.members);
        let mut names: BTreeSet<MemberName> = recorded.map(|member| member.member.clone()).collect();
        names.extend(self.sight.peers.keys().cloned());
        names.extend(self.sight.peer_trouble.keys().cloned());
        names.insert(self.me().clone());
        names.into_iter().collect()
    }

    fn age(&self, asked_at: Millis) -> u64 {
        self.seen.now.since(asked_at).0
    }

    fn member(&self, name: MemberName) -> MemberView {
        let mut shown = unheard(name);
        let recorded = self.record.and_then(|record| record.member(&shown.member));
        let report = self.seen.peers.get(&shown.member);
        let introduced = self.sight.introduced.get(&shown.member);
        let address = report
            .map(|report| &report.value.address)
            .or(introduced)
            .or(recorded.map(|member| &member.address));
        shown.endpoint = address.map(endpoint);
        if shown.member == *self.me() {
            self.fill_own(&mut shown);
        } else if let Some(report) = report {
            self.fill_heard(&mut shown, report);
        }
        shown.error = self.sight.peer_trouble.get(&shown.member).cloned();
        let holder = self
            .page
            .lease
            .holder
            .as_deref()
            .and_then(|h| h.split('_').next());
        shown.holds_lease = holder == Some(shown.member.as_str());
        let primary = self.record.and_then(|record| record.primary.as_ref());
        shown.recorded_primary = primary.is_some_and(|p| p.member == shown.member);
        shown.sync = self.sync(&shown);
        self.fill_lag(&mut shown, recorded.map(crate::core::record::Member::data));
        shown
    }

    fn fill_own(&self, shown: &mut MemberView) {
        let page = self.page;
        shown.serves = true;
        shown.endpoint = Some(endpoint(&self.settings.core.address));
        shown.age_ms = page.postgres.age_ms;
        shown.phase.clone_from(&page.phase);
        shown.why = Some(page.why.clone());
        shown.terminating = self.sight.terminating;
        if let Some(status) = self.sight.status() {
            fill_guard(shown, &status.value, self.age(status.asked_at), self.record);
        }
        fill_server(shown, self.seen.server.as_ref().map(|server| &server.value));
        shown.diverged = page.postgres.diverged;
    }

    fn fill_heard(&self, shown: &mut MemberView, report: &Evidence<PeerReport>) {
        let age = self.age(report.asked_at);
        shown.age_ms = Some(age);
        shown.terminating = report.value.terminating;
        if let Some(status) = &report.value.guard {
            fill_guard(shown, status, age, self.record);
        }
        fill_server(shown, report.value.server.as_ref());
        if let Some(people) = self.sight.people.get(&shown.member) {
            shown.phase.clone_from(&people.phase);
            shown.why = Some(Why {
                code: people.code.clone(),
                text: people.why.clone(),
            });
        }
    }

    fn sync(&self, shown: &MemberView) -> Sync {
        let Some(record) = self.record else {
            return Sync::Unknown;
        };
        let holds = |standbys: &BTreeSet<MemberData>| standbys.iter().any(|s| s.member == shown.member);
        if shown.recorded_primary {
            Sync::Leads
        } else if holds(&record.current_set().standbys) {
            Sync::Sync
        } else if record.sync_sets.iter().any(|set| holds(&set.standbys)) {
            Sync::Former
        } else {
            Sync::Async
        }
    }

    /// What lags is told by the primary: it sees both positions at once.
    fn fill_lag(&self, shown: &mut MemberView, data: Option<MemberData>) {
        let Some((asked_at, insert, rows)) = self.primary_view() else {
            return;
        };
        if shown.recorded_primary {
            shown.lag_bytes = Some(0);
            return;
        }
        let standby_name = data.map(|data| data.standby_name());
        let row = rows.iter().find(|row| Some(&row.name) == standby_name.as_ref());
        if let Some(flush) = row.and_then(|row| row.flush) {
            shown.lag_bytes = Some(insert.0.saturating_sub(flush.0));
            shown.lag_age_ms = Some(self.age(asked_at));
        }
    }

    /// Insert position and standbys, as the recorded primary told them last, with when it was asked.
    fn primary_view(&self) -> Option<(Millis, Lsn, &[ReplicationRow])> {
        let primary = &self.record?.primary.as_ref()?.member;
        let (asked_at, server) = if primary == self.me() {
            let server = self.seen.server.as_ref()?;
            (server.asked_at, &server.value)
        } else {
            let report = self.seen.peers.get(primary)?;
            (report.asked_at, report.value.server.as_ref()?)
        };
        match server {
            ServerView::Primary { insert, rows, .. } => Some((asked_at, *insert, rows)),
            _ => None,
        }
    }

    /// The leader's own reason, when it is heard.
    fn leaders_word(&self) -> Option<(MemberName, Why)> {
        let holder = self.page.lease.holder.as_deref()?.split('_').next()?;
        let leader: MemberName = holder.parse().ok()?;
        if leader == *self.me() || self.sight.peer_trouble.contains_key(&leader) {
            return None;
        }
        let people = self.sight.people.get(&leader)?;
        let why = Why {
            code: people.code.clone(),
            text: people.why.clone(),
        };
        Some((leader, why))
    }

    /// This member's, then what the others say of themselves; the same text once.
    fn warnings(&self, said: Vec<Said>) -> Vec<Warning> {
        let own = said.into_iter().map(|said| (self.me().clone(), said));
        let answering = self.sight.people.iter();
        let answering = answering.filter(|(member, _)| !self.sight.peer_trouble.contains_key(*member));
        let others = answering
            .flat_map(|(member, people)| people.warnings.iter().map(|said| (member.clone(), said.clone())));
        let mut told = BTreeSet::new();
        own.chain(others)
            .filter(|(_, said)| told.insert(said.text.clone()))
            .take(WARNINGS_MAX)
            .map(|(member, said)| Warning {
                member,
                see: heading(&said.see),
                text: said.text,
            })
            .collect()
    }
}

/// Of whom only the name is known.
fn unheard(member: MemberName) -> MemberView {
    MemberView {
        member,
        serves: false,
        endpoint: None,
        age_ms: None,
        error: None,
        holds_lease: false,
        recorded_primary: false,
        role: Role::Unknown,
        server: String::new(),
        phase: String::new(),
        why: None,
        follows: None,
        streams: None,
        sync: Sync::Unknown,
        timeline: None,
        lsn: None,
        lag_bytes: None,
        lag_age_ms: None,
        diverged: false,
        pledged_term: None,
        rest: None,
        permit_left_ms: None,
        work: None,
        terminating: false,
        disk_free: None,
        disk_total: None,
    }
}

/// What a guard said, `age` milliseconds ago.
fn fill_guard(shown: &mut MemberView, status: &Status, age: u64, record: Option<&Record>) {
    shown.role = role_of(Some(status));
    shown.server = server_words(&status.server);
    shown.follows.clone_from(&status.following);
    shown.pledged_term = status.pledge.as_ref().map(|pledge| pledge.term);
    shown.rest = status.rest.as_ref().map(|rest| rest.position);
    // On the clock of that guard's own machine, so only against its own word.
    let left = |deadline: u64| deadline.saturating_sub(status.now_boot_ms).saturating_sub(age);
    shown.permit_left_ms = status.permit.map(|permit| left(permit.deadline_boot_ms));
    shown.work = status.operation.as_ref().map(|work| Work {
        kind: work.kind.clone(),
        bytes_done: work.bytes_done,
        bytes_total: work.bytes_total,
    });
    shown.disk_free = Some(status.disk_free);
    shown.disk_total = Some(status.disk_total);
    shown.diverged = record
        .zip(shown.rest)
        .is_some_and(|(record, rest)| !history::is_on_primary_history(record, rest));
}

fn fill_server(shown: &mut MemberView, server: Option<&ServerView>) {
    match server {
        Some(ServerView::Primary { insert, timeline, .. }) => {
            shown.lsn = Some(*insert);
            shown.timeline = Some(*timeline);
            // Whom it followed before.
            shown.follows = None;
        }
        Some(ServerView::Standby {
            receive,
            replay,
            streaming,
            timeline,
        }) => {
            shown.lsn = (*receive).max(*replay);
            shown.timeline = *timeline;
            shown.streams = Some(*streaming);
        }
        _ => {}
    }
}

fn endpoint(address: &Address) -> String {
    let (ip, port) = (&address.ip, address.sidecar_port);
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn recorded(record: &Record) -> Recorded {
    let set = record.current_set();
    Recorded {
        durability: match record.durability {
            Durability::Sync => "sync",
            Durability::Async => "async",
        }
        .to_owned(),
        availability: match record.availability {
            Availability::Available => "available",
            Availability::Strict => "strict",
        }
        .to_owned(),
        primary: record.primary.as_ref().map(|primary| primary.member.clone()),
        term: record.term,
        timeline: record.timeline,
        k: set.k,
        standbys: set.standbys.into_iter().map(|standby| standby.member).collect(),
        former_sets: record.sync_sets.len().saturating_sub(1),
        paused: record.paused,
        step: record.step.as_ref().map(ToString::to_string),
        never_initialised: record.is_never_initialised(),
    }
}

fn in_force(settings: &SidecarSettings) -> Vec<Setting> {
    let core = &settings.core;
    let ms = |millis: Millis| format!("{} ms", millis.0);
    let all = [
        ("lease", settings.lease.clone()),
        ("service", settings.service.clone()),
        ("lease-duration", ms(core.lease_duration)),
        ("permit", ms(core.permit)),
        ("renew-interval", ms(core.renew_interval)),
        ("health-timeout", ms(core.health_timeout)),
        ("standby-timeout", ms(core.standby_timeout)),
        ("silence-timeout", ms(core.silence_timeout)),
        ("sync-standbys", core.sync_standbys.to_string()),
        ("maximum-lag", format!("{} bytes", core.maximum_lag)),
        ("maximum-read-lag", format!("{} bytes", settings.maximum_read_lag)),
        ("patch-env", on_or_off(settings.patch_env)),
        ("replace-data", on_or_off(settings.replace_data)),
    ];
    let setting = |(name, value)| Setting { name, value };
    all.into_iter().map(setting).collect()
}

fn on_or_off(is_on: bool) -> String {
    if is_on { "on" } else { "off" }.to_owned()
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
