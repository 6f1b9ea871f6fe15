//! Each counter, by what raises it.

use super::*;
use crate::core::types::{Address, Timeline};
use crate::guard::protocol::Secret;
use crate::kubernetes::counted::counted;
use crate::kubernetes::fake::FakeApi;
use crate::peers::{Asker, Keys, Told};
use crate::runtime::fixtures::{NOW, address, decision, lease, name, record, seen};

fn scraped(registry: &prometheus_client::registry::Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

fn claimed(evidence: ClaimEvidence, lease: SeenLease) -> Outcome {
    Outcome::Swap {
        kind: SwapKind::Claim(evidence),
        sent_boot: Millis(NOW.0 - 400),
        sent_at: Millis(NOW.0 - 400),
        result: SwapResult::Done(Box::new(lease)),
    }
}

fn clone_of_primary() -> GuardOrder {
    GuardOrder::Clone {
        upstream: name(1),
        address: address(1),
        system_identifier: crate::runtime::fixtures::CLUSTER,
        timeline: Timeline(1),
    }
}

fn rejoining(way: RejoinWay) -> Why {
    Why::Rejoining {
        way,
        primary: name(1),
        position: None,
        failed: None,
    }
}

fn fences(metrics: &Metrics, reason: Fence) -> u64 {
    metrics.fences.get_or_create(&FenceLabel { reason }).get()
}

fn view_with_renewal(result: SwapResult) -> Observation {
    let mut view = seen(2, Server::Primary, lease(record(2)));
    view.outcomes = vec![Outcome::Swap {
        kind: SwapKind::Renew,
        sent_boot: Millis(NOW.0 - 30),
        sent_at: Millis(NOW.0 - 30),
        result,
    }];
    view
}

/// A primary whose permit has 1 s left, twice in a row.
fn permit_low(tally: &mut Tally, metrics: &Metrics) {
    let leading = decision(Phase::Leading, Why::Leading);
    let mut view = seen(2, Server::Primary, lease(record(2)));
    let GuardView::Heard(status) = &mut view.guard else {
        unreachable!("heard")
    };
    let permit = crate::guard::protocol::Permit {
        term: Term(3),
        deadline_boot_ms: view.now_boot.0 + 1_000,
    };
    status.value.permit = Some(permit);
    for _ in 0..2 {
        tally.note(metrics, &name(2), Phase::Leading, &leading, &view);
    }
}

/// A takeover of postgres-2 in term 4, on this evidence.
fn takes_over(tally: &mut Tally, metrics: &Metrics, evidence: ClaimEvidence, waived: bool) {
    let mut held = lease(record(2));
    held.term = Term(4);
    held.holder = Some("postgres-2_u2".into());
    let mut view = seen(2, Server::Standby, held.clone());
    view.outcomes = vec![claimed(evidence, held)];
    let mut taking = decision(Phase::Taking, Why::CollectingPledges { missing: None });
    taking.state.waiver = waived.then(|| "o".to_owned());
    tally.note(metrics, &name(2), Phase::Following, &taking, &view);
    view.outcomes.clear();
    let leading = decision(Phase::Leading, Why::Leading);
    tally.note(metrics, &name(2), Phase::Taking, &leading, &view);
    // Only now may clients write.
    view.service_points_to = Some((Term(4), Some(name(2))));
    tally.note(metrics, &name(2), Phase::Leading, &leading, &view);
    tally.note(metrics, &name(2), Phase::Leading, &leading, &view);
}

#[test]
fn takeovers_are_counted_by_their_way_and_timed() {
    let (metrics, registry) = Metrics::new();
    let mut tally = Tally::default();
    takes_over(&mut tally, &metrics, ClaimEvidence::Released, false);
    takes_over(&mut tally, &metrics, ClaimEvidence::Expired, false);
    takes_over(&mut tally, &metrics, ClaimEvidence::Expired, true);
    takes_over(&mut tally, &metrics, ClaimEvidence::NeverHeld, false);
    let text = scraped(&registry);
    for line in [
        "pgbaton_takeovers_total{way=\"handover\"} 1",
        "pgbaton_takeovers_total{way=\"expiry\"} 1",
        "pgbaton_takeovers_total{way=\"forced\"} 1",
        "pgbaton_takeover_duration_seconds_count 3",
        "pgbaton_takeover_duration_seconds_bucket{le=\"0.3\"} 0",
        "pgbaton_takeover_duration_seconds_bucket{le=\"0.5\"} 3",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    // The recorded primary that goes on in a new term.
    let mut own = record(2);
    own.term = Term(5);
    let held = lease(own);
    let mut view = seen(1, Server::Primary, held.clone());
    view.outcomes = vec![claimed(ClaimEvidence::Expired, held)];
    view.service_points_to = Some((Term(5), Some(name(1))));
    let leading = decision(Phase::Leading, Why::Leading);
    tally.note(&metrics, &name(1), Phase::Following, &leading, &view);
    assert!(scraped(&registry).contains("pgbaton_takeovers_total{way=\"restart\"} 1\n"));
}

#[test]
fn a_takeover_that_another_one_overtook_is_none() {
    let (metrics, registry) = Metrics::new();
    let mut tally = Tally::default();
    let mut held = lease(record(2));
    held.term = Term(4);
    let mut view = seen(2, Server::Standby, held.clone());
    view.outcomes = vec![claimed(ClaimEvidence::Expired, held.clone())];
    let taking = decision(Phase::Taking, Why::CollectingPledges { missing: None });
    tally.note(&metrics, &name(2), Phase::Following, &taking, &view);
    held.term = Term(5);
    let mut view = seen(2, Server::Standby, held);
    tally.note(&metrics, &name(2), Phase::Taking, &taking, &view);
    view.service_points_to = Some((Term(4), Some(name(2))));
    tally.note(&metrics, &name(2), Phase::Taking, &taking, &view);
    let text = scraped(&registry);
    let taken = text.lines().filter(|l| l.starts_with("pgbaton_takeovers_total{"));
    assert!(
        taken.clone().count() == 5 && taken.clone().all(|l| l.ends_with(" 0")),
        "{text}"
    );
}

#[test]
fn ways_back_are_counted_by_how_they_end() {
    let (metrics, registry) = Metrics::new();
    let mut tally = Tally::default();
    let mut view = seen(2, Server::Standby, lease(record(2)));
    let back = |way| decision(Phase::Rejoining, rejoining(way));
    tally.note(
        &metrics,
        &name(2),
        Phase::Following,
        &back(RejoinWay::Clone),
        &view,
    );
    view.outcomes = vec![Outcome::Guard {
        order: clone_of_primary(),
        error: Some("the disk is full".into()),
    }];
    tally.note(
        &metrics,
        &name(2),
        Phase::Rejoining,
        &back(RejoinWay::Clone),
        &view,
    );
    view.outcomes.clear();
    // The copy follows.
    tally.note(
        &metrics,
        &name(2),
        Phase::Rejoining,
        &back(RejoinWay::Follow),
        &view,
    );
    let follows = decision(Phase::Following, Why::Following { primary: name(1) });
    tally.note(&metrics, &name(2), Phase::Rejoining, &follows, &view);
    tally.note(
        &metrics,
        &name(2),
        Phase::Following,
        &back(RejoinWay::Follow),
        &view,
    );
    let stranded = decision(Phase::Stranded, Why::RejoinFailed { error: "no".into() });
    tally.note(&metrics, &name(2), Phase::Rejoining, &stranded, &view);
    tally.note(&metrics, &name(2), Phase::Stranded, &follows, &view);
    let text = scraped(&registry);
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("pgbaton_rejoins_total") && !l.ends_with(" 0"))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines.contains(&"pgbaton_rejoins_total{by=\"clone\",outcome=\"ok\"} 1"));
    assert!(lines.contains(&"pgbaton_rejoins_total{by=\"clone\",outcome=\"error\"} 1"));
}

