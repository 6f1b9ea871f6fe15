//! Asynchronous durability: how much a takeover would lose, and whether that is allowed (DESIGN.md section 5, expiry).

use super::history::{self, Order};
use super::proof::{self, NoProof, Pledges, Proof};
use super::record::{Record, Step};
use super::types::{Millis, Position, Term};

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of WAL that may be missing.
    pub maximum_lag: u64,
    /// How old the leader's last look at its own WAL may have been when it last renewed.
    pub maximum_age: Millis,
}

/// Judges a candidate in asynchronous durability that is on the recorded history and holds `own`. Where the old primary rests is
/// exact and comes first; else its last word in the record counts, which says nothing when it was old by then.
///
/// # Errors
/// By how much too much is missing, or that this is not known.
pub fn judge(
    record: &Record,
    term: Term,
    own: Position,
    pledges: &Pledges,
    limits: Limits,
) -> Result<Proof, NoProof> {
    if let Some(rest) = proof::rest_of_primary(record, term, pledges) {
        if history::compare(record, rest, own) == Order::Within {
            return Ok(Proof::AtRest { rest });
        }
        // Who steps down on purpose waits for its standbys: nothing needs to be lost, so nothing may be.
        let planned = matches!(&record.step, Some(Step::Handover { planned: true, .. }));
        let maximum = if planned { 0 } else { limits.maximum_lag };
        let lag = rest.last_record.0.saturating_sub(own.last_record.0);
        return if planned || lag > maximum {
            Err(NoProof::TooFarBehind { lag, maximum })
        } else {
            Ok(Proof::NotNeeded)
        };
    }
    let Some(wal) = record.leader_wal else {
        return Err(NoProof::LagUnknown { age_ms: None });
    };
    if wal.age_ms > limits.maximum_age.0 {
        return Err(NoProof::LagUnknown {
            age_ms: Some(wal.age_ms),
        });
    }
    let (lag, maximum) = (wal.lsn.0.saturating_sub(own.last_record.0), limits.maximum_lag);
    if lag > maximum {
        Err(NoProof::TooFarBehind { lag, maximum })
    } else {
        Ok(Proof::NotNeeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{Availability, Durability, LeaderWal, Member, Rest};
    use crate::core::types::{Address, DataId, Lsn, Timeline};

    const LIMITS: Limits = Limits {
        maximum_lag: 100,
        maximum_age: Millis(4_000),
    };

    fn at(lsn: u64) -> Position {
        Position {
            timeline: Timeline(1),
            last_record: Lsn(lsn),
        }
    }

    fn record(leader_wal: Option<(u64, u64)>, rest: Option<u64>, planned: bool) -> Record {
        let primary = Member {
            member: "m1".parse().unwrap(),
            data_id: DataId::from_random([1; 8]),
            address: Address {
                ip: "127.0.0.1".into(),
                postgres_port: 1,
                sidecar_port: 2,
            },
        };
        let mut record = Record::never_initialised(Durability::Async, Availability::Available);
        record.term = Term(4);
        record.timeline = Some(Timeline(1));
        record.rest = rest.map(|lsn| Rest {
            term: Term(4),
            data: primary.data(),
            position: at(lsn),
        });
        record.primary = Some(primary);
        record.leader_wal = leader_wal.map(|(lsn, age_ms)| LeaderWal {
            lsn: Lsn(lsn),
            at_unix_ms: 0,
            age_ms,
        });
        record.step = Some(Step::Handover {
            from: "m1".parse().unwrap(),
            to: "m2".parse().unwrap(),
            why: String::new(),
            planned,
        });
        record
    }

    #[test]
    fn the_leaders_last_word_counts_while_it_is_young_enough() {
        let judged = |wal, own| {
            judge(
                &record(wal, None, false),
                Term(5),
                at(own),
                &Pledges::new(),
                LIMITS,
            )
        };
        assert_eq!(judged(Some((1_000, 500)), 900), Ok(Proof::NotNeeded));
        let behind = NoProof::TooFarBehind {
            lag: 101,
            maximum: 100,
        };
        assert_eq!(judged(Some((1_000, 500)), 899), Err(behind));
        let old = NoProof::LagUnknown { age_ms: Some(4_001) };
        assert_eq!(judged(Some((1_000, 4_001)), 1_000), Err(old));
        assert_eq!(judged(None, 1_000), Err(NoProof::LagUnknown { age_ms: None }));
    }

    #[test]
    fn where_the_old_primary_rests_comes_before_its_last_word() {
        let judged = |planned, own| {
            let record = record(Some((500, 0)), Some(1_000), planned);
            judge(&record, Term(5), at(own), &Pledges::new(), LIMITS)
        };
        for planned in [false, true] {
            assert_eq!(judged(planned, 1_000), Ok(Proof::AtRest { rest: at(1_000) }));
        }
        assert_eq!(judged(false, 900), Ok(Proof::NotNeeded));
        let behind = |lag, maximum| Err(NoProof::TooFarBehind { lag, maximum });
        assert_eq!(judged(false, 899), behind(101, 100));
        assert_eq!(judged(true, 999), behind(1, 0));
    }
}
