//! The leader's sync sets: recorded before used, former ones released only when they cannot matter any more (invariant 6).

use std::collections::BTreeSet;

use super::{Chosen, Mind};
use crate::core::action::{GuardOrder, SqlJob, SwapKind};
use crate::core::in_force::{self, InForce, NamesChange};
use crate::core::observe::{ReplicationRow, SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::record::{Availability, Durability, Record, SyncSet};
use crate::core::state::Settling;
use crate::core::types::{Lsn, MemberData, Millis};
use crate::core::why::Why;
use crate::guard::protocol::Status;

/// The primary as its fresh connection showed it.
struct Shown<'a> {
    insert: Lsn,
    names: &'a str,
    rows: &'a [ReplicationRow],
}

impl Mind<'_> {
    /// None: nothing to change.
    pub(super) fn keep_sets(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Option<Chosen> {
        if self.state.sets_term != Some(lease.term) {
            self.state.sets_term = Some(lease.term);
            self.state.settling = None;
            self.state.away_since.clear();
        }
        let view = self.server_fresh();
        let Some(ServerView::Primary { rows, .. }) = view else {
            return None;
        };
        let current = record.current_set();
        let wanted = self.wanted_set(record, rows);
        if wanted != current {
            let to = wanted.names();
            let mut next = self.renewed(record);
            next.change_sync_set(wanted);
            self.swap(lease, SwapKind::Renew, next);
            self.state.settling = None;
            return Some(changing(to, "the record"));
        }
        if guard.synchronous_standby_names != current.names() {
            // Other names were in force: what a former turn to the same set reached counts no more.
            self.state.settling = None;
            self.order(
                lease.term,
                GuardOrder::SetNames {
                    names: current.names(),
                },
            );
            return Some(changing(current.names(), "the guard"));
        }
        if record.sync_sets.len() <= 1 {
            self.state.settling = None;
            return None;
        }
        self.probe_every = Millis(100);
        self.wake_in(Millis(100));
        let waiting_for = self.settle(lease, record, &current);
        Some(changing(current.names(), &waiting_for))
    }

    fn wanted_set(&mut self, record: &Record, rows: &[ReplicationRow]) -> SyncSet {
        if record.durability == Durability::Async {
            return SyncSet::empty();
        }
        let current = record.current_set();
        let timeout = self.settings.standby_timeout;
        let now = self.now();
        self.note_replies(rows);
        let replies = &self.state.replies;
        let here = |data: &MemberData| {
            let name = data.standby_name();
            rows.iter().any(|r| {
                let silent_since = replies.get(&r.pid).map_or(now, |(_, since)| *since);
                r.name == name && r.streaming && r.flush.is_some() && now.since(silent_since) < timeout
            })
        };
        let members = || record.members.iter().map(crate::core::record::Member::data);
        let present: BTreeSet<MemberData> = members().filter(here).collect();
        let mut standbys = BTreeSet::new();
        for data in members() {
            if data.member == self.settings.me {
                continue;
            }
            if present.contains(&data) {
                self.state.away_since.remove(&data);
                standbys.insert(data);
            } else if current.standbys.contains(&data) {
                let since = *self.state.away_since.entry(data.clone()).or_insert(now);
                if now.since(since) < timeout {
                    standbys.insert(data);
                }
            }
        }
        self.state
            .away_since
            .retain(|data, _| current.standbys.contains(data));
        if standbys.is_empty() {
            let keep = record.availability == Availability::Strict && current.k > 0;
            return if keep { current } else { SyncSet::empty() };
        }
        let k = self
            .settings
            .sync_standbys
            .max(1)
            .min(u32::try_from(standbys.len()).unwrap_or(u32::MAX));
        SyncSet { k, standbys }
    }

    /// A standby's clock says nothing here: its silence is counted from when its last answer was first seen.
    fn note_replies(&mut self, rows: &[ReplicationRow]) {
        let before = std::mem::take(&mut self.state.replies);
        let now = self.now();
        let noted = |row: &ReplicationRow| match before.get(&row.pid) {
            Some(known) if known.0 == row.replied_at_ms && known.0.is_some() => (row.pid, *known),
            _ => (row.pid, (row.replied_at_ms, now)),
        };
        self.state.replies = rows.iter().map(noted).collect();
    }

    /// One step towards releasing the former sets; says what it waits for.
    fn settle(&mut self, lease: &SeenLease, record: &Record, current: &SyncSet) -> String {
        let now = self.now();
        let settling = self
            .state
            .settling
            .take()
            .filter(|s| s.set == *current)
            .unwrap_or_else(|| Settling {
                set: current.clone(),
                since: now,
                ordered: false,
                ended: None,
                checkpointed: false,
                in_force: false,
                position: None,
            });
        let since = settling.since;
        self.state.settling = Some(settling.clone());
        let Some(ServerView::Primary {
            insert, names, rows, ..
        }) = self.server_since(since)
        else {
            return "a fresh look at the server".to_owned();
        };
        let shown = Shown {
            insert: *insert,
            names,
            rows,
        };
        if let Some(waiting_for) = self.bring_into_force(record, current, &settling, &shown) {
            return waiting_for;
        }
        if !settling.in_force {
            // That look read its position before its walsenders: commits between the two may have been acknowledged by the
            // old names. The position must be of a look that began later.
            if let Some(settling) = &mut self.state.settling {
                settling.in_force = true;
                settling.since = now;
            }
            return "the primary's position".to_owned();
        }
        let Some(position) = settling.position else {
            if let Some(settling) = &mut self.state.settling {
                settling.position = Some(shown.insert);
                settling.since = now;
            }
            return "the standbys".to_owned();
        };
        let flushed = |data: &MemberData| {
            let name = data.standby_name();
            shown
                .rows
                .iter()
                .any(|r| r.name == name && r.flush.is_some_and(|f| f >= position))
        };
        let have = current.standbys.iter().filter(|s| flushed(s)).count();
        if have < current.k as usize {
            return format!("{} of its standbys to flush {position}", current.k);
        }
        let mut next = self.renewed(record);
        next.sync_sets = vec![current.clone()];
        self.swap(lease, SwapKind::Renew, next);
        "the record".to_owned()
    }

    /// Invariant 6, in force; none: it is.
    fn bring_into_force(
        &mut self,
        record: &Record,
        current: &SyncSet,
        settling: &Settling,
        shown: &Shown<'_>,
    ) -> Option<String> {
        let judged = |change: &NamesChange| in_force::judge(current, shown.names, shown.rows, change);
        let formers = || record.sync_sets.iter().skip(1);
        let raised = formers().any(|s| s.k < current.k);
        if raised && settling.ended.is_none() && judged(&NamesChange::default()) == InForce::Yes {
            let pids = shown.rows.iter().map(|r| r.pid).collect();
            self.settle_by(SqlJob::EndWalsenders { pids });
            return Some("every walsender to start anew".to_owned());
        }
        let from_empty = current.k > 0 && formers().any(|s| s.k == 0);
        let judged = judged(&NamesChange {
            must_end: settling.ended.iter().flatten().copied().collect(),
            checkpoint_due: from_empty && !settling.checkpointed,
        });
        if judged == InForce::CheckpointDue {
            self.settle_by(SqlJob::Checkpoint);
        }
        (judged != InForce::Yes).then(|| judged.to_string())
    }

    fn settle_by(&mut self, job: SqlJob) {
        if self.sql(job)
            && let Some(settling) = &mut self.state.settling
        {
            settling.ordered = true;
        }
    }
}

fn changing(to: String, waiting_for: &str) -> Chosen {
    (
        Phase::Leading,
        Why::ChangingSyncSet {
            to,
            waiting_for: waiting_for.to_owned(),
        },
    )
}