/// Whatever counter is registered must be raised by something: a new one that nothing raises fails here.
#[tokio::test]
async fn no_counter_is_dead() {
    let (metrics, registry) = Metrics::new();
    let mut tally = Tally::default();
    takes_over(&mut tally, &metrics, ClaimEvidence::Released, false);
    let view = seen(2, Server::Standby, lease(record(2)));
    let back = decision(Phase::Rejoining, rejoining(RejoinWay::Rewind));
    tally.note(&metrics, &name(2), Phase::Following, &back, &view);
    let follows = decision(Phase::Following, Why::Following { primary: name(1) });
    tally.note(&metrics, &name(2), Phase::Rejoining, &follows, &view);
    let down = Server::Down {
        reason: DownReason::PermitEnded,
        detail: String::new(),
    };
    let view = seen(2, down, lease(record(2)));
    for _ in 0..2 {
        tally.note(&metrics, &name(2), Phase::Following, &follows, &view);
    }
    assert_eq!(fences(&metrics, Fence::permit_ended), 1, "counted by the edge");
    permit_low(&mut tally, &metrics);
    tally.note(&metrics, &name(2), Phase::Leading, &follows, &with_steps());
    let renewed = view_with_renewal(SwapResult::Done(Box::new(lease(record(2)))));
    tally.note(&metrics, &name(2), Phase::Leading, &follows, &renewed);
    let api = counted(FakeApi::default().client(), &metrics, &std::sync::Arc::default());
    let leases: kube::Api<k8s_openapi::api::coordination::v1::Lease> = kube::Api::namespaced(api, "default");
    leases.get("postgres").await.unwrap_err();
    let keys = Keys::derive(&Secret("password".to_owned()), None);
    let asker = Asker::new(
        keys,
        name(2),
        address(2),
        "default/postgres".to_owned(),
        metrics.clone(),
    );
    // Port 0 answers nobody.
    let nobody = Address {
        ip: "127.0.0.1".to_owned(),
        sidecar_port: 0,
        ..address(1)
    };
    let bound = std::time::Duration::from_secs(5);
    asker.ask(&nobody, Told::default(), bound).await.unwrap_err();
    let text = scraped(&registry);
    let counters = text.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        match kind {
            "counter" => Some(format!("{name}_total")),
            "histogram" => Some(format!("{name}_count")),
            _ => None,
        }
    });
    let counters: Vec<String> = counters.collect();
    assert!(counters.len() >= 6, "{text}");
    for counter in counters {
        let raised = text.lines().any(|line| {
            let value = line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
            line.starts_with(&counter) && value.is_some_and(|v| v > 0.0)
        });
        assert!(raised, "{counter} is dead:\n{text}");
    }
}

