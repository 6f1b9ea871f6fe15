//! Proof that a member may be promoted (invariant 4). The one place where it is decided.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::history::{self, Order};
use super::record::{Durability, Record, SyncSet};
use super::types::{MemberData, Position, Term};

/// Pledges to one term, with the WAL that each giver holds (none: not read yet, or not readable).
pub type Pledges = BTreeMap<MemberData, Option<Position>>;

/// Why a promotion is safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Proof {
    /// It is the recorded primary itself.
    RecordedPrimary,
    /// It holds all WAL up to where the recorded primary was found at rest.
    AtRest {
        /// Where that was.
        rest: Position,
    },
    /// Of every recorded sync set enough have pledged, and none of them holds more.
    Quorums,
    /// Asynchronous durability asks for none.
    NotNeeded,
    /// A person waived it (`pgbaton failover --accept-data-loss`).
    Waived,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NoProof {
    /// The candidate has not pledged itself, or its WAL is not read yet.
    CandidateNotPledged,
    /// The candidate is not on the recorded history.
    CandidateDiverged,
    /// The set in force was empty: only the recorded primary's own data will do.
    EmptySet,
    /// Too few of a set have pledged.
    TooFew {
        /// The set.
        set: SyncSet,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        have: usize,
    },
    /// Another one holds more.
    Behind {
        /// Who.
        ahead: MemberData,
    },
    /// Asynchronous durability: more would be lost than the settings allow.
    TooFarBehind {
        /// By how much, in bytes.
        lag: u64,
        /// What is allowed.
        maximum: u64,
    },
    /// Asynchronous durability: how far the primary was is not known well enough.
    LagUnknown {
        /// How old its last word on that was when it was written, milliseconds; none: it never gave one.
        age_ms: Option<u64>,
    },
    /// There is proof, and this member's server did not get ready to be promoted.
    ServerNotReady,
}

/// Judges whether `candidate` may be promoted in `term`.
///
/// # Errors
/// What is missing.
pub fn judge(
    record: &Record,
    term: Term,
    candidate: &MemberData,
    pledges: &Pledges,
) -> Result<Proof, NoProof> {
    if record.primary.as_ref().is_some_and(|p| p.data() == *candidate) {
        return Ok(Proof::RecordedPrimary);
    }
    let own = pledges
        .get(candidate)
        .copied()
        .flatten()
        .ok_or(NoProof::CandidateNotPledged)?;
    if !history::is_recorded(record, own.timeline) {
        return Err(NoProof::CandidateDiverged);
    }
    if record.durability == Durability::Async {
        // Without quorums nothing else keeps a branch that was left behind from being taken for the cluster's.
        if !history::is_on_primary_history(record, own) {
            return Err(NoProof::CandidateDiverged);
        }
        return Ok(Proof::NotNeeded);
    }
    if let Some(rest) = rest_of_primary(record, term, pledges)
        && history::compare(record, rest, own) == Order::Within
    {
        return Ok(Proof::AtRest { rest });
    }
    if record.sync_sets.is_empty() {
        return Err(NoProof::EmptySet);
    }
    for set in &record.sync_sets {
        judge_set(record, set, candidate, own, pledges)?;
    }
    Ok(Proof::Quorums)
}

/// The recorded primary's end of WAL, as invariant 4 (a) knows it: by its guard, pledged to this very term; or by its own swap after giving up its permit.
#[must_use]
pub fn rest_of_primary(record: &Record, term: Term, pledges: &Pledges) -> Option<Position> {
    let primary = record.primary.as_ref()?.data();
    if let Some(pledged) = pledges.get(&primary) {
        return *pledged;
    }
    // A rest position of an older term than the recorded one belongs to a life before the server was continued.
    record
        .rest
        .as_ref()
        .filter(|r| r.data == primary && r.term >= record.term && r.term < term)
        .map(|r| r.position)
}

