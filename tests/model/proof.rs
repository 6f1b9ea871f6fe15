//! The proof and the change of a sync set: judged by `pgbaton::core` itself, on a record made of a state. What was judged once is kept, for
//! it is asked millions of times.

use std::cell::RefCell;
use std::collections::HashMap;

use pgbaton::core::history;
use pgbaton::core::proof::{self, Pledges, Proof};
use pgbaton::core::record::{
    Availability, Durability, Member, Promotion, Record as CoreRecord, Rest, SyncSet,
};
use pgbaton::core::types::{Address, DataId, Lsn, MemberData, Position, SystemId, Term, Timeline};

use crate::rules::Without;
use crate::state::{LIVES, MEMBERS, NO_SET, Pos, Record, Set};

/// Pledges as a candidate has heard them: of each member one answer at most.
pub type Heard = [Option<(u8, Pos)>; MEMBERS];

/// The sets recorded before a change, the set in force first, and the new one.
type Change = (Set, Vec<Set>, Set);
/// The sets recorded after it.
type Changed = (Set, Vec<Set>);
type Question = (Without, u8, Record, usize, Heard, Option<Pos>);

thread_local! {
    static JUDGED: RefCell<HashMap<Question, Option<Kind>>> = RefCell::default();
    static CHANGED: RefCell<HashMap<Change, Changed>> = RefCell::default();
}

/// On what a promotion rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    AtRest,
    Quorums,
}

fn data(member: usize, life: u8) -> MemberData {
    let byte = u8::try_from(member).unwrap() + 1;
    MemberData {
        member: format!("postgres-{byte}").parse().unwrap(),
        data_id: DataId::from_random([byte, life, 0, 0, 0, 0, 0, 0]),
    }
}

fn core_set(set: Set) -> SyncSet {
    SyncSet {
        k: set.k(),
        standbys: set.standbys().map(|(m, life)| data(m, life)).collect(),
    }
}

fn set_of(core: &SyncSet) -> Set {
    let lives = (0..MEMBERS).flat_map(|m| (0..LIVES).map(move |l| (m, u8::try_from(l).unwrap())));
    let within = lives.filter(|(m, life)| core.standbys.contains(&data(*m, *life)));
    Set::of(within, u16::try_from(core.k).unwrap())
}

fn position(pos: Pos) -> Position {
    Position {
        timeline: Timeline(u32::from(pos.timeline)),
        last_record: Lsn(u64::from(pos.len) * 100),
    }
}

fn member(member: usize, life: u8) -> Member {
    let data = data(member, life);
    Member {
        member: data.member,
        data_id: data.data_id,
        address: Address {
            ip: format!("10.0.0.{}", member + 1),
            postgres_port: 5432,
            sidecar_port: 8008,
        },
    }
}

/// The record as the core holds it.
pub fn core_record(record: &Record) -> CoreRecord {
    let mut core = CoreRecord::never_initialised(Durability::Sync, Availability::Available);
    let (primary, life) = record.primary;
    core.system_identifier = Some(SystemId(7));
    core.term = Term(u64::from(record.term));
    core.primary = Some(member(usize::from(primary), life));
    core.timeline = Some(Timeline(u32::from(record.timeline)));
    core.timelines_given = (1..=record.given).map(|t| Timeline(u32::from(t))).collect();
    for (timeline, left) in record.promotions.iter().enumerate().skip(1) {
        if left.timeline == 0 {
            continue;
        }
        core.promotions.push(Promotion {
            timeline: Timeline(u32::try_from(timeline).unwrap()),
            parent: Timeline(u32::from(left.timeline)),
            switch_point: position(*left).last_record,
            term: Term(u64::try_from(timeline).unwrap()),
        });
    }
    core.sync_sets = std::iter::once(record.current)
        .chain(record.formers())
        .map(core_set)
        .collect();
    if record.rest.timeline != 0 {
        core.rest = Some(Rest {
            term: core.term,
            data: data(usize::from(primary), life),
            position: position(record.rest),
        });
    }
    core
}

/// Judges whether `candidate` may be promoted in `term` on what it has heard. `seen_at_rest`: the primary's end of WAL without a pledge,
/// where that rule is out.
pub fn judge(
    without: &Without,
    term: u8,
    record: &Record,
    candidate: usize,
    heard: &Heard,
    seen_at_rest: Option<Pos>,
) -> Option<Kind> {
    let question = (*without, term, *record, candidate, *heard, seen_at_rest);
    let known = JUDGED.with_borrow(|judged| judged.get(&question).copied());
    known.unwrap_or_else(|| {
        let kind = judge_anew(without, term, record, candidate, heard, seen_at_rest);
        JUDGED.with_borrow_mut(|judged| judged.insert(question, kind));
        kind
    })
}

fn judge_anew(
    without: &Without,
    term: u8,
    record: &Record,
    candidate: usize,
    heard: &Heard,
    seen_at_rest: Option<Pos>,
) -> Option<Kind> {
    let mut core = core_record(record);
    let (own_life, own) = heard[candidate]?;
    if without.proof {
        return Some(Kind::Quorums);
    }
    if without.every_set {
        core.sync_sets.truncate(1);
    }
    if without.empty_set {
        core.sync_sets.retain(|set| set.k > 0);
        if core.sync_sets.is_empty() {
            return Some(Kind::Quorums);
        }
    }
    if without.overlap {
        for set in core.sync_sets.iter_mut().filter(|set| set.k > 0) {
            set.k += 1;
        }
    }
    if let Some(rest) = seen_at_rest {
        core.rest = Some(Rest {
            term: core.term,
            data: core.primary.as_ref().map(Member::data)?,
            position: position(rest),
        });
    }
    let mut pledges = Pledges::new();
    for (m, answer) in heard.iter().enumerate() {
        if let Some((life, pos)) = answer {
            let told = if without.positions { own } else { *pos };
            pledges.insert(data(m, *life), Some(position(told)));
        }
    }
    match proof::judge(&core, Term(u64::from(term)), &data(candidate, own_life), &pledges).ok()? {
        Proof::AtRest { .. } => Some(Kind::AtRest),
        Proof::Quorums => Some(Kind::Quorums),
        other => unreachable!("a proof of another kind: {other:?}"),
    }
}

/// Whether WAL up to `first` lies within WAL up to `own`, by the record.
pub fn is_within(record: &Record, first: Pos, own: Pos) -> bool {
    first == own
        || history::compare(&core_record(record), position(first), position(own)) == history::Order::Within
}

/// The number for the next promotion.
pub fn next_timeline(record: &Record, held: u8) -> u8 {
    let next = history::next_timeline(&core_record(record), Timeline(u32::from(held)));
    u8::try_from(next.0).unwrap()
}

/// Puts `set` in force: at a promotion, or on a server that runs with other names.
pub fn change_set(record: &mut Record, set: Set, runs: bool) {
    let formers: Vec<Set> = record.formers().collect();
    let question = (record.current, formers, if runs { set } else { NO_SET });
    let known = CHANGED.with_borrow(|changed| changed.get(&question).filter(|_| runs).cloned());
    let (current, formers) = known.unwrap_or_else(|| {
        let mut core = core_record(record);
        if runs {
            core.change_sync_set(core_set(set));
        } else {
            core.add_sync_set(core_set(set));
        }
        let mut sets = core.sync_sets.iter().map(set_of);
        let changed = (sets.next().unwrap(), sets.collect::<Vec<Set>>());
        if runs {
            CHANGED.with_borrow_mut(|known| known.insert(question, changed.clone()));
        }
        changed
    });
    record.current = current;
    record.set_formers(formers.into_iter());
}
