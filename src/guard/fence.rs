//! Ends the server when it may not run: at the permit's end, and whenever something is read-write without one (invariants 1, 8).
//! Nothing here waits for a disk, the socket or an order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::clock::boot_ms;
use super::disk::lay_file;
use super::live::{Guard, Live, Role, lock};
use super::protocol::{DownReason, Permit, Server};
use crate::core::types::Term;

/// How often the permit's end is looked at, at least.
const LOOK: Duration = Duration::from_millis(50);

impl Guard {
    /// True while the server may be read-write in this term.
    #[must_use]
    pub fn is_permitted(&self, term: Term) -> bool {
        self.live()
            .permit
            .is_some_and(|p| p.term == term && p.deadline_boot_ms > boot_ms())
    }

    /// The thread that ends the permit at its deadline.
    pub fn enforce_permit(self: &Arc<Self>) {
        loop {
            let live = self.live();
            let now = boot_ms();
            let Some(Permit {
                term,
                deadline_boot_ms,
            }) = live.permit
            else {
                drop(self.wait(live, LOOK));
                continue;
            };
            if deadline_boot_ms > now {
                drop(self.wait(live, LOOK.min(Duration::from_millis(deadline_boot_ms - now))));
                continue;
            }
            let ends_something = live.role.writes() || live.restartable;
            drop(live);
            if ends_something {
                let detail = format!("the permit of term {term} ended and nobody extended it");
                // Told again under the lock: an extension may have come in between.
                let fenced = self.fence(DownReason::PermitEnded, &detail, |live| {
                    live.permit.is_some_and(|p| p.deadline_boot_ms <= boot_ms())
                });
                if fenced {
                    let late_ms = boot_ms().saturating_sub(deadline_boot_ms);
                    tracing::info!(%term, late_ms, "nothing of the server is left after the permit's end");
                }
            } else {
                self.update(|live| {
                    if live.permit.is_some_and(|p| p.deadline_boot_ms <= boot_ms()) && !live.role.writes() {
                        live.permit = None;
                    }
                });
            }
        }
    }

    /// Gives up the permit, ends every process of the server, then lays `standby.signal`. Done only if `still` holds at the moment
    /// at which the permit is given up. Answers whether it was done.
    pub fn fence(
        self: &Arc<Self>,
        reason: DownReason,
        detail: &str,
        still: impl FnOnce(&Live) -> bool,
    ) -> bool {
        let mut live = self.live();
        if !still(&live) {
            return false;
        }
        live.permit = None;
        live.role = Role::None;
        live.fences += 1;
        let fences = live.fences;
        live.stopping_server = true;
        live.restartable = false;
        let was_down = matches!(live.server, Server::Down { .. });
        if !was_down {
            live.server = Server::Stopping;
        }
        live.revision += 1;
        drop(live);
        let killed = self.belongs.kill_all(&self.spared());
        self.update(|live| {
            // A stop that came after this finishes by itself; what was started after that is none of this fence's.
            if live.fences != fences {
                return;
            }
            live.server_pid = None;
            live.stopping_server = false;
            if !was_down || killed > 0 {
                live.server = Server::Down {
                    reason,
                    detail: detail.to_owned(),
                };
            }
        });
        tracing::warn!(killed, ?reason, "fenced: {detail}");
        self.lay_standby_signal_soon(fences);
        true
    }

    /// Where `standby.signal` is.
    #[must_use]
    pub fn standby_signal(&self) -> PathBuf {
        self.settings.pgdata.join("standby.signal")
    }

    /// Lays `standby.signal` from a thread of its own: the disk may hang, and the next kill must not wait for it. Not after something
    /// else was ordered meanwhile.
    fn lay_standby_signal_soon(self: &Arc<Self>, fences: u64) {
        let guard = Arc::clone(self);
        std::thread::spawn(move || {
            let order = lock(&guard.orders);
            let live = guard.live();
            let wanted = live.fences == fences && live.role == Role::None;
            drop(live);
            if wanted {
                guard.lay_standby_signal();
            }
            drop(order);
        });
    }

    /// Lays `standby.signal`, where there is a database.
    pub fn lay_standby_signal(&self) {
        if !self.settings.pgdata.join("PG_VERSION").exists() || self.is_found_primary() {
            return;
        }
        let result = lay_file(&self.standby_signal());
        let problem = result.err().map(|e| {
            format!(
                "standby.signal could not be laid in {} ({e}): do not start PostgreSQL there without pgbaton",
                self.settings.pgdata.display()
            )
        });
        self.warn("standby.signal", problem);
    }
}