fn judge_set(
    record: &Record,
    set: &SyncSet,
    candidate: &MemberData,
    own: Position,
    pledges: &Pledges,
) -> Result<(), NoProof> {
    if set.k == 0 {
        return Err(NoProof::EmptySet);
    }
    let needed = (set.standbys.len() + 1).saturating_sub(set.k as usize);
    let mut have = 0;
    for standby in &set.standbys {
        let Some(position) = pledges.get(standby).copied().flatten() else {
            continue;
        };
        if standby == candidate {
            have += 1;
            continue;
        }
        match history::compare(record, position, own) {
            Order::Within => have += 1,
            Order::Beyond => {
                return Err(NoProof::Behind {
                    ahead: standby.clone(),
                });
            }
            // Off the recorded promotions: it does not count (invariant 5).
            Order::Diverged => {}
        }
    }
    if have >= needed {
        Ok(())
    } else {
        Err(NoProof::TooFew {
            set: set.clone(),
            needed,
            have,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{Availability, Member, Rest};
    use crate::core::types::{Address, DataId, Lsn, Timeline};

    fn data(name: &str, life: u8) -> MemberData {
        MemberData {
            member: name.parse().unwrap(),
            data_id: DataId::from_random([life; 8]),
        }
    }

    fn set(k: u32, standbys: &[&MemberData]) -> SyncSet {
        SyncSet {
            k,
            standbys: standbys.iter().map(|s| (*s).clone()).collect(),
        }
    }

    fn at(lsn: u64) -> Option<Position> {
        Some(Position {
            timeline: Timeline(1),
            last_record: Lsn(lsn),
        })
    }

    fn record(sets: Vec<SyncSet>) -> Record {
        let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
        let m1 = data("m1", 1);
        let address = Address {
            ip: "127.0.0.1".into(),
            postgres_port: 1,
            sidecar_port: 2,
        };
        record.primary = Some(Member {
            member: m1.member,
            data_id: m1.data_id,
            address,
        });
        record.timeline = Some(Timeline(1));
        record.term = Term(4);
        record.sync_sets = sets;
        record
    }

    fn pledges(list: &[(&MemberData, Option<Position>)]) -> Pledges {
        list.iter().map(|(m, p)| ((*m).clone(), *p)).collect()
    }

    const TERM: Term = Term(5);

    #[test]
    fn schedule_1_a_narrowed_set_does_not_forget_the_wider_one() {
        let (m2, m3) = (data("m2", 2), data("m3", 3));
        let r = record(vec![set(1, &[&m2]), set(1, &[&m2, &m3])]);
        let given = pledges(&[(&m2, at(150))]);
        assert!(matches!(
            judge(&r, TERM, &m2, &given),
            Err(NoProof::TooFew {
                needed: 2,
                have: 1,
                ..
            })
        ));
        let given = pledges(&[(&m2, at(150)), (&m3, at(200))]);
        assert_eq!(
            judge(&r, TERM, &m2, &given),
            Err(NoProof::Behind { ahead: m3.clone() })
        );
        assert_eq!(judge(&r, TERM, &m3, &given), Ok(Proof::Quorums));
    }

    #[test]
    fn schedules_2_and_6_an_empty_set_lets_nobody_but_the_primary_lead() {
        let m2 = data("m2", 2);
        for sets in [
            vec![],
            vec![SyncSet::empty()],
            vec![set(1, &[&m2]), SyncSet::empty()],
        ] {
            let r = record(sets);
            assert_eq!(
                judge(&r, TERM, &m2, &pledges(&[(&m2, at(200))])),
                Err(NoProof::EmptySet)
            );
            assert_eq!(
                judge(&r, TERM, &data("m1", 1), &Pledges::new()),
                Ok(Proof::RecordedPrimary)
            );
        }
    }

    #[test]
    fn schedule_3_after_raising_k_the_former_set_still_counts() {
        let (m2, m3) = (data("m2", 2), data("m3", 3));
        let r = record(vec![set(2, &[&m2, &m3]), set(1, &[&m2, &m3])]);
        let given = pledges(&[(&m2, at(150))]);
        assert!(matches!(
            judge(&r, TERM, &m2, &given),
            Err(NoProof::TooFew { .. })
        ));
    }

    #[test]
    fn schedule_9_a_pledge_of_new_data_does_not_count_for_the_old() {
        let (m2, m3) = (data("m2", 2), data("m3", 3));
        let r = record(vec![set(1, &[&m2, &m3])]);
        let given = pledges(&[(&data("m2", 99), at(0)), (&m3, at(150))]);
        assert!(matches!(
            judge(&r, TERM, &m3, &given),
            Err(NoProof::TooFew { .. })
        ));
    }

    #[test]
    fn rest_counts_only_of_the_recorded_data_and_term() {
        let (m1, m2, m3) = (data("m1", 1), data("m2", 2), data("m3", 3));
        let mut r = record(vec![set(1, &[&m2, &m3])]);
        r.rest = Some(Rest {
            term: Term(4),
            data: m1.clone(),
            position: at(180).unwrap(),
        });
        assert_eq!(
            judge(&r, TERM, &m2, &pledges(&[(&m2, at(180))])),
            Ok(Proof::AtRest {
                rest: at(180).unwrap()
            })
        );
        assert!(judge(&r, TERM, &m2, &pledges(&[(&m2, at(179))])).is_err());
        // The primary was continued in a later term: the rest position belongs to its former life (schedule 19).
        r.term = Term(5);
        assert!(judge(&r, Term(6), &m2, &pledges(&[(&m2, at(180))])).is_err());
    }

    #[test]
    fn the_pledged_primary_overrides_its_written_rest() {
        let (m1, m2, m3) = (data("m1", 1), data("m2", 2), data("m3", 3));
        let mut r = record(vec![set(1, &[&m2, &m3])]);
        r.rest = Some(Rest {
            term: Term(4),
            data: m1.clone(),
            position: at(100).unwrap(),
        });
        assert!(judge(&r, TERM, &m2, &pledges(&[(&m1, at(200)), (&m2, at(150))])).is_err());
        // Pledged, but its end of WAL could not be read: unknown, never the old value.
        assert!(judge(&r, TERM, &m2, &pledges(&[(&m1, None), (&m2, at(150))])).is_err());
    }

    #[test]
    fn the_candidate_need_not_be_in_every_set() {
        let (m2, m3, m4) = (data("m2", 2), data("m3", 3), data("m4", 4));
        let r = record(vec![set(1, &[&m2, &m3]), set(1, &[&m3])]);
        let given = pledges(&[(&m2, at(200)), (&m3, at(200))]);
        assert_eq!(judge(&r, TERM, &m2, &given), Ok(Proof::Quorums));
        let given = pledges(&[(&m4, at(300)), (&m3, at(200)), (&m2, at(100))]);
        assert_eq!(judge(&r, TERM, &m4, &given), Ok(Proof::Quorums));
    }

    #[test]
    fn a_diverged_or_unread_pledge_does_not_count() {
        let (m2, m3) = (data("m2", 2), data("m3", 3));
        let r = record(vec![set(1, &[&m2, &m3])]);
        let strange = Some(Position {
            timeline: Timeline(7),
            last_record: Lsn(1),
        });
        for theirs in [None, strange] {
            let given = pledges(&[(&m2, at(200)), (&m3, theirs)]);
            assert!(matches!(
                judge(&r, TERM, &m2, &given),
                Err(NoProof::TooFew { .. })
            ));
        }
        let given = pledges(&[(&m2, strange), (&m3, at(1))]);
        assert_eq!(judge(&r, TERM, &m2, &given), Err(NoProof::CandidateDiverged));
    }
}
