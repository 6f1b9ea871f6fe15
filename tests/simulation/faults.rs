//! What goes wrong, and what people do.

use pgbaton::core::observe::{PersonOrder, PersonWish, RecordView};
use pgbaton::core::types::Term;
use pgbaton::guard::protocol::DownReason;

use crate::wal;
use crate::world::{Event, World, name};

#[derive(Debug, Clone)]
pub enum Fault {
    /// SIGKILL for the postmaster.
    KillServer(usize),
    /// All processes of the pod die; it is back after so many ms.
    KillPod(usize, u64),
    /// As above, and the volume is empty then.
    LosePodAndData(usize, u64),
    /// The pod is deleted in an orderly way; a new one comes after so many ms.
    DeletePod(usize, u64),
    /// As above, if it is not the primary and the others have their data: one loss at a time is what k = 1 stands for.
    LoseStandby(usize, u64),
    /// The record is lost while a primary and its sidecar run (a sidecar that starts then cannot write it back).
    LoseRecord,
    /// The Lease is deleted and applied again, at any moment.
    EmptyLease,
    KillSidecar(usize, u64),
    /// The guard's container restarts: its server dies with it.
    RestartGuard(usize),
    /// The guard's container dies and is back after so many ms, the sidecar stays.
    GuardAway(usize, u64),
    /// As `KillPod`, and what was not flushed is lost.
    PowerLoss(usize, u64),
    HangServer(usize, u64),
    /// Nothing can be flushed.
    StallDisk(usize, u64),
    FreezePod(usize, u64),
    /// The node stands still with all of its clocks.
    Suspend(usize, u64),
    /// The volume is full.
    FillVolume(usize, u64),
    /// The standby is connected and gets nothing.
    SlowStandby(usize, u64),
    CutPeers(usize, usize, u64),
    /// Nothing that the first sends arrives at the second.
    CutOneWay(usize, usize, u64),
    CutApi(usize, u64),
    /// A member sees old versions of the Lease only.
    LagWatch(usize, u64),
    ApiDown(u64),
    /// So many percent of replies are lost and requests late, for so long.
    Lossy(u64, u64),
    Switchover(Option<usize>),
    Pause,
    Resume,
    /// The member's manifest of the first day is applied again: `STANDBY_MODE=off` for its next pod.
    Reapply(usize),
    /// Nothing, for so many ms.
    Wait(u64),
}

impl World {
    pub fn fault(&mut self, fault: &Fault) {
        say!(self, "** {fault:?}");
        self.stale_all();
        let now = self.now;
        match fault {
            Fault::Suspend(m, millis) => {
                self.machines[*m].frozen_until = now + millis;
                self.machines[*m].suspended_until = now + millis;
            }
            Fault::StallDisk(m, millis) => self.machines[*m].stalled_until = now + millis,
            Fault::HangServer(m, millis) => self.machines[*m].hung_until = now + millis,
            Fault::FillVolume(m, millis) => self.machines[*m].full_until = now + millis,
            Fault::FreezePod(m, millis) => self.machines[*m].frozen_until = now + millis,
            Fault::SlowStandby(m, millis) => self.machines[*m].slow_until = now + millis,
            Fault::CutPeers(a, b, millis) => {
                self.cuts[*a][*b] = now + millis;
                self.cuts[*b][*a] = now + millis;
            }
            Fault::CutOneWay(from, to, millis) => self.cuts[*from][*to] = now + millis,
            Fault::CutApi(m, millis) => self.api_cuts[*m] = now + millis,
            Fault::LagWatch(m, millis) => self.api.lags_until[*m] = now + millis,
            Fault::ApiDown(millis) => self.api.down_until = now + millis,
            Fault::Lossy(percent, millis) => {
                self.api.lose_percent = *percent;
                self.api.lose_until = now + millis;
            }
            Fault::Switchover(to) => {
                let id = format!("order{now}");
                self.order(&id, PersonWish::Switchover { to: to.map(name) });
            }
            Fault::LoseRecord => self.lose_record_of_a_whole_cluster(),
            Fault::EmptyLease => self.damage("deleted and applied again", |lease| {
                (lease.term, lease.holder, lease.record) = (Term(0), None, RecordView::Missing);
            }),
            Fault::Pause => self.order(&format!("pause{now}"), PersonWish::Pause),
            Fault::Resume => self.order(&format!("resume{now}"), PersonWish::Resume),
            Fault::Reapply(m) => self.sidecars[*m].settings.first_primary = true,
            Fault::Wait(millis) => self.run(*millis),
            of_a_pod => self.fault_of_a_pod(of_a_pod),
        }
    }

