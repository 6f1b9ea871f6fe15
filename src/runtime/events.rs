//! Which decisions and conditions become Kubernetes events: those that people would ask about.

use std::collections::{BTreeMap, BTreeSet};

use super::brain::record_of;
use super::clocks::CLOCKS;
use super::effects::KUBERNETES_REFUSED;
use super::guard_link::REFUSES;
use super::sight::Sight;
use super::unguarded::Unheld;
use crate::core::adoption::Adoption;
use crate::core::decide::Decision;
use crate::core::observe::{LeaseView, Observation};
use crate::core::phase::Phase;
use crate::core::record::Durability;
use crate::core::types::Millis;
use crate::core::why::Why;
use crate::kubernetes::events::{EventKind, EventNote};

/// Shorter silences and failures pass by themselves.
const LASTING: Millis = Millis(3_000);

/// What held at the last decision, each by its reason.
#[derive(Debug, Default)]
pub struct News {
    held: BTreeMap<&'static str, Millis>,
    posted: BTreeSet<&'static str>,
    /// The stage of the adoption in place that was told last, and since when it is another one.
    stage: Option<Adoption>,
    stage_since: Option<(Adoption, Millis)>,
}

/// Something that holds, and that a person should know when it begins.
struct Condition {
    reason: &'static str,
    action: &'static str,
    note: String,
    /// How long it must have held.
    after: Millis,
}

impl News {
    /// The events of one decision. `before` is the phase of the one before it.
    pub fn of(
        &mut self,
        holder: &str,
        before: Phase,
        decision: &Decision,
        seen: &Observation,
        sight: &Sight,
    ) -> Vec<EventNote> {
        let mut notes: Vec<EventNote> = of_phase(before, decision).into_iter().collect();
        notes.extend(self.of_adoption(&decision.why, seen.now));
        let conditions = conditions(holder, decision, seen, sight);
        self.held
            .retain(|reason, _| conditions.iter().any(|c| c.reason == *reason));
        self.posted
            .retain(|reason| conditions.iter().any(|c| c.reason == *reason));
        for condition in conditions {
            let since = *self.held.entry(condition.reason).or_insert(seen.now);
            let lasts = seen.now.since(since) >= condition.after;
            if lasts && self.posted.insert(condition.reason) {
                notes.push(EventNote {
                    kind: EventKind::Warning,
                    reason: condition.reason.to_owned(),
                    action: condition.action.to_owned(),
                    note: condition.note,
                });
            }
        }
        notes
    }
}

impl News {
    /// Each stage of an adoption that lasts: people do it, step by step, and read here what is awaited of them.
    fn of_adoption(&mut self, why: &Why, now: Millis) -> Option<EventNote> {
        let Why::Adoption(stage) = why else {
            self.stage_since = None;
            return None;
        };
        let since = match &self.stage_since {
            Some((known, since)) if known == stage => *since,
            _ => now,
        };
        self.stage_since = Some((stage.clone(), since));
        let lasts = now.since(since) >= Millis(1_500);
        if !lasts || self.stage.as_ref() == Some(stage) || matches!(stage, Adoption::Looking) {
            return None;
        }
        self.stage = Some(stage.clone());
        let goes_on = matches!(
            stage,
            Adoption::FollowsPlain { .. }
                | Adoption::Installing
                | Adoption::Joining { .. }
                | Adoption::By { .. }
        );
        Some(EventNote {
            kind: if goes_on {
                EventKind::Normal
            } else {
                EventKind::Warning
            },
            reason: if goes_on { "AdoptionStep" } else { "AdoptionWaits" }.to_owned(),
            action: "Adopt".to_owned(),
            note: stage.to_string(),
        })
    }
}

