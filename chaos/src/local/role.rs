//! The two containers of a member's pod.

use nix::sys::signal::Signal;

use crate::names::{SERVER_CONTAINER, SIDECAR_CONTAINER};

/// One of a pod's two containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The guard with the server.
    Server,
    /// The sidecar.
    Sidecar,
}

impl Role {
    /// Both, in the order of starting.
    pub const ALL: [Self; 2] = [Self::Sidecar, Self::Server];

    /// The container's name.
    #[must_use]
    pub fn container(self) -> &'static str {
        match self {
            Self::Server => SERVER_CONTAINER,
            Self::Sidecar => SIDECAR_CONTAINER,
        }
    }

    /// The stop signal: the official image says SIGINT (a fast shutdown).
    pub(super) fn stop_signal(self) -> Signal {
        match self {
            Self::Server => Signal::SIGINT,
            Self::Sidecar => Signal::SIGTERM,
        }
    }
}
