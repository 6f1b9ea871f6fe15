//! When a lost record is written back (`core/decide/damage.rs`), on views as the runtime makes them.

use crate::core::action::{Action, ClaimEvidence, SwapKind};
use crate::core::decide::decide;
use crate::core::observe::{
    GuardView, LeaseView, Observation, PeerReport, PersonOrder, PersonWish, RecordView, ServerView,
};
use crate::core::record::{Record, SyncSet};
use crate::core::state::State;
use crate::core::types::{DataId, Lsn, Millis, Term, Timeline};
use crate::guard::protocol::{Permit, Server};
use crate::runtime::fixtures;

/// postgres-1 runs under a permit of term 3, and the Lease has lost its record; what it decides to write.
fn written_back(led: Record, change: impl FnOnce(&mut State, &mut Observation)) -> Option<(SwapKind, Term)> {
    let settings = fixtures::settings(1);
    let mut lost = fixtures::lease(fixtures::record(2));
    lost.record = RecordView::Missing;
    let mut view = fixtures::seen(1, Server::Primary, lost);
    let mut status = fixtures::status(1, &Server::Primary);
    status.permit = Some(Permit {
        term: Term(3),
        deadline_boot_ms: fixtures::NOW.plus(Millis(5_000)).0,
    });
    view.guard = GuardView::Heard(Box::new(fixtures::heard(status)));
    let mut state = State {
        led: Some(Box::new(led)),
        ..State::default()
    };
    change(&mut state, &mut view);
    let decided = decide(&settings.core, &state, &view);
    decided.actions.iter().find_map(|action| match action {
        Action::Swap(swap) => Some((swap.kind, swap.term)),
        _ => None,
    })
}

const BACK: SwapKind = SwapKind::Claim(ClaimEvidence::WriteBack);

#[test]
fn a_record_is_not_written_back_below_the_services_term() {
    // Whoever led term 41 may have acknowledged what this record does not know of.
    for (service_term, expected) in [(None, Some(4)), (Some(Term(3)), Some(4)), (Some(Term(41)), None)] {
        // Nobody but the primary can have led after it by pledges.
        let mut led = fixtures::record(2);
        led.sync_sets = vec![SyncSet::empty()];
        let written = written_back(led, |_, view| view.service_term = service_term);
        let expected = expected.map(|term| (BACK, Term(term)));
        assert_eq!(written, expected, "{service_term:?}");
    }
}

/// Its standby must say that nobody has led after it, and say so after this very loss was seen.
#[test]
fn a_record_is_written_back_on_a_standbys_word_only() {
    type Change = fn(&mut PeerReport, &mut State);
    let before = fixtures::NOW.0 - 1_000;
    let seen = |state: &mut State, version: &str| {
        state.damaged = Some((version.to_owned(), Millis(before)));
    };
    let nothing: Change = |_, _| {};
    let later: Change = |peer, _| peer.guard.as_mut().unwrap().highest_term = Term(4);
    let copied: Change = |peer, _| peer.guard.as_mut().unwrap().data_id = Some(DataId::from_random([9; 8]));
    let silent: Change = |peer, _| peer.guard = None;
    for (what, version, asked_at, change, written) in [
        ("it says so", "7", before, nothing, true),
        (
            "it was asked before the loss was seen",
            "7",
            before - 1,
            nothing,
            false,
        ),
        ("it was asked over an earlier loss", "6", before, nothing, false),
        ("it has seen a later term", "7", before, later, false),
        ("it has other data now", "7", before, copied, false),
        ("its guard is out of sight", "7", before, silent, false),
    ] {
        let back = written_back(fixtures::record(2), |state, view| {
            seen(state, version);
            let mut peer = fixtures::standby(2);
            change(&mut peer, state);
            let mut answer = fixtures::heard(peer);
            answer.asked_at = Millis(asked_at);
            view.peers.insert(fixtures::name(2), answer);
        });
        assert_eq!(back, written.then_some((BACK, Term(4))), "{what}");
    }
}

/// A person who names the primary that waits is obeyed at once.
#[test]
fn a_person_may_write_the_record_back_sooner() {
    let back = written_back(fixtures::record(2), |_, view| {
        let LeaseView::Seen(lease) = &mut view.lease else {
            unreachable!()
        };
        lease.order = Some(PersonOrder {
            id: "a".to_owned(),
            what: PersonWish::Adopt {
                member: fixtures::name(1),
            },
        });
        let runs = ServerView::Primary {
            insert: Lsn(0x300),
            timeline: Timeline(1),
            names: String::new(),
            rows: Vec::new(),
            wrote: true,
        };
        view.server = Some(fixtures::heard(runs));
    });
    assert_eq!(back, Some((BACK, Term(4))));
}
