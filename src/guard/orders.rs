//! Who may order what, and in which order (DESIGN.md section 2).

use std::path::Path;
use std::sync::{Arc, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use super::clock::boot_ms;
use super::live::{Guard, Role, lock};
use super::protocol::{
    Answer, DataState, DownReason, Order, PROTOCOL_VERSION, Permit, Refusal, Request, Server, Stamp, Upstream,
};
use super::server::{Outcome, Problem, wrong_state};
use super::settings::{Desired, conninfo, unfit, upstream_unfit};
use crate::core::types::Term;

/// Longest permit that is believed: more is a mistake of the sender's.
const LONGEST_PERMIT_MS: u64 = 10 * 60 * 1000;
/// Longest wait of `Watch`.
const LONGEST_WATCH_MS: u64 = 10_000;
/// How long an order waits for the one before it.
const TURN: Duration = Duration::from_secs(5);

impl Guard {
    /// Answers one request.
    #[must_use]
    pub fn answer(self: &Arc<Self>, request: &Request) -> Answer {
        if request.version != PROTOCOL_VERSION {
            return refused(
                Refusal::Malformed,
                format!(
                    "version {} of the protocol is unknown here, this guard speaks version {PROTOCOL_VERSION}: run sidecar and guard of \
                     the same release",
                    request.version
                ),
            );
        }
        self.live().last_contact = Some(boot_ms());
        let outcome = match &request.order {
            Order::Status => Ok(()),
            Order::Watch { revision, wait_ms } => {
                self.watch(*revision, *wait_ms);
                Ok(())
            }
            Order::Permit { deadline_boot_ms } => self.permit(request.stamp.as_ref(), *deadline_boot_ms),
            _ => self.in_turn(request),
        };
        match outcome {
            Ok(()) => Answer::Ok {
                status: Box::new(self.status()),
            },
            Err(Problem::Refused(cause, reason)) => Answer::Refused {
                reason,
                cause,
                status: Some(Box::new(self.status())),
            },
            Err(Problem::Failed(reason)) => {
                tracing::error!("{reason}");
                Answer::Failed {
                    reason,
                    status: Box::new(self.status()),
                }
            }
        }
    }

    fn watch(&self, revision: u64, wait_ms: u64) {
        let end = Instant::now() + Duration::from_millis(wait_ms.min(LONGEST_WATCH_MS));
        let mut live = self.live();
        while live.revision == revision {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return;
            };
            live = self.wait(live, left);
        }
    }

    /// The stamp is meant for this boot and this data, and its term is not over.
    fn check_stamp<'a>(&self, stamp: Option<&'a Stamp>) -> Outcome<&'a Stamp> {
        let refuse = |cause, why: String| Err(Problem::Refused(cause, why));
        let Some(stamp) = stamp else {
            return refuse(Refusal::Malformed, "this order needs a stamp".to_owned());
        };
        let live = self.live();
        if stamp.boot_id != self.boot_id {
            return refuse(Refusal::Foreign, "meant for another boot of the guard".to_owned());
        }
        if stamp.system_identifier != live.system_identifier || stamp.data_id != live.data_id {
            return refuse(
                Refusal::Foreign,
                "meant for other data than what is here".to_owned(),
            );
        }
        let lowest = live.highest_term.max(live.barred_below);
        if stamp.term < lowest {
            let why = format!("term {} is over: this member has seen term {lowest}", stamp.term);
            return refuse(Refusal::OldTerm, why);
        }
        Ok(stamp)
    }

    fn permit(&self, stamp: Option<&Stamp>, deadline_boot_ms: u64) -> Outcome {
        let stamp = self.check_stamp(stamp)?;
        let now = boot_ms();
        if deadline_boot_ms <= now {
            return Err(Problem::Refused(
                Refusal::NotPermitted,
                format!("the permit ended {} ms ago", now - deadline_boot_ms),
            ));
        }
        if deadline_boot_ms - now > LONGEST_PERMIT_MS {
            return Err(Problem::Refused(
                Refusal::Malformed,
                "a permit of more than ten minutes".to_owned(),
            ));
        }
        self.note_term(stamp.term)?;
        let mut live = self.live();
        // Again, under the lock under which it is given: a pledge may have begun meanwhile.
        let lowest = live.highest_term.max(live.barred_below);
        if stamp.term < lowest {
            return Err(Problem::Refused(
                Refusal::OldTerm,
                format!("term {} is over: this member has seen term {lowest}", stamp.term),
            ));
        }
        let (last_term, last_sequence) = live.last_sequence;
        if stamp.term == last_term && stamp.sequence < last_sequence && live.barred_permits {
            return Err(Problem::Refused(
                Refusal::OldSequence,
                "the permit was asked for before the order that gave it up".to_owned(),
            ));
        }
        let longer = live
            .permit
            .filter(|p| p.term == stamp.term)
            .map_or(0, |p| p.deadline_boot_ms);
        let permit = Permit {
            term: stamp.term,
            deadline_boot_ms: deadline_boot_ms.max(longer),
        };
        let extends = longer > 0;
        live.permit = Some(permit);
        if !extends {
            live.revision += 1;
        }
        drop(live);
        if !extends {
            self.nudge();
        }
        Ok(())
    }

    /// Writes a term that is new here.
    fn note_term(&self, term: Term) -> Outcome {
        let known = {
            let live = self.live();
            term <= live.highest_term && live.knows_term
        };
        if known {
            return Ok(());
        }
        self.save(|state| {
            state.highest_term = state.highest_term.max(term);
            state.knows_term = true;
        })
        .map_err(|e| Problem::Failed(format!("term {term} could not be written: {e}")))
    }

    /// One order at a time; waits a bounded time for its turn.
    fn turn(&self) -> Outcome<MutexGuard<'_, ()>> {
        let end = Instant::now() + TURN;
        loop {
            match self.orders.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Problem::Refused(
                        Refusal::Busy,
                        "another order is being carried out".to_owned(),
                    ));
                }
            }
        }
    }

    fn in_turn(self: &Arc<Self>, request: &Request) -> Outcome {
        self.check_stamp(request.stamp.as_ref())?;
        check_texts(&request.order)?;
        let turn = self.turn()?;
        // Again: the order before may have been one of a later term.
        let stamp = self.check_stamp(request.stamp.as_ref())?;
        {
            let mut live = self.live();
            let (term, sequence) = live.last_sequence;
            if stamp.term == term && stamp.sequence <= sequence {
                return Err(Problem::Refused(
                    Refusal::OldSequence,
                    format!("order {} came after order {sequence}", stamp.sequence),
                ));
            }
            let interrupts = matches!(
                request.order,
                Order::Stop { .. } | Order::Pledge { .. } | Order::NoteTerm
            );
            if live.operation.is_some() && !interrupts {
                return Err(Problem::Refused(
                    Refusal::Busy,
                    "an initialisation, clone or rewind runs".to_owned(),
                ));
            }
            live.last_sequence = (stamp.term, stamp.sequence);
            live.barred_permits = matches!(request.order, Order::Stop { .. } | Order::Pledge { .. });
        }
        self.note_term(stamp.term)?;
        let result = self.carry_out(&request.order, stamp);
        drop(turn);
        result
    }

    fn carry_out(self: &Arc<Self>, order: &Order, stamp: &Stamp) -> Outcome {
        let term = stamp.term;
        self.must_be_adopted(order)?;
        match order {
            Order::Status | Order::Watch { .. } | Order::Permit { .. } | Order::NoteTerm => Ok(()),
            Order::Adopt => self.adopt(),
            Order::Initialise => self.initialise(term, stamp.sequence),
            Order::StartPrimary {
                synchronous_standby_names,
            } => {
                self.must_be_down()?;
                self.end_adoption()?;
                self.set(synchronous_standby_names, None)?;
                self.start(Role::Primary, Some(term), &[])
            }
            Order::Follow {
                upstream,
                slot,
                synchronous_standby_names,
            } => self.follow(synchronous_standby_names, Some((upstream.clone(), slot.clone()))),
            Order::StandAlone {
                synchronous_standby_names,
            } => self.follow(synchronous_standby_names, None),
            Order::Pledge { hint } => self.pledge(term, *hint),
            Order::SetNames {
                synchronous_standby_names,
            } => {
                let upstream = lock(&self.desired).upstream.clone();
                self.set(synchronous_standby_names, upstream)?;
                self.reload();
                Ok(())
            }
            Order::Promote { timeline } => self.promote(term, *timeline),
            Order::Stop { fast_ms, hint } => {
                self.stop_server(Duration::from_millis(*fast_ms), DownReason::Stopped);
                self.read_rest(*hint);
                Ok(())
            }
            Order::Clone {
                upstream,
                system_identifier,
                timeline,
                bytes,
                replace,
                source_major,
                notes,
            } => {
                self.must_be_down()?;
                let source = super::clone::Source {
                    upstream: upstream.clone(),
                    system_identifier: *system_identifier,
                    timeline: *timeline,
                    bytes: *bytes,
                    replace: *replace,
                    major: *source_major,
                    notes: notes.clone(),
                    term,
                };
                self.clone_from_source(source, stamp.sequence)
            }
            Order::Rewind {
                upstream,
                timeline,
                source_major,
            } => {
                self.must_be_down()?;
                self.rewind(upstream.clone(), *timeline, *source_major, stamp.sequence)
            }
        }
    }

    fn set(&self, names: &str, upstream: Option<(Upstream, String)>) -> Outcome {
        let names = names.to_owned();
        Ok(self.write_settings(&Desired { names, upstream })?)
    }

    fn must_be_down(&self) -> Outcome {
        if matches!(self.live().server, Server::Down { .. }) {
            Ok(())
        } else {
            wrong_state("the server runs: stop it first")
        }
    }

    fn follow(self: &Arc<Self>, names: &str, upstream: Option<(Upstream, String)>) -> Outcome {
        let (role, data) = {
            let live = self.live();
            (live.role, live.data)
        };
        if data != DataState::Complete {
            return wrong_state("PGDATA holds no complete database: clone it first");
        }
        match role {
            Role::None => {
                self.must_be_down()?;
                self.set(names, upstream)?;
                self.start(Role::Standby, None, &[])
            }
            Role::Standby => {
                // A new password alone is for the next connection.
                let place = |u: Option<&(Upstream, String)>| {
                    u.map(|(u, slot)| (conninfo(u, Path::new(""), None), slot.clone()))
                };
                let moves = place(lock(&self.desired).upstream.as_ref()) != place(upstream.as_ref());
                self.set(names, upstream)?;
                self.reload();
                if moves {
                    self.renew_receiver();
                }
                Ok(())
            }
            Role::Promoting | Role::Primary | Role::Initialising => {
                wrong_state("the server is read-write: stop it first")
            }
        }
    }
}

fn check_texts(order: &Order) -> Outcome {
    let bad = match order {
        Order::StartPrimary {
            synchronous_standby_names: names,
        }
        | Order::StandAlone {
            synchronous_standby_names: names,
        }
        | Order::SetNames {
            synchronous_standby_names: names,
        } => unfit(names),
        Order::Follow {
            upstream,
            slot,
            synchronous_standby_names: names,
        } => unfit(names) || unfit(slot) || upstream_unfit(upstream),
        Order::Clone { upstream, .. } | Order::Rewind { upstream, .. } => upstream_unfit(upstream),
        _ => false,
    };
    if bad {
        return Err(Problem::Refused(
            Refusal::Malformed,
            "a name or password holds a control character, which no configuration or password file can"
                .to_owned(),
        ));
    }
    Ok(())
}

/// A refusal to somebody who may not see the status.
#[must_use]
pub fn refused(cause: Refusal, reason: String) -> Answer {
    Answer::Refused {
        reason,
        cause,
        status: None,
    }
}
