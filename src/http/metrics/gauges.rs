//! What is so at the moment. A value that is not known is not a number: no rule fires by it.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{Obstacle, ObstacleLabel, RoleLabel};
use crate::core::probe::{PrimaryView, Probe};
use crate::core::record::{Durability, Record};
use crate::http::status::{GuardView, Role, StatusPage};

type Float = Gauge<f64, AtomicU64>;

/// The gauges with their names, units and meanings.
macro_rules! gauges {
    ($($field:ident: $kind:ty, $name:literal, $unit:expr, $help:literal;)*) => {
        /// The gauges. Clones share values.
        #[derive(Debug, Clone, Default)]
        pub(super) struct Gauges {
            $($field: $kind,)*
        }

        impl Gauges {
            pub(super) fn register(&self, registry: &mut Registry) {
                $(match $unit {
                    None => registry.register($name, $help, self.$field.clone()),
                    Some(unit) => registry.register_with_unit($name, $help, unit, self.$field.clone()),
                })*
            }
        }
    };
}

const PLAIN: Option<Unit> = None;
const SECONDS: Option<Unit> = Some(Unit::Seconds);
const BYTES: Option<Unit> = Some(Unit::Bytes);

gauges! {
    role: Family<RoleLabel, Gauge>, "role", PLAIN, "1 for what this member is, 0 for the other roles";
    term: Gauge, "term", PLAIN, "Highest term known";
    lease_age: Float, "lease_age", SECONDS, "Since the Lease was last seen to change";
    lease_duration: Float, "lease_duration", SECONDS, "The Lease's length: unchanged for longer, it has run out";
    contact_age: Float, "api_contact_age", SECONDS, "Since the API server last answered";
    permit_left: Float, "permit_remaining", SECONDS, "What is left of the permit, 0 without one";
    could_fail_over: Gauge, "failover_possible", PLAIN, "1 when a takeover would succeed now, by the leader's word";
    obstacles: Family<ObstacleLabel, Gauge>, "failover_obstacle", PLAIN, "1 for why a takeover would not succeed now; all 0 when it would";
    paused: Gauge, "paused", PLAIN, "1 while takeovers are paused";
    durability: Gauge, "durability_sync", PLAIN, "1 when the recorded durability is sync, 0 when it is async or not known";
    sync_standbys: Gauge, "sync_standbys", PLAIN, "Standbys of the sync set in force, by the record";
    sync_required: Gauge, "sync_standbys_required", PLAIN, "How many of them a commit waits for";
    sync_sets: Gauge, "sync_sets", PLAIN, "Sync sets in the record: a takeover must prove each";
    sync_member: Gauge, "sync_member", PLAIN, "1 when this member is a standby of the sync set in force";
    up: Gauge, "postgres_up", PLAIN, "1 when the server answered the last probe";
    diverged: Gauge, "postgres_diverged", PLAIN, "1 when the server's history has diverged";
    timeline: Gauge, "postgres_timeline", PLAIN, "Timeline of the server, 0 when not known";
    standbys: Gauge, "standbys_streaming", PLAIN, "Standbys that stream from this server";
    streaming: Gauge, "replication_streaming", PLAIN, "1 when the server here is a standby that streams";
    lag: Float, "replication_lag", BYTES, "WAL that this member lacks";
    lag_time: Float, "replication_lag", SECONDS, "Age of the last commit replayed while something received is not replayed yet; not known while it does not stream";
    archive_failing: Gauge, "archive_failing", PLAIN, "1 on a primary whose last attempt to archive failed";
    slot_retained: Float, "slot_retained", BYTES, "On a primary: most WAL that one slot keeps which nobody reads";
    slots_idle: Gauge, "slots_idle", PLAIN, "On a primary: slots that nobody reads";
    slots_lost: Gauge, "slots_lost", PLAIN, "On a primary: slots whose WAL is gone";
    disk_free: Float, "disk_free", BYTES, "Free space on the file system of PGDATA";
    disk_size: Float, "disk_size", BYTES, "Size of the file system of PGDATA";
    operation_done: Float, "operation_done", BYTES, "What the guard's initdb, clone or rewind has done; 0 without one";
    operation_size: Float, "operation_size", BYTES, "What it has to do, where known";
    operation_age: Float, "operation_running", SECONDS, "Since it began; 0 without one";
    unguarded: Gauge, "unguarded_servers", PLAIN, "Servers at members' addresses that no guard holds";
    foreign: Gauge, "foreign_primaries", PLAIN, "Those of them that take writes";
    clock_apart: Float, "clock_apart", SECONDS, "How far another member's wall clock is from this one's, 0 within 30 s";
    warnings: Gauge, "warnings", PLAIN, "Warnings on the status page";
    missing_rights: Gauge, "missing_rights", PLAIN, "Rights on the API server that this member needs and lacks, -1 when not known";
    version: Gauge, "version_number", PLAIN, "The version as one number, so that rules can compare: 1000000 for the major one, 1000 for the minor one, 1 for the patch";
}

