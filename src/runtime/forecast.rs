//! "Could I fail over now": the leader judges, everybody else repeats its word with its age.

use super::settings::SidecarSettings;
use crate::core::decide::Decision;
use crate::core::observe::{LeaseView, Observation, SeenLease};
use crate::core::record::Record;
use crate::core::report::{CouldFailOver, Report};
use crate::core::why::Why;
use crate::http::status::CouldFailOverView;

/// What a takeover takes from the claim to the Service before one was seen here, in milliseconds: pledges, promotion, a
/// verified write, the Service.
pub const TAKEOVER_MS: u64 = 400;
/// What stopping the old primary's server and releasing the Lease take before a member has told how long it took, in milliseconds.
pub const STOP_MS: u64 = 150;
/// Renewals that may be missing before the leader's word is old.
const RENEWALS_MISSED: u64 = 3;

/// The answer, by whom, and how old.
pub fn could_fail_over(
    settings: &SidecarSettings,
    decision: &Decision,
    record: Option<&Record>,
    seen: &Observation,
    report: Option<&str>,
    contact_age_ms: Option<u64>,
) -> CouldFailOverView {
    let LeaseView::Seen(lease) = &seen.lease else {
        return own(no("the Lease was not seen, or does not exist".to_owned()));
    };
    let Some(record) = record else {
        return own(no("there is no usable record".to_owned()));
    };
    if record.paused {
        return own(no("takeovers are paused: `pgbaton resume` ends it".to_owned()));
    }
    if lease.holder.as_ref() == Some(&settings.core.holder) {
        return own(judged(settings, decision, record, seen));
    }
    if let (Why::NotTakingOver { because }, Some(_)) = (&decision.why, &decision.state.holder_gone) {
        // The leader is gone, and with it the worth of its last word.
        return own(no(because.clone()));
    }
    repeated(settings, lease, report, contact_age_ms)
}

fn no(missing: String) -> CouldFailOver {
    CouldFailOver {
        missing,
        ..CouldFailOver::default()
    }
}

fn own(answer: CouldFailOver) -> CouldFailOverView {
    CouldFailOverView {
        answer,
        told_by: None,
        age_ms: None,
        stale: false,
    }
}

fn judged(
    settings: &SidecarSettings,
    decision: &Decision,
    record: &Record,
    seen: &Observation,
) -> CouldFailOver {
    match crate::core::decide::successor(&settings.core, &decision.state, seen, record) {
        Ok(to) => CouldFailOver {
            yes: true,
            to: Some(to),
            about_ms: Some(about_ms(record, seen)),
            missing: String::new(),
        },
        Err(missing) => no(missing),
    }
}

/// From the decision to hand over until clients can write: the old leader's stop and release, then the phases of the last takeover.
fn about_ms(record: &Record, seen: &Observation) -> u64 {
    let last = record.history.iter().rev().find(|h| !h.phases.is_empty());
    let takeover = last.map_or(TAKEOVER_MS, |h| h.phases.iter().map(|(_, ms)| ms).sum());
    // Whoever stepped down last tells how long that took; several: the slowest.
    let stop = seen
        .peers
        .values()
        .filter_map(|p| p.value.stepped_down_in_ms)
        .max();
    stop.unwrap_or(STOP_MS).saturating_add(takeover)
}

