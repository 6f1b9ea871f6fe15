//! What is true whoever knows it: which commits were acknowledged, and what must never be. Judged by the true tree of timelines, never by
//! the record or the core's functions.

use crate::rules::Without;
use crate::state::{Pos, Set, State};

/// What must never be, as bits of `State::broken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A server became read-write without an acknowledged commit, or one was acknowledged that a later primary lacks.
    Lost = 1,
    /// Two commits were acknowledged that lie on no common history.
    Diverged = 2,
    /// A timeline was made a second time.
    TimelineTwice = 4,
    /// A timeline began elsewhere than the record says.
    SwitchPoint = 8,
    /// The holder of a term promoted itself twice, or two members run under one term.
    TermTwice = 16,
}

/// What is counted on the way, so that a run shows what it went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Installed with a proof by pledges of the sync sets.
    Quorums,
    /// Installed with a proof by where the old primary rests.
    AtRest,
    /// A primary led on in a later term.
    Continued,
    /// Former sets left the record.
    Released,
    /// Diverged data was made anew.
    Rejoined,
    /// A lost volume was filled again.
    Refilled,
    /// A swap landed after its sender had given up on it.
    LateSwap,
}

impl Seen {
    pub const ALL: [Self; 7] = [
        Self::Quorums,
        Self::AtRest,
        Self::Continued,
        Self::Released,
        Self::Rejoined,
        Self::Refilled,
        Self::LateSwap,
    ];
}

impl State {
    pub fn break_rule(&mut self, what: Broken) {
        self.broken |= what as u8;
    }

    pub fn has_broken(&self, what: Broken) -> bool {
        self.broken & what as u8 != 0
    }

    /// Acknowledges all that can be: no rule depends on what a client was told, so later is never worse.
    pub fn acknowledge(&mut self, without: &Without) {
        for m in 0..self.members.len() {
            let primary = self.members[m];
            if !primary.writes {
                continue;
            }
            // Only what was written on its own timeline waits there; what lies before it is acknowledged with it.
            let Pos { timeline, len } = primary.pos;
            let began = self.forks[usize::from(timeline)].len;
            let ends = (began + 1..=len).rev().map(|len| Pos { timeline, len });
            let confirmed = ends
                .into_iter()
                .find(|end| self.is_confirmed(without, primary.obeyed, *end));
            if let Some(end) = confirmed {
                self.note_acked(end);
            }
        }
    }

    /// Whether k of those that count have flushed up to there. The stream of a standby may have been cut since; what it had confirmed before
    /// that was confirmed.
    fn is_confirmed(&self, without: &Without, obeyed: Set, end: Pos) -> bool {
        let mut have = 0;
        for (m, member) in self.members.iter().enumerate() {
            let counts = if without.names_with_data {
                obeyed.standbys().any(|(of, _)| of == m)
            } else {
                obeyed.has(m, member.life)
            };
            if counts && !member.is_empty && self.is_within(end, member.pos) {
                have += 1;
            }
        }
        have >= obeyed.k()
    }

    fn note_acked(&mut self, end: Pos) {
        if self.is_within(end, self.acked) {
            return;
        }
        if !self.is_within(self.acked, end) {
            self.break_rule(Broken::Diverged);
        }
        let later = self.opened.timeline > end.timeline;
        if later && !self.is_within(end, self.opened) {
            self.break_rule(Broken::Lost);
        }
        self.acked = end;
    }

    /// A server becomes read-write with this WAL. One that does so on what it knew before a later one did serves old reads, as one does
    /// that goes on running; what matters is that it acknowledges nothing more.
    pub fn open(&mut self, pos: Pos) {
        if pos.timeline < self.opened.timeline {
            return;
        }
        if !self.is_within(self.acked, pos) {
            self.break_rule(Broken::Lost);
        }
        if pos.timeline > self.opened.timeline {
            self.opened = pos;
        }
    }
}