#[test]
fn a_step_down_is_timed_until_the_lease_is_given_up() {
    let (metrics, _) = Metrics::new();
    let mut tally = Tally::default();
    let mut view = seen(1, Server::Primary, lease(record(2)));
    let why = Why::HandingOver {
        to: Some(name(2)),
        reason: StepDown::ServerDied,
    };
    let mut down = decision(Phase::HandingOver, why);
    down.state.stepping_down = Some(crate::core::state::SteppingDown {
        term: Term(3),
        to: Some(name(2)),
        reason: StepDown::ServerDied,
        since: Millis(NOW.0 - 70),
        checkpointed: false,
        stopped: false,
        order: None,
    });
    tally.note(&metrics, &name(1), Phase::Leading, &down, &view);
    assert_eq!(tally.stepped_down_in_ms(), None);
    view.outcomes = vec![Outcome::Swap {
        kind: SwapKind::Release,
        sent_boot: NOW,
        sent_at: NOW,
        result: SwapResult::Done(Box::new(lease(record(2)))),
    }];
    let follows = decision(Phase::Following, Why::Following { primary: name(2) });
    tally.note(&metrics, &name(1), Phase::HandingOver, &follows, &view);
    assert_eq!(tally.stepped_down_in_ms(), Some(70));
}

#[test]
fn a_permit_that_is_nearly_gone_is_counted_once() {
    let (metrics, _) = Metrics::new();
    let mut tally = Tally::default();
    permit_low(&mut tally, &metrics);
    assert_eq!(metrics.permits_low.get(), 1);
    let leading = decision(Phase::Leading, Why::Leading);
    let mut view = seen(2, Server::Primary, lease(record(2)));
    let GuardView::Heard(status) = &mut view.guard else {
        unreachable!("heard")
    };
    let permit = crate::guard::protocol::Permit {
        term: Term(3),
        deadline_boot_ms: view.now_boot.0 + 7_000,
    };
    status.value.permit = Some(permit);
    tally.note(&metrics, &name(2), Phase::Leading, &leading, &view);
    assert_eq!(metrics.permits_low.get(), 1, "it was renewed");
    permit_low(&mut tally, &metrics);
    assert_eq!(metrics.permits_low.get(), 2);
}

