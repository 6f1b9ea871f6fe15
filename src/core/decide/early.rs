//! Evidence that the Lease's holder is gone, before its Lease has run out (DESIGN.md section 5, claim).
//!
//! What it opens is safe without it: whoever claims on it still needs a proof by pledges, so an old primary that lives on can
//! acknowledge nothing that the new one does not hold; and a holder that has renewed meanwhile wins the swap. So it decides only how
//! soon, and how often in vain.

use super::{Mind, PEER_FRESH};
use crate::core::action::ClaimEvidence;
use crate::core::observe::{HolderSight, SeenLease, ServerView};
use crate::core::proof::NoProof;
use crate::core::record::{Durability, Record};
use crate::core::types::{MemberData, MemberName, Millis};

/// Two refusals this far apart are no accident of a restart.
const REFUSED_FOR: Millis = Millis(100);
/// A refusal older than this may be over.
const REFUSED_LATELY: Millis = Millis(500);

impl Mind<'_> {
    /// Whether the holder is gone by what this member saw itself, and on what evidence. The answers for a proof are judged apart.
    pub(super) fn holder_gone(&mut self, lease: &SeenLease, record: &Record) -> Option<ClaimEvidence> {
        let found = self.gone(lease, record);
        let holder = lease.holder.as_ref();
        match (&found, holder) {
            (Some((_, since)), Some(holder)) => {
                let known = self
                    .state
                    .holder_gone
                    .as_ref()
                    .is_some_and(|(whose, _)| whose == holder);
                if !known {
                    self.state.holder_gone = Some((holder.clone(), *since));
                }
            }
            _ => self.state.holder_gone = None,
        }
        found.map(|(evidence, _)| evidence)
    }

    fn gone(&mut self, lease: &SeenLease, record: &Record) -> Option<(ClaimEvidence, Millis)> {
        let holder = lease.holder.as_ref()?;
        if record.durability == Durability::Async || self.i_hold(lease) {
            return None;
        }
        let member: MemberName = holder.split('_').next()?.parse().ok()?;
        let sight = self.seen.holder.as_ref().filter(|sight| sight.holder == *holder);
        let answered = self.answered_at(&member, holder);
        if let Some(refused) = sight.and_then(|s| s.refused)
            && let Some(since) = self.dead(refused, answered)
        {
            return Some((ClaimEvidence::Dead, since));
        }
        let since = self.silent_since(sight, answered)?;
        let silence = self.settings.silence_timeout;
        let renewed = self.now().since(since) < silence || lease.unchanged_for < silence;
        (!renewed).then_some((ClaimEvidence::Silent, since))
    }

    /// When the question began that the holder's sidecar answered last. A pod that came after it answers for itself only.
    fn answered_at(&self, member: &MemberName, holder: &str) -> Option<Millis> {
        let peer = self.seen.peers.get(member)?;
        let is_holder = holder == format!("{member}_{}", peer.value.pod_uid);
        is_holder.then_some(peer.asked_at)
    }

    /// Refused twice, and this member's own receiver has ended by a look that began after the first refusal.
    fn dead(&mut self, (first, last): (Millis, Millis), answered: Option<Millis>) -> Option<Millis> {
        if self.now().since(last) > REFUSED_LATELY || answered.is_some_and(|at| at >= first) {
            return None;
        }
        // The answers and the look that a claim needs must be younger than the death.
        self.ask_peers_every = Millis(20);
        self.probe_every = Millis(20);
        self.wake_in(Millis(20));
        let ended = matches!(
            self.server_since(first),
            Some(ServerView::Standby { streaming: false, .. } | ServerView::Down)
        );
        (ended && last.since(first) >= REFUSED_FOR).then_some(first)
    }

    /// Since when nothing is heard: no answer of its sidecar, none of its postmaster. None: too little was asked to say so.
    fn silent_since(&self, sight: Option<&HolderSight>, answered: Option<Millis>) -> Option<Millis> {
        // A process that has just started has not listened yet.
        let listening = self.state.started_at?;
        // A server that was heard and refuses now is not heard any more.
        let heard = sight
            .filter(|s| !s.server_refused)
            .and_then(|s| s.server_heard_at);
        Some(
            listening
                .max(answered.unwrap_or_default())
                .max(heard.unwrap_or_default()),
        )
    }

    /// Whether everybody who answered since the holder was gone would make a proof by pledges.
    pub(super) fn would_prove_now(&self, record: &Record, mine: &MemberData) -> Result<(), NoProof> {
        let since = self
            .state
            .holder_gone
            .as_ref()
            .map_or(self.now(), |(_, since)| *since);
        let fresh = Millis(self.now().0.saturating_sub(PEER_FRESH.0)).max(since);
        self.would_prove_of(record, mine, fresh).map(|_| ())
    }

    /// For how long the Lease has been open to an early claim.
    pub(super) fn open_early_for(&self, evidence: ClaimEvidence) -> Millis {
        let needed = match evidence {
            ClaimEvidence::Dead => REFUSED_FOR,
            _ => self.settings.silence_timeout,
        };
        let since = self
            .state
            .holder_gone
            .as_ref()
            .map_or(self.now(), |(_, since)| *since);
        self.now().since(since.plus(needed))
    }
}