fn repeated(
    settings: &SidecarSettings,
    lease: &SeenLease,
    report: Option<&str>,
    contact_age_ms: Option<u64>,
) -> CouldFailOverView {
    // Old when the leader has not written lately, or when nothing was heard that could say so.
    let age_ms = lease.unchanged_for.0.max(contact_age_ms.unwrap_or(u64::MAX));
    let stale =
        lease.holder.is_none() || age_ms > settings.core.renew_interval.0.saturating_mul(RENEWALS_MISSED);
    let told_by = lease
        .holder
        .as_deref()
        .and_then(|holder| holder.split('_').next()?.parse().ok());
    let answer = match report.map(Report::parse) {
        Some(Ok(report)) => report.could_fail_over,
        Some(Err(error)) => no(error),
        None => no("no leader has reported yet".to_owned()),
    };
    CouldFailOverView {
        answer,
        told_by,
        age_ms: Some(age_ms),
        stale,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::observe::ServerView;
    use crate::core::phase::Phase;
    use crate::core::record::HistoryEntry;
    use crate::core::types::{Lsn, Millis, Term, Timeline};
    use crate::core::why::Why;
    use crate::guard::protocol::Server;
    use crate::runtime::fixtures;

    fn leader(record: Record) -> Observation {
        let mut view = fixtures::seen(1, Server::Primary, fixtures::lease(record));
        let standby = fixtures::standby(2);
        view.peers.insert(fixtures::name(2), fixtures::heard(standby));
        view.server = Some(fixtures::heard(ServerView::Primary {
            insert: Lsn(0x300),
            timeline: Timeline(1),
            names: String::new(),
            rows: Vec::new(),
            wrote: true,
        }));
        view
    }

    fn asked(number: u8, view: &Observation, report: Option<&str>, contact: u64) -> CouldFailOverView {
        let settings = fixtures::settings(number);
        let decision = fixtures::decision(Phase::Leading, Why::Leading);
        let record = super::super::brain::record_of(&view.lease);
        could_fail_over(&settings, &decision, record, view, report, Some(contact))
    }

    #[test]
    fn a_standby_repeats_what_the_leader_says_and_how_old_it_is() {
        let view = leader(fixtures::record(2));
        let judged = asked(1, &view, None, 10);
        assert!(judged.answer.yes, "{judged:?}");
        assert_eq!(judged.answer.to, Some(fixtures::name(2)));
        assert_eq!((judged.told_by, judged.age_ms, judged.stale), (None, None, false));
        let report = Report {
            could_fail_over: judged.answer.clone(),
            ..Report::default()
        };
        let report = report.render();
        // The standby itself sees nobody else who could follow on: that is not the question.
        let mut view = fixtures::seen(2, Server::Standby, fixtures::lease(fixtures::record(2)));
        let told = asked(2, &view, Some(&report), 10);
        assert_eq!(told.answer, judged.answer);
        assert_eq!(told.told_by, Some(fixtures::name(1)));
        assert_eq!((told.age_ms, told.stale), (Some(300), false));
        // The API server is away, or the leader is silent.
        assert!(asked(2, &view, Some(&report), 3_001).stale);
        let LeaseView::Seen(lease) = &mut view.lease else {
            unreachable!("seen")
        };
        lease.unchanged_for = Millis(3_001);
        assert!(asked(2, &view, Some(&report), 10).stale);
        let told = asked(2, &view, None, 10);
        assert!(
            !told.answer.yes && told.answer.missing.contains("no leader"),
            "{told:?}"
        );
    }

    #[test]
    fn the_last_word_of_a_leader_that_is_gone_is_not_repeated() {
        let report = Report {
            could_fail_over: judged(
                &fixtures::settings(1),
                &fixtures::decision(Phase::Leading, Why::Leading),
                &fixtures::record(2),
                &leader(fixtures::record(2)),
            ),
            ..Report::default()
        };
        let view = fixtures::seen(2, Server::Standby, fixtures::lease(fixtures::record(2)));
        let because = "postgres-1 is dead; nobody could prove it".to_owned();
        let why = Why::NotTakingOver { because };
        let mut decision = fixtures::decision(Phase::Following, why);
        decision.state.holder_gone = Some(("postgres-1_u1".to_owned(), Millis(1)));
        let record = super::super::brain::record_of(&view.lease);
        let text = report.render();
        let told = could_fail_over(
            &fixtures::settings(2),
            &decision,
            record,
            &view,
            Some(&text),
            Some(10),
        );
        assert!(report.could_fail_over.yes && !told.answer.yes);
        assert!(told.answer.missing.contains("is dead"), "{told:?}");
    }

    #[test]
    fn there_is_a_figure_before_the_first_takeover_and_it_counts_the_stop() {
        let mut view = leader(fixtures::record(2));
        let about = |view: &Observation| asked(1, view, None, 10).answer.about_ms;
        assert_eq!(about(&view), Some(STOP_MS + TAKEOVER_MS));
        let mut record = fixtures::record(2);
        record.add_history(HistoryEntry {
            term: Term(3),
            member: fixtures::name(1),
            why: String::new(),
            at_unix_ms: 0,
            lsn: Lsn(0),
            phases: vec![("pledges".into(), 30), ("promote".into(), 200)],
        });
        view.lease = LeaseView::Seen(Box::new(fixtures::lease(record)));
        assert_eq!(about(&view), Some(STOP_MS + 230));
        let peer = view.peers.get_mut(&fixtures::name(2)).unwrap();
        peer.value.stepped_down_in_ms = Some(90);
        assert_eq!(about(&view), Some(320));
    }
}
