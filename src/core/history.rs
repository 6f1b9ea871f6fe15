//! Which WAL lies on which history: positions compare only along the recorded promotions (invariant 5).

use super::record::Record;
use super::types::{Lsn, Position, Timeline};

/// How one position stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The first lies on the history of the second, at it or before it.
    Within,
    /// The first lies on the second's history or beyond it, and not within it: it holds more.
    Beyond,
    /// Neither lies on the other's history, or a timeline is not a recorded one.
    Diverged,
}

/// Where the WAL of `ancestor` was left on the way to `descendant`: none when it is no ancestor, `Lsn(u64::MAX)` when both
/// are the same timeline.
fn left_at(record: &Record, ancestor: Timeline, descendant: Timeline) -> Option<Lsn> {
    let mut at = descendant;
    let mut left = Lsn(u64::MAX);
    // Each step goes to an older promotion, so the walk is bounded by their number.
    for _ in 0..=record.promotions.len() {
        if at == ancestor {
            return Some(left);
        }
        let promotion = record.promotions.iter().rev().find(|p| p.timeline == at)?;
        at = promotion.parent;
        left = promotion.switch_point;
    }
    None
}

/// Compares two positions along the record's promotions.
#[must_use]
pub fn compare(record: &Record, first: Position, second: Position) -> Order {
    if !is_recorded(record, first.timeline) || !is_recorded(record, second.timeline) {
        return Order::Diverged;
    }
    if is_within(record, first, second) {
        Order::Within
    } else if is_within(record, second, first) {
        Order::Beyond
    } else {
        Order::Diverged
    }
}

fn is_within(record: &Record, first: Position, second: Position) -> bool {
    match left_at(record, first.timeline, second.timeline) {
        Some(_) if first.timeline == second.timeline => first.last_record <= second.last_record,
        Some(left) => first.last_record <= left,
        None => false,
    }
}

/// True when all WAL up to `position` is on the history of the recorded primary's timeline: such a server can follow as it is.
#[must_use]
pub fn is_on_primary_history(record: &Record, position: Position) -> bool {
    record.timeline.is_some_and(|current| {
        is_within(
            record,
            position,
            Position {
                timeline: current,
                last_record: Lsn(u64::MAX),
            },
        )
    })
}

/// True for the first timeline and for every recorded promotion's.
#[must_use]
pub fn is_recorded(record: &Record, timeline: Timeline) -> bool {
    record.timeline == Some(timeline)
        || record
            .promotions
            .iter()
            .any(|p| p.timeline == timeline || p.parent == timeline)
}

/// The number for the next promotion: above every number ever given out (invariant 8) and above those held in `held`.
#[must_use]
pub fn next_timeline(record: &Record, held: Timeline) -> Timeline {
    let given = record.timelines_given.iter().next_back().map_or(0, |t| t.0);
    let recorded = record.timeline.map_or(0, |t| t.0);
    Timeline(given.max(recorded).max(held.0).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{Availability, Durability, Promotion};
    use crate::core::types::Term;

    fn record() -> Record {
        let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
        // 1 --100--> 2 --200--> 4; 3 left 2 at 150 in a term whose promotion was recorded and then superseded.
        for (timeline, parent, at) in [(2, 1, 100), (3, 2, 150), (4, 2, 200)] {
            record.promotions.push(Promotion {
                timeline: Timeline(timeline),
                parent: Timeline(parent),
                switch_point: Lsn(at),
                term: Term(u64::from(timeline)),
            });
            record.timelines_given.insert(Timeline(timeline));
        }
        record.timeline = Some(Timeline(4));
        record
    }

    fn at(timeline: u32, lsn: u64) -> Position {
        Position {
            timeline: Timeline(timeline),
            last_record: Lsn(lsn),
        }
    }

    #[test]
    fn positions_compare_along_the_recorded_history_only() {
        let record = record();
        let table = [
            (at(1, 50), at(1, 60), Order::Within),
            (at(1, 60), at(1, 60), Order::Within),
            (at(1, 70), at(1, 60), Order::Beyond),
            (at(1, 100), at(2, 110), Order::Within),
            (at(1, 101), at(2, 110), Order::Diverged),
            (at(2, 110), at(1, 100), Order::Beyond),
            (at(1, 100), at(4, 210), Order::Within),
            (at(2, 200), at(4, 210), Order::Within),
            (at(2, 201), at(4, 210), Order::Diverged),
            (at(3, 160), at(4, 210), Order::Diverged),
            (at(9, 10), at(4, 210), Order::Diverged),
        ];
        for (first, second, expected) in table {
            assert_eq!(
                compare(&record, first, second),
                expected,
                "{first} against {second}"
            );
        }
    }

    #[test]
    fn a_new_timeline_is_above_every_number_given_out() {
        let mut record = record();
        record.timelines_given.insert(Timeline(9));
        assert_eq!(next_timeline(&record, Timeline(4)), Timeline(10));
        assert_eq!(next_timeline(&record, Timeline(12)), Timeline(13));
    }

    #[test]
    fn a_server_may_follow_as_it_is_only_from_the_primary_history() {
        let record = record();
        assert!(is_on_primary_history(&record, at(1, 100)));
        assert!(is_on_primary_history(&record, at(2, 200)));
        assert!(is_on_primary_history(&record, at(4, 10_000)));
        assert!(!is_on_primary_history(&record, at(2, 201)));
        assert!(!is_on_primary_history(&record, at(3, 151)));
    }
}