/// The event of a change of phase; none: nothing that people ask about.
fn of_phase(before: Phase, decision: &Decision) -> Option<EventNote> {
    let after = decision.phase;
    if before == after {
        return None;
    }
    let (kind, reason, action) = match (before, after) {
        (Phase::Taking, Phase::Leading) => (EventKind::Normal, "NewPrimary", "Promote"),
        (Phase::Initialising, Phase::Leading) => (EventKind::Normal, "Initialised", "Initialise"),
        (Phase::Adopting, Phase::Leading) => (EventKind::Normal, "Adopted", "Adopt"),
        (_, Phase::Taking) => (EventKind::Normal, "TakingOver", "Claim"),
        (_, Phase::HandingOver) => (EventKind::Normal, "HandingOver", "StepDown"),
        (_, Phase::Rejoining) => (EventKind::Normal, "Rejoining", "Rejoin"),
        (_, Phase::Damaged) => (EventKind::Warning, "LeaseDamaged", "Wait"),
        (_, Phase::Stranded) => (EventKind::Warning, "Stranded", "Wait"),
        _ => return None,
    };
    Some(EventNote {
        kind,
        reason: reason.to_owned(),
        action: action.to_owned(),
        note: decision.why.to_string(),
    })
}

fn conditions(holder: &str, decision: &Decision, seen: &Observation, sight: &Sight) -> Vec<Condition> {
    let mut all: Vec<Condition> = of_why(holder, decision).into_iter().collect();
    let mut add = |reason, action, note: String| {
        all.push(Condition {
            reason,
            action,
            note,
            // Between two tries, or while the server changes, it is no news.
            after: match reason {
                "ReplicationNotKept" | "GuardWarns" => LASTING,
                _ => Millis(0),
            },
        });
    };
    let leads = matches!(&seen.lease, LeaseView::Seen(lease) if lease.holder.as_deref() == Some(holder));
    if let Some(record) = record_of(&seen.lease).filter(|_| leads) {
        let set_is_empty = record.primary.is_some() && record.current_set().k == 0;
        if record.durability == Durability::Sync && set_is_empty && record.members.len() > 1 {
            add(
                "NotReplicated",
                "Write",
                "no standby is left in the sync set: commits are acknowledged by the primary alone, and only its data may lead \
                 until a standby has caught up"
                    .to_owned(),
            );
        }
    }
    for (source, reason, action) in [
        ("archive", "ArchiveFailing", "Archive"),
        (KUBERNETES_REFUSED, "EffectRefused", "Patch"),
        ("replication", "ReplicationNotKept", "Replicate"),
        (CLOCKS, "ClockApart", "Compare"),
    ] {
        if let Some(text) = sight.warnings.get(source) {
            add(reason, action, text.clone());
        }
    }
    if sight.status().is_none() && sight.guard_trouble.starts_with(REFUSES) {
        add("GuardRefused", "Start", sight.guard_trouble.clone());
    }
    if let Some(warning) = sight.status().map(|s| &s.value.warning).filter(|w| !w.is_empty()) {
        add("GuardWarns", "Look", warning.clone());
    }
    if !sight.rights.missing.is_empty() {
        let texts = crate::core::preflight::warnings(&sight.rights.missing);
        add("MissingRights", "Ask", texts.join("; "));
    }
    // Each has a reason of its own: one that is promoted by hand later is news.
    for (what, reason) in [
        (Unheld::Primary, "UnguardedServer"),
        (Unheld::Foreign, "ForeignServer"),
        (Unheld::Standby, "UnguardedStandby"),
    ] {
        let of_kind = sight.unguarded.iter().filter(|server| server.what == what);
        let texts: Vec<&str> = of_kind.map(|server| server.text.as_str()).collect();
        if !texts.is_empty() {
            add(reason, "Look", texts.join("; "));
        }
    }
    all
}