impl Gauges {
    /// Before the first decision.
    pub(super) fn begin(&self) {
        self.show_role(Role::Unknown);
        self.show_obstacle(Some(Obstacle::lease_not_seen));
        self.version.set(version_number(env!("CARGO_PKG_VERSION")));
    }

    pub(super) fn show(&self, page: &StatusPage) {
        self.show_role(page.role);
        self.term.set(saturated(page.term.0));
        self.lease_age.set(seconds(page.lease.age_ms));
        self.lease_duration.set(seconds(Some(page.lease.duration_ms)));
        self.contact_age.set(seconds(page.lease.contact_age_ms));
        self.show_guard(page.guard.as_ref());
        self.show_record(page);
        self.show_obstacle(obstacle(page));
        self.up.set(i64::from(page.postgres.answers));
        self.diverged.set(i64::from(page.postgres.diverged));
        self.timeline
            .set(page.postgres.timeline.map_or(0, |t| i64::from(t.0)));
        self.lag.set(known(page.postgres.lag_bytes));
        let streaming = page
            .postgres
            .replication
            .iter()
            .filter(|r| r.state == "streaming");
        self.standbys.set(count(streaming.count()));
        self.warnings.set(count(page.warnings.len()));
        self.missing_rights.set(page.rights.count().map_or(-1, saturated));
    }

    fn show_guard(&self, guard: Option<&GuardView>) {
        self.permit_left
            .set(seconds(Some(guard.and_then(|g| g.permit_left_ms).unwrap_or(0))));
        self.disk_free.set(known(guard.map(|g| g.disk_free_bytes)));
        self.disk_size.set(known(guard.map(|g| g.disk_total_bytes)));
        let operation = guard.and_then(|g| g.operation.as_ref());
        self.operation_done
            .set(known(Some(operation.map_or(0, |o| o.bytes_done))));
        let size = operation.map_or(Some(0), |o| o.bytes_total);
        self.operation_size.set(known(size));
        self.operation_age
            .set(seconds(Some(operation.map_or(0, |o| o.running_ms))));
    }

    fn show_record(&self, page: &StatusPage) {
        let record = page.record.as_ref();
        let says = |it: fn(&Record) -> bool| i64::from(record.is_some_and(it));
        self.paused.set(says(|r| r.paused));
        self.durability.set(says(|r| r.durability == Durability::Sync));
        let set = record.map(Record::current_set);
        let standbys = set.as_ref().map_or(0, |s| s.standbys.len());
        self.sync_standbys.set(count(standbys));
        self.sync_required.set(set.as_ref().map_or(0, |s| i64::from(s.k)));
        self.sync_sets.set(count(record.map_or(0, |r| r.sync_sets.len())));
        let own = |s: &crate::core::record::SyncSet| s.standbys.iter().any(|m| m.member == page.member);
        self.sync_member.set(i64::from(set.as_ref().is_some_and(own)));
    }

    fn show_role(&self, is: Role) {
        for role in Role::ALL {
            let label = RoleLabel { role: role.as_str() };
            self.role.get_or_create(&label).set(i64::from(role == is));
        }
    }

