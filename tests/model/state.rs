//! A state of the model: small numbers only, so that millions of them fit.

/// Members that the arrays have room for.
pub const MEMBERS: usize = 3;
/// Lives of one member's data.
pub const LIVES: usize = 3;
/// Terms and timelines that the arrays have room for; number 0 means none.
pub const TERMS: usize = 5;
/// Former sync sets that a record has room for.
pub const FORMERS: usize = 8;
/// The mark of a leader that has seen k of its set flush what it had marked.
pub const FLUSHED: u8 = u8::MAX;
/// No member.
pub const NOBODY: u8 = 9;
/// No sync set.
pub const NO_SET: Set = Set(u16::MAX);

/// The end of some WAL: a timeline, and how many entries lie before it. Timeline 0: none.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    pub timeline: u8,
    pub len: u8,
}

/// A sync set: one bit for each life of each member, and k above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set(pub u16);

const K_AT: u16 = 12;

impl Set {
    pub const EMPTY: Self = Self(0);

    /// Of these lives, `k` at the most.
    pub fn of(standbys: impl IntoIterator<Item = (usize, u8)>, k: u16) -> Self {
        let bits = standbys.into_iter().fold(0_u16, |bits, (m, life)| {
            bits | 1 << (m * LIVES + usize::from(life))
        });
        Self(bits).with_k(k)
    }

    pub fn with_k(self, k: u16) -> Self {
        let bits = self.bits();
        let n = u16::try_from(bits.count_ones()).unwrap_or(u16::MAX);
        Self(bits | k.min(n) << K_AT)
    }

    fn bits(self) -> u16 {
        self.0 & ((1 << K_AT) - 1)
    }

    pub fn k(self) -> u32 {
        u32::from(self.0 >> K_AT)
    }

    pub fn has(self, member: usize, life: u8) -> bool {
        self.0 & 1 << (member * LIVES + usize::from(life)) != 0
    }

    pub fn standbys(self) -> impl Iterator<Item = (usize, u8)> {
        let lives = (0..MEMBERS).flat_map(|m| (0..LIVES).map(move |l| (m, u8::try_from(l).unwrap_or(0))));
        lives.filter(move |(m, l)| self.has(*m, *l))
    }

    /// What may count while some processes obey these names and some obey those: the lower k of all of them.
    pub fn mixed_with(self, other: Self) -> Self {
        let k = (self.0 >> K_AT).min(other.0 >> K_AT);
        Self(self.bits() | other.bits()).with_k(k)
    }
}

/// The annotation of the Lease, as far as safety needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// The term in which the primary was installed or last continued.
    pub term: u8,
    /// The primary and the life of its data.
    pub primary: (u8, u8),
    pub timeline: u8,
    /// The highest timeline number given out.
    pub given: u8,
    /// By timeline: where it left its parent.
    pub promotions: [Pos; TERMS],
    pub current: Set,
    /// Sorted.
    pub formers: [Set; FORMERS],
    /// Where the primary rests, by its own word.
    pub rest: Pos,
}

impl Record {
    pub fn formers(&self) -> impl Iterator<Item = Set> {
        self.formers.into_iter().filter(|s| *s != NO_SET)
    }

    pub fn set_formers(&mut self, formers: impl Iterator<Item = Set>) {
        let mut sorted: Vec<Set> = formers.collect();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(
            sorted.len() <= FORMERS,
            "more former sets than the state has room for"
        );
        self.formers = [NO_SET; FORMERS];
        self.formers[..sorted.len()].copy_from_slice(&sorted);
    }
}

/// The Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    pub term: u8,
    pub holder: u8,
    pub record: Record,
    /// It was emptied: nobody can read the record.
    pub is_lost: bool,
}

/// A member: its data, its guard, and what its sidecar remembers.
///
/// Whom a standby follows is not kept: it may get WAL of whoever was installed in a term not below the highest that its guard has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The life of its data.
    pub life: u8,
    /// Its volume was lost and not filled again.
    pub is_empty: bool,
    pub pos: Pos,
    /// Its server is read-write.
    pub writes: bool,
    /// On disk: the highest term that it has seen, or has pledged to.
    pub highest: u8,
    /// Its sidecar may give its guard a permit of this term, or has; 0: none. What it has not seen since may be otherwise.
    pub leads: u8,
    /// The set in force by the last record that its sidecar led with, and the server's names.
    pub names: Set,
    /// What its processes may obey still: `names` alone once these are in force.
    pub obeyed: Set,
    /// 1 + the entries that the primary had when the names were found in force; 0: not yet; `FLUSHED`: k of the set were seen to have them.
    pub mark: u8,
}

/// Who was installed in a term, as those may believe still who have seen nothing later.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Installed {
    pub member: u8,
    pub life: u8,
    /// 0: nobody was.
    pub timeline: u8,
}

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub lease: Lease,
    pub members: [Member; MEMBERS],
    pub installed: [Installed; TERMS],
    /// Pledges to the Lease's term that were answered, by member and life: an answer may be late and is never unsaid.
    pub pledged: [[Pos; LIVES]; MEMBERS],
    /// The record that the leader before the recorded one led with last; kept only where records are lost.
    pub before: Option<Record>,
    /// A swap whose outcome its sender does not know, and who that is: it may land later.
    pub in_flight: Option<(u8, Lease)>,
    /// The truth: by timeline, where it left its parent; 0 for one that was never begun.
    pub forks: [Pos; TERMS],
    /// The truth: all that some client was told is durable.
    pub acked: Pos,
    /// Where the newest timeline began.
    pub opened: Pos,
    pub writes: u8,
    pub faults: u8,
    pub changes: u8,
    /// What was broken (`truth::Broken`).
    pub broken: u8,
}

impl State {
    /// Whether WAL up to `a` lies on the true history of `b`.
    pub fn is_within(&self, a: Pos, b: Pos) -> bool {
        let (mut at, mut left) = (b.timeline, b.len);
        while at != 0 {
            if at == a.timeline {
                return a.len <= left;
            }
            let fork = self.forks[usize::from(at)];
            left = left.min(fork.len);
            at = fork.timeline;
        }
        false
    }

    /// The next record that a standby at `from` gets from a server at `to`; none: none, or it is off that history.
    pub fn next_towards(&self, from: Pos, to: Pos) -> Option<Pos> {
        if from == to || !self.is_within(from, to) {
            return None;
        }
        let (mut child, mut at, mut end) = (0, to.timeline, to.len);
        while at != from.timeline {
            child = at;
            end = self.forks[usize::from(at)].len;
            at = self.forks[usize::from(at)].timeline;
        }
        let Pos { timeline, len } = from;
        Some(if len < end {
            Pos {
                timeline,
                len: len + 1,
            }
        } else {
            Pos { timeline: child, len }
        })
    }

    pub fn leads_by_record(&self, m: usize) -> bool {
        let member = &self.members[m];
        !member.is_empty && self.lease.record.primary == (id(m), member.life)
    }
}

/// A member's number as the record holds it.
pub fn id(m: usize) -> u8 {
    u8::try_from(m).unwrap_or(NOBODY)
}
