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
    assert!(!scraped(&registry).contains("pgbaton_takeovers_total{"));
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
        .filter(|l| l.starts_with("pgbaton_rejoins_total"))
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
    assert_eq!(metrics.permits_lost.get(), 1, "counted by the edge");
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
        reason: crate::core::why::StepDown::ServerDied,
    };
    let mut down = decision(Phase::HandingOver, why);
    down.state.stepping_down = Some(crate::core::state::SteppingDown {
        term: Term(3),
        to: Some(name(2)),
        reason: crate::core::why::StepDown::ServerDied,
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