fn of_why(holder: &str, decision: &Decision) -> Option<Condition> {
    let member = |holder: &str| holder.rsplit_once('_').map(|(member, _)| member.to_owned());
    let (reason, action, after) = match &decision.why {
        // By itself: its own pod was made anew while it initialised.
        Why::AnotherMarkedFirst { by } if member(by) != member(holder) => {
            ("AnotherMarkedFirst", "Initialise", Millis(0))
        }
        Why::RejoinFailed { .. } => ("RejoinFailed", "Rejoin", Millis(0)),
        Why::NoProofInTime { .. } => ("NoProof", "Claim", Millis(0)),
        Why::RestartInPlace { .. } => ("RestartInPlace", "Restart", Millis(0)),
        // Somebody else takes over in most cases, and soon.
        Why::NotTakingOver { .. } => ("NotTakingOver", "Wait", LASTING),
        Why::VolumeFull { .. } => ("VolumeFull", "Write", Millis(0)),
        Why::ServerUnhealthy { .. } => ("ServerUnhealthy", "Probe", Millis(1_000)),
        Why::GuardSilent { .. } => ("GuardSilent", "Ask", LASTING),
        Why::NotStreaming { .. } => ("NotStreaming", "Follow", LASTING),
        _ => return None,
    };
    Some(Condition {
        reason,
        action,
        note: decision.why.to_string(),
        after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::observe::GuardView;
    use crate::core::record::SyncSet;
    use crate::guard::protocol::Server;
    use crate::runtime::fixtures::{NOW, decision, lease, record, seen};
    use crate::runtime::unguarded::Unguarded;

    fn reasons(
        news: &mut News,
        before: Phase,
        decision: &Decision,
        view: &Observation,
        sight: &Sight,
    ) -> Vec<String> {
        let notes = news.of("postgres-1_u1", before, decision, view, sight);
        notes.into_iter().map(|note| note.reason).collect()
    }

    #[test]
    fn what_people_would_ask_about_is_told_once_while_it_holds() {
        let mut news = News::default();
        let mut sight = Sight::new();
        let leading = decision(Phase::Leading, Why::Leading);
        let mut view = seen(1, Server::Primary, lease(record(2)));
        let mut told = |view: &Observation, decision: &Decision, sight: &Sight| {
            reasons(&mut news, Phase::Leading, decision, view, sight)
        };
        assert!(told(&view, &leading, &sight).is_empty());
        let why = Why::RestartInPlace {
            nobody_because: "there is no other member".into(),
        };
        let restarting = decision(Phase::Leading, why);
        assert_eq!(told(&view, &restarting, &sight), ["RestartInPlace"]);
        assert!(told(&view, &restarting, &sight).is_empty());
        assert!(told(&view, &leading, &sight).is_empty());
        assert_eq!(told(&view, &restarting, &sight), ["RestartInPlace"], "again");
        let mut empty = record(2);
        empty.sync_sets = vec![SyncSet::empty()];
        view.lease = LeaseView::Seen(Box::new(lease(empty)));
        assert_eq!(told(&view, &leading, &sight), ["NotReplicated"]);
        for (source, reason) in [
            ("archive", "ArchiveFailing"),
            (CLOCKS, "ClockApart"),
            (KUBERNETES_REFUSED, "EffectRefused"),
        ] {
            sight.warnings.insert(source, "text".into());
            assert_eq!(told(&view, &leading, &sight), [reason]);
        }
        for (what, reason) in [
            (Unheld::Standby, "UnguardedStandby"),
            (Unheld::Primary, "UnguardedServer"),
            (Unheld::Foreign, "ForeignServer"),
        ] {
            let text = "a server".to_owned();
            sight.unguarded.push(Unguarded { what, text });
            assert_eq!(told(&view, &leading, &sight), [reason]);
        }
        sight.guard_trouble = format!("{REFUSES}PGDATA is a mount point");
        assert_eq!(told(&view, &leading, &sight), ["GuardRefused"]);
        sight.rights.missing = [crate::core::preflight::Right {
            group: "",
            resource: "pods",
            name: Some("postgres-1-0".into()),
            verb: "patch",
        }]
        .into();
        assert_eq!(told(&view, &leading, &sight), ["MissingRights"]);
        assert!(told(&view, &leading, &sight).is_empty());
        let failed = decision(Phase::Leading, Why::RejoinFailed { error: "no".into() });
        assert_eq!(told(&view, &failed, &sight), ["RejoinFailed"]);
    }

    #[test]
    fn what_passes_by_itself_is_told_only_when_it_lasts() {
        let mut news = News::default();
        let sight = Sight::new();
        let mut view = seen(1, Server::Standby, lease(record(2)));
        let why = Why::NotTakingOver {
            because: "postgres-2 goes first".into(),
        };
        let waiting = decision(Phase::Following, why);
        for (at, expected) in [(0, 0), (2_999, 0), (3_000, 1), (3_001, 0)] {
            view.now = NOW.plus(Millis(at));
            let told = reasons(&mut news, Phase::Following, &waiting, &view, &sight);
            assert_eq!(told.len(), expected, "after {at} ms");
        }
    }

    #[test]
    fn each_stage_of_an_adoption_that_lasts_is_told_once() {
        let mut news = News::default();
        let sight = Sight::new();
        let mut view = seen(2, Server::Standby, lease(record(1)));
        let stage = |next: &str| {
            let primary = crate::runtime::fixtures::name(1);
            let next = Some(next.to_owned());
            decision(
                Phase::Adopting,
                Why::Adoption(Adoption::FollowsPlain { primary, next }),
            )
        };
        let looking = decision(Phase::Adopting, Why::Adoption(Adoption::Looking));
        let mut at = |ms: u64, decision: &Decision| {
            view.now = NOW.plus(Millis(ms));
            reasons(&mut news, Phase::Adopting, decision, &view, &sight)
        };
        let (first, second) = (stage("postgres-3-0"), stage("postgres-1-0"));
        assert!(at(0, &looking).is_empty() && at(5_000, &looking).is_empty());
        assert!(at(5_100, &first).is_empty(), "it may pass");
        assert_eq!(at(6_600, &first), ["AdoptionStep"]);
        assert!(at(9_000, &first).is_empty() && at(9_100, &second).is_empty());
        assert_eq!(at(10_600, &second), ["AdoptionStep"]);
        let several = Adoption::SeveralWrite { members: Vec::new() };
        let waits = decision(Phase::Adopting, Why::Adoption(several));
        assert!(at(11_000, &waits).is_empty());
        assert_eq!(at(13_000, &waits), ["AdoptionWaits"]);
    }

    #[test]
    fn a_second_member_marked_first_is_told_and_a_new_pod_of_the_first_is_not() {
        let view = seen(1, Server::Standby, lease(record(1)));
        for (by, told) in [("postgres-2_u2", 1), ("postgres-1_u0", 0)] {
            let waiting = decision(Phase::Uninitialised, Why::AnotherMarkedFirst { by: by.into() });
            let mut news = News::default();
            let notes = reasons(&mut news, Phase::Uninitialised, &waiting, &view, &Sight::new());
            assert_eq!(notes.len(), told, "{by}: {notes:?}");
        }
    }

    #[test]
    fn what_the_guard_warns_of_is_told_when_it_lasts() {
        let mut news = News::default();
        let mut view = seen(1, Server::Standby, lease(record(2)));
        let following = decision(Phase::Following, Why::Leading);
        let mut sight = Sight::new();
        let GuardView::Heard(mut heard) = view.guard.clone() else {
            unreachable!("the fixture's guard is heard")
        };
        heard.value.warning = "PGDATA is of PostgreSQL 14".into();
        sight.guard = GuardView::Heard(heard);
        for (at, expected) in [(0, 0), (2_999, 0), (3_000, 1), (3_001, 0)] {
            view.now = NOW.plus(Millis(at));
            let told = reasons(&mut news, Phase::Following, &following, &view, &sight);
            assert_eq!(told.len(), expected, "after {at} ms: {told:?}");
        }
    }

    #[test]
    fn only_the_leader_tells_of_the_sync_set() {
        let mut empty = record(2);
        empty.sync_sets = vec![SyncSet::empty()];
        let mut held = lease(empty);
        held.holder = Some("postgres-2_u2".into());
        let view = seen(1, Server::Standby, held);
        let leading = decision(Phase::Following, Why::Leading);
        let told = reasons(
            &mut News::default(),
            Phase::Following,
            &leading,
            &view,
            &Sight::new(),
        );
        assert!(told.is_empty());
    }

    #[test]
    fn changes_of_phase_are_told() {
        let taking = decision(Phase::Leading, Why::Promoting);
        let view = seen(1, Server::Standby, lease(record(2)));
        let told = reasons(&mut News::default(), Phase::Taking, &taking, &view, &Sight::new());
        assert_eq!(told, ["NewPrimary"]);
    }
}
