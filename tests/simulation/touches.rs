//! What a thing that happens looks at or changes, as bits: a fault that has nothing of it in common can as well come before it.

use crate::world::{Event, World};

/// As many members fit.
pub const MEMBERS: usize = 4;
/// What the Lease holds.
pub const LEASE: u64 = 1 << 8;

/// The processes and the data of a member, and what lies in its sidecar.
pub fn member(member: usize) -> u64 {
    1 << (member % MEMBERS)
}

/// Whether a member reaches the API server.
pub fn api(member: usize) -> u64 {
    1 << (4 + member % MEMBERS)
}

/// Whether what the first sends arrives at the second.
pub fn link(from: usize, to: usize) -> u64 {
    1 << (16 + from % MEMBERS * MEMBERS + to % MEMBERS)
}

impl World {
    /// The thing that happens now looks at this, or changes it.
    pub fn touches(&self, bits: u64) {
        self.touched.set(self.touched.get() | bits);
    }
}

impl Event {
    /// Those whom it reaches; what it looks at on its way is noted there.
    pub fn touches(&self) -> u64 {
        match self {
            Self::ToSidecar(m, ..)
            | Self::ToGuard(m, _)
            | Self::Permit(m, ..)
            | Self::GuardTells(m)
            | Self::Sql(m, ..)
            | Self::Looked(m, ..)
            | Self::Watch(m, ..)
            | Self::Reset(m, _)
            | Self::PodBack(m, ..)
            | Self::SidecarBack(m) => member(*m),
            Self::Asked(question) => member(question.to),
            Self::Swap(request) => member(request.member) | LEASE,
            Self::GivesUp(request) => member(request.member),
            Self::Reply(reply) => member(reply.request.member),
            // It looks whether that log is still the same.
            Self::Wal(sent) => member(sent.to) | member(sent.from),
            Self::Flushed(message) => member(message.to),
            Self::Closed(closed) => member(closed.to),
        }
    }
}