    /// Processes end, pods go.
    fn fault_of_a_pod(&mut self, fault: &Fault) {
        let now = self.now;
        match fault {
            Fault::KillServer(m) => {
                if self.machines[*m].is_live(now) {
                    self.machines[*m].kill(DownReason::Crashed);
                    self.tell_of_guard(*m);
                }
            }
            Fault::KillPod(m, millis) => self.kill_pod(*m, *millis, false, false),
            Fault::LosePodAndData(m, millis) => self.kill_pod(*m, *millis, true, true),
            Fault::LoseStandby(m, millis) => {
                let full = self.wants_for_whole().is_none();
                if full && self.primary() != Some(*m) {
                    self.kill_pod(*m, *millis, true, true);
                }
            }
            Fault::DeletePod(m, millis) => {
                if self.machines[*m].up {
                    self.machines[*m].stopping = true;
                    self.machines[*m].stop_by = now + 5_000;
                    self.sidecars[*m].terminating = true;
                    self.at(now + 12_000 + millis, Event::PodBack(*m, true, false));
                }
            }
            Fault::KillSidecar(m, millis) => {
                if self.sidecars[*m].up && !self.machines[*m].stopping {
                    self.sidecars[*m].up = false;
                    self.at(now + millis, Event::SidecarBack(*m));
                }
            }
            Fault::RestartGuard(m) => {
                if self.machines[*m].up && !self.machines[*m].stopping {
                    self.end_container(*m);
                    self.machines[*m].up = true;
                    self.tell_of_guard(*m);
                }
            }
            Fault::GuardAway(m, millis) => {
                if self.machines[*m].up && !self.machines[*m].stopping {
                    self.end_container(*m);
                    self.at(now + millis, Event::PodBack(*m, false, false));
                }
            }
            Fault::PowerLoss(m, millis) => {
                if self.machines[*m].up || self.sidecars[*m].up {
                    self.machines[*m].lose_unflushed();
                    self.kill_pod(*m, *millis, false, false);
                }
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn lose_record_of_a_whole_cluster(&mut self) {
        let lags = |m| self.now < self.api.lags_until[m];
        // Those who must say that nobody led after it are heard.
        let heard = |m| (0..self.plan.members).all(|other| self.linked(m, other));
        let seen =
            (0..self.plan.members).all(|m| self.awake(m) && self.reaches_api(m) && !lags(m) && heard(m));
        if seen && self.wants_for_whole().is_none() && self.now >= self.api.lose_until {
            self.lose_record();
            self.until("the record is back", 3_000, |w| w.api.record().is_some());
        }
    }

    /// Every process of the guard's container ends.
    fn end_container(&mut self, member: usize) {
        self.tell_of_guard(member);
        self.touch(member);
        let machine = &mut self.machines[member];
        machine.kill(DownReason::Crashed);
        machine.proc = crate::machine::Proc::Down(DownReason::NotStarted);
        machine.up = false;
        machine.boot += 1;
        machine.permit = None;
        machine.following = None;
        machine.rest = None;
        machine.stopping = false;
        machine.last_operation = None;
        machine.frozen_until = 0;
        machine.suspended_until = 0;
        machine.hung_until = 0;
        let busy = machine.busy.take();
        let running = machine.running.take();
        if let Some(running) = running
            && !matches!(running.order, pgbaton::core::action::GuardOrder::Clone { .. })
        {
            // A rewind or initdb that was cut off leaves no usable data.
            machine.incomplete = true;
            machine.data = None;
        }
        if let Some(busy) = busy {
            let error = Some("the guard is out of sight".to_owned());
            self.guard_answers(member, busy.life, busy.order, error);
        }
    }

    pub fn kill_pod(&mut self, member: usize, millis: u64, new_pod: bool, wiped: bool) {
        if !self.machines[member].up && !self.sidecars[member].up {
            return;
        }
        self.end_container(member);
        self.machines[member].gone = new_pod;
        self.sidecars[member].up = false;
        self.at(self.now + millis, Event::PodBack(member, new_pod, wiped));
    }

    pub fn pod_back(&mut self, member: usize, new_pod: bool, wiped: bool) {
        if self.machines[member].up && !new_pod {
            return;
        }
        if new_pod && !wiped && self.machines[member].up && !self.machines[member].stopping {
            return;
        }
        self.end_container(member);
        self.machines[member].up = true;
        self.machines[member].gone = false;
        if wiped {
            let machine = &mut self.machines[member];
            machine.data = None;
            machine.incomplete = false;
            machine.fresh = false;
            (machine.unadopted, machine.adopting) = (false, false);
            machine.highest_term = Term(0);
            machine.knows_term = false;
            machine.pledge = None;
            machine.names.clear();
        }
        if new_pod {
            self.sidecars[member].pod += 1;
            self.sidecars[member].up = false;
        }
        if !self.sidecars[member].up {
            self.sidecar_starts(member);
        }
    }

    pub fn order(&mut self, id: &str, what: PersonWish) {
        let order = PersonOrder {
            id: id.to_owned(),
            what,
        };
        self.api.put(false, |lease| lease.order = Some(order));
    }

    /// A person adopts data that holds all that was acknowledged.
    pub fn adopt_what_holds_all(&mut self, id: &str) {
        let has_all = |m: &crate::machine::Machine| {
            let log = m.data.as_ref().filter(|_| m.up && !m.incomplete);
            log.is_some_and(|d| wal::is_within(&self.checks.acked, &d.wal[..m.held()]))
        };
        if let Some(best) = self.machines.iter().position(has_all) {
            let member = name(best);
            self.order(id, PersonWish::Adopt { member });
        }
    }

    pub fn damage(&mut self, how: &str, change: impl FnOnce(&mut crate::api::Lease)) {
        say!(self, "** the Lease is damaged: {how}");
        self.api.put(true, change);
    }

    pub fn lose_record(&mut self) {
        self.damage("no record", |lease| lease.record = RecordView::Missing);
    }

    /// Every fault ends now.
    pub fn heal(&mut self) {
        say!(self, "** all faults end");
        self.stale_all();
        let now = self.now;
        self.mend_cuts();
        self.api_cuts.fill(0);
        self.api.lags_until.fill(0);
        self.api.down_until = 0;
        self.api.lose_until = 0;
        for machine in &mut self.machines {
            machine.hung_until = 0;
            machine.slow_until = 0;
            machine.full_until = 0;
            machine.stalled_until = 0;
            machine.frozen_until = machine.frozen_until.min(now);
            machine.suspended_until = machine.suspended_until.min(now);
        }
        self.end_permits();
        self.queue
            .hasten(|event| matches!(event, Event::PodBack(..)), now + 15_000);
    }
}