#[test]
fn changes_of_the_lease_are_counted_by_how_they_end_and_renewals_timed() {
    let (metrics, registry) = Metrics::new();
    let mut tally = Tally::default();
    let leading = decision(Phase::Leading, Why::Leading);
    for result in [
        SwapResult::Done(Box::new(lease(record(2)))),
        SwapResult::Lost,
        SwapResult::Unknown("no answer".into()),
    ] {
        let view = view_with_renewal(result);
        tally.note(&metrics, &name(2), Phase::Leading, &leading, &view);
    }
    let text = scraped(&registry);
    for line in [
        "pgbaton_lease_swaps_total{kind=\"renew\",outcome=\"done\"} 1",
        "pgbaton_lease_swaps_total{kind=\"renew\",outcome=\"lost\"} 1",
        "pgbaton_lease_swaps_total{kind=\"renew\",outcome=\"unknown\"} 1",
        "pgbaton_lease_swaps_total{kind=\"claim\",outcome=\"done\"} 0",
        "pgbaton_lease_renewal_duration_seconds_count 1",
        "pgbaton_lease_renewal_duration_seconds_bucket{le=\"0.02\"} 0",
        "pgbaton_lease_renewal_duration_seconds_bucket{le=\"0.05\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn decisions_are_counted_when_they_change() {
    let (metrics, _) = Metrics::new();
    let mut tally = Tally::default();
    let view = seen(2, Server::Standby, lease(record(2)));
    let follows = decision(Phase::Following, Why::Following { primary: name(1) });
    let not = |for_ms| {
        let primary = name(1);
        decision(Phase::Following, Why::NotStreaming { primary, for_ms })
    };
    for decision in [follows.clone(), follows.clone(), not(1), not(2), follows] {
        tally.note(&metrics, &name(2), Phase::Following, &decision, &view);
    }
    let counted = |why: &str| {
        let why = why.to_owned();
        metrics.decisions.get_or_create(&WhyLabel { why }).get()
    };
    assert_eq!((counted("following"), counted("not_streaming")), (2, 1));
}

/// The Lease of term 4 with the steps of its takeover.
fn with_steps() -> Observation {
    let mut shown = record(2);
    shown.term = Term(4);
    shown.add_history(crate::core::record::HistoryEntry {
        term: Term(4),
        member: name(2),
        why: String::new(),
        at_unix_ms: 0,
        lsn: crate::core::types::Lsn(0),
        phases: vec![
            ("pledges".into(), 40),
            ("promote".into(), 180),
            ("service".into(), 9),
        ],
    });
    let mut held = lease(shown);
    held.term = Term(4);
    seen(2, Server::Primary, held)
}

/// The record shows the steps after the Service leads here: each is taken once.
#[test]
fn the_steps_of_a_takeover_are_taken_from_the_record() {
    let (metrics, registry) = Metrics::new();
    let mut tally = Tally::default();
    takes_over(&mut tally, &metrics, ClaimEvidence::Dead, false);
    let count = |text: &str, phase: &str| {
        let line = format!("pgbaton_takeover_phase_duration_seconds_count{{phase=\"{phase}\"}} ");
        let found = text.lines().find_map(|l| l.strip_prefix(&line));
        found.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(count(&scraped(&registry), "promote"), 0);
    let view = with_steps();
    let leading = decision(Phase::Leading, Why::Leading);
    for _ in 0..2 {
        tally.note(&metrics, &name(2), Phase::Leading, &leading, &view);
    }
    let text = scraped(&registry);
    let counts = ["pledges", "promote", "verify", "service"].map(|phase| count(&text, phase));
    assert_eq!(counts, [1, 1, 0, 1]);
    let line = "pgbaton_takeover_phase_duration_seconds_bucket{le=\"0.2\",phase=\"promote\"} 1";
    assert!(text.lines().any(|l| l == line), "{text}");
}

#[test]
fn fences_are_counted_by_their_reason() {
    let (metrics, _) = Metrics::new();
    let mut tally = Tally::default();
    let view = seen(1, Server::Stopping, lease(record(2)));
    let mut down = decision(Phase::HandingOver, Why::Leading);
    let mut step = crate::core::state::SteppingDown {
        term: Term(3),
        to: Some(name(2)),
        reason: StepDown::ServerDied,
        since: NOW,
        checkpointed: true,
        stopped: false,
        order: None,
    };
    for stopped in [false, true, true] {
        step.stopped = stopped;
        down.state.stepping_down = Some(step.clone());
        tally.note(&metrics, &name(1), Phase::HandingOver, &down, &view);
    }
    assert_eq!(fences(&metrics, Fence::server_died), 1);
    let unpermitted = Server::Down {
        reason: DownReason::Unpermitted,
        detail: String::new(),
    };
    let follows = decision(Phase::Following, Why::Following { primary: name(1) });
    let mut view = seen(1, unpermitted, lease(record(2)));
    tally.note(&metrics, &name(1), Phase::Following, &follows, &view);
    // A guard that is silent for a moment, and says the same afterwards.
    let heard = std::mem::replace(&mut view.guard, GuardView::Unknown);
    tally.note(&metrics, &name(1), Phase::Following, &follows, &view);
    view.guard = heard;
    tally.note(&metrics, &name(1), Phase::Following, &follows, &view);
    assert_eq!(fences(&metrics, Fence::unpermitted), 1);
    assert_eq!(fences(&metrics, Fence::server_died), 1);
}
