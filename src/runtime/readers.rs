//! Which standbys nobody should be sent to for reading (`postgres-ro`), judged by the leader with some memory: a label that flaps
//! would cut readers off again and again.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::observe::Observation;
use crate::core::probe::{Probe, Replication};
use crate::core::record::Record;
use crate::core::types::{MemberName, Millis};

/// A standby may be away this long: its connection is ended when sync sets change, and comes back at once.
const AWAY: Millis = Millis(2_000);

/// The memory.
#[derive(Debug, Default)]
pub struct Readers {
    unfit: BTreeSet<MemberName>,
    away_since: BTreeMap<MemberName, Millis>,
}

impl Readers {
    /// Forgets everything: this member does not lead.
    pub fn clear(&mut self) {
        self.unfit.clear();
        self.away_since.clear();
    }

    /// The members that are not for reading now, by this server's own view of its standbys. A standby that lacks more than
    /// `maximum_lag` bytes stays out until it lacks less than half of that.
    pub fn unfit(
        &mut self,
        me: &MemberName,
        record: &Record,
        seen: &Observation,
        probe: Option<&Probe>,
        maximum_lag: u64,
    ) -> Vec<MemberName> {
        let others: BTreeSet<&MemberName> = record
            .members
            .iter()
            .map(|m| &m.member)
            .filter(|m| *m != me)
            .collect();
        self.unfit.retain(|m| others.contains(m));
        self.away_since.retain(|m, _| others.contains(m));
        // Without a look at the own server nothing new is known of the others.
        if let Some(Probe::Primary(view)) = probe {
            for member in record.members.iter().filter(|m| m.member != *me) {
                let name = member.data().standby_name();
                let streams =
                    |r: &&Replication| r.application_name == name && r.state.as_deref() == Some("streaming");
                let rebuilt = seen.peers.get(&member.member).is_some_and(|peer| {
                    let guard = peer.value.guard.as_ref();
                    guard.is_some_and(|g| g.operation.is_some())
                });
                let replayed = view.replication.iter().find(streams).map(|r| r.replay_lsn);
                match replayed {
                    _ if rebuilt => {
                        self.unfit.insert(member.member.clone());
                    }
                    None => self.away(&member.member, seen.now),
                    Some(replayed) => {
                        self.away_since.remove(&member.member);
                        // One that has replayed more than was flushed here is on another history.
                        let lag = replayed
                            .filter(|at| *at <= view.flush_lsn)
                            .map_or(u64::MAX, |at| view.insert_lsn.0.saturating_sub(at.0));
                        if lag > maximum_lag {
                            self.unfit.insert(member.member.clone());
                        } else if lag <= maximum_lag / 2 {
                            self.unfit.remove(&member.member);
                        }
                    }
                }
            }
        }
        self.unfit.iter().cloned().collect()
    }

    fn away(&mut self, member: &MemberName, now: Millis) {
        let since = *self.away_since.entry(member.clone()).or_insert(now);
        if now.since(since) >= AWAY {
            self.unfit.insert(member.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::Lsn;
    use crate::guard::protocol::{Operation, Server};
    use crate::runtime::fixtures::{NOW, heard, lease, member, name, record, seen, standby};

    const LIMIT: u64 = 1_000;
    const HERE: u64 = 100_000;

    /// This server's look: these members stream, each so many bytes behind in replay.
    fn look(lags: &[(u8, u64)]) -> Probe {
        let row = |(number, lag): &(u8, u64)| {
            serde_json::json!({
                "pid": 1, "backend_start_us": 1, "application_name": member(*number).data().standby_name(),
                "client_addr": null, "state": "streaming", "sync_state": "quorum", "sync_priority": 1,
                "sent_lsn": null, "write_lsn": null, "flush_lsn": Lsn(HERE), "replay_lsn": Lsn(HERE - lag),
                "reply_age_ms": 1,
            })
        };
        let rows: Vec<_> = lags.iter().map(row).collect();
        serde_json::from_value(serde_json::json!({
            "is": "primary", "system_identifier": crate::runtime::fixtures::CLUSTER, "server_version_num": 150_000,
            "timeline": 1, "postmaster_start_unix_ms": 1, "warnings": [], "fresh": true, "insert_lsn": Lsn(HERE),
            "flush_lsn": Lsn(HERE), "names": "", "replication": rows, "slots": [],
            "archive": { "on": false, "failed_count": 0, "last_failed_wal": null, "last_failed_unix_ms": null,
                "last_archived_unix_ms": null },
            "health_write_ms": 1, "read_only": false,
        }))
        .unwrap()
    }

    fn unfit(readers: &mut Readers, at: u64, probe: &Probe) -> Vec<MemberName> {
        let mut view = seen(1, Server::Primary, lease(record(3)));
        view.now = NOW.plus(Millis(at));
        readers.unfit(&name(1), &record(3), &view, Some(probe), LIMIT)
    }

    #[test]
    fn a_standby_that_lags_is_out_until_it_has_caught_up_well() {
        let mut readers = Readers::default();
        assert!(unfit(&mut readers, 0, &look(&[(2, 0), (3, 1_000)])).is_empty());
        assert_eq!(unfit(&mut readers, 1, &look(&[(2, 0), (3, 1_001)])), [name(3)]);
        assert_eq!(unfit(&mut readers, 2, &look(&[(2, 0), (3, 501)])), [name(3)]);
        assert!(unfit(&mut readers, 3, &look(&[(2, 0), (3, 500)])).is_empty());
    }

    #[test]
    fn a_standby_that_does_not_stream_is_out_after_a_moment_and_back_at_once() {
        let mut readers = Readers::default();
        assert!(unfit(&mut readers, 0, &look(&[(2, 0)])).is_empty());
        assert!(unfit(&mut readers, 1_999, &look(&[(2, 0)])).is_empty());
        assert_eq!(unfit(&mut readers, 2_000, &look(&[(2, 0)])), [name(3)]);
        // A look that failed says nothing new.
        let hung = Probe::Hung { after_ms: 1 };
        assert_eq!(unfit(&mut readers, 2_001, &hung), [name(3)]);
        assert!(unfit(&mut readers, 2_002, &look(&[(2, 0), (3, 0)])).is_empty());
    }

    #[test]
    fn a_standby_on_another_history_or_being_rebuilt_is_out_at_once() {
        let mut readers = Readers::default();
        let mut ahead = look(&[(2, 0), (3, 0)]);
        if let Probe::Primary(view) = &mut ahead {
            view.replication[0].replay_lsn = Some(Lsn(HERE + 1));
        }
        assert_eq!(unfit(&mut readers, 0, &ahead), [name(2)]);
        let mut readers = Readers::default();
        let mut view = seen(1, Server::Primary, lease(record(3)));
        let mut report = standby(3);
        report.guard.as_mut().unwrap().operation = Some(Operation {
            kind: "clone".into(),
            sequence: 1,
            bytes_done: 0,
            bytes_total: None,
            running_ms: 1,
        });
        view.peers.insert(name(3), heard(report));
        let probe = look(&[(2, 0), (3, 0)]);
        let out = readers.unfit(&name(1), &record(3), &view, Some(&probe), LIMIT);
        assert_eq!(out, [name(3)]);
        // Gone from the record, gone from here.
        let out = readers.unfit(&name(1), &record(2), &view, Some(&probe), LIMIT);
        assert!(out.is_empty());
    }
}