    fn show_obstacle(&self, found: Option<Obstacle>) {
        self.could_fail_over.set(i64::from(found.is_none()));
        for &reason in Obstacle::ALL {
            let label = ObstacleLabel { reason };
            let is_it = i64::from(found == Some(reason));
            self.obstacles.get_or_create(&label).set(is_it);
        }
    }

    pub(super) fn show_server(&self, probe: Option<&Probe>) {
        let (standby, primary) = match probe {
            Some(Probe::Standby(view)) => (Some(view), None),
            Some(Probe::Primary(view)) => (None, Some(view)),
            _ => (None, None),
        };
        let streams = standby
            .and_then(|s| s.receiver.as_ref())
            .is_some_and(|r| r.status == "streaming");
        self.streaming.set(i64::from(streams));
        let standby_lag = standby.filter(|_| streams).and_then(|s| s.lag_ms);
        let lag_ms = primary.map(|_| 0).or(standby_lag);
        self.lag_time
            .set(seconds(lag_ms.map(|ms| u64::try_from(ms).unwrap_or(0))));
        self.show_primary(primary);
    }

    fn show_primary(&self, primary: Option<&PrimaryView>) {
        let failing = primary.is_some_and(|p| p.archive.failing());
        self.archive_failing.set(i64::from(failing));
        let slots = primary.map_or(&[][..], |p| &p.slots);
        let idle = || slots.iter().filter(|s| !s.active && !s.is_lost());
        let most = idle().filter_map(|s| s.retained_bytes).max().unwrap_or(0);
        self.slot_retained
            .set(known(Some(u64::try_from(most).unwrap_or(0))));
        self.slots_idle.set(count(idle().count()));
        self.slots_lost
            .set(count(slots.iter().filter(|s| s.is_lost()).count()));
    }

    pub(super) fn show_unguarded(&self, servers: usize, primaries: usize) {
        self.unguarded.set(count(servers));
        self.foreign.set(count(primaries));
    }

    pub(super) fn show_clocks(&self, apart_ms: u64) {
        self.clock_apart.set(seconds(Some(apart_ms)));
    }
}

/// Why a takeover would not succeed now; none: it would. For each member's own reasons there are too many words for a label: the page has
/// them.
fn obstacle(page: &StatusPage) -> Option<Obstacle> {
    let told = &page.could_fail_over;
    let Some(record) = &page.record else {
        let seen = page.lease.age_ms.is_some();
        return Some(if seen {
            Obstacle::no_record
        } else {
            Obstacle::lease_not_seen
        });
    };
    if record.paused {
        return Some(Obstacle::paused);
    }
    // An old word says nothing of now.
    if told.stale {
        return Some(Obstacle::no_word);
    }
    if told.answer.yes {
        return None;
    }
    let me = format!("{}_{}", page.member, page.pod_uid);
    Some(match &told.told_by {
        None if page.lease.holder.as_ref() != Some(&me) => Obstacle::leader_gone,
        _ if record.members.len() < 2 => Obstacle::no_other_member,
        _ => Obstacle::no_fit_member,
    })
}

/// 0 for what is no version of three numbers.
fn version_number(version: &str) -> i64 {
    let mut parts = version
        .split(['.', '-', '+'])
        .map(|part| part.parse::<i64>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    next() * 1_000_000 + next() * 1_000 + next()
}

fn count(value: usize) -> i64 {
    saturated(value as u64)
}

fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Not a number when not known. Beyond 8 PiB a byte may be missing.
#[expect(clippy::cast_precision_loss, reason = "it is shown, not counted with")]
fn known(value: Option<u64>) -> f64 {
    value.map_or(f64::NAN, |value| value as f64)
}

/// Milliseconds as seconds; not a number when not known.
fn seconds(ms: Option<u64>) -> f64 {
    ms.map_or(f64::NAN, |ms| std::time::Duration::from_millis(ms).as_secs_f64())
}

#[cfg(test)]
#[path = "gauges_tests.rs"]
mod tests;
