//! Time passes for guards and servers: permits end, starts and stops come to their end, orders are carried out.

use pgbaton::core::action::{GuardOrder, SqlJob};
use pgbaton::core::observe::Outcome;
use pgbaton::core::types::{MemberName, Term, Timeline};
use pgbaton::guard::protocol::{DownReason, Pledge};

use crate::hands::Letter;
use crate::machine::{Busy, Names, Proc, Running, STOP_WAITS};
use crate::sidecar::{Input, Lane};
use crate::wal::{self, Entry};
use crate::world::{Event, World};

/// Between two tries of what must wait.
const AGAIN: u64 = 20;
/// How long a pod that ends is waited for after its stop signal's time.
const LATE: u64 = 5_000;

impl World {
    /// When something happens in a member's containers by itself.
    pub fn machine_due(&self, member: usize) -> u64 {
        let machine = &self.machines[member];
        let mut at = u64::MAX;
        let mut by = |moment: Option<u64>| at = at.min(moment.unwrap_or(u64::MAX));
        if machine.stopping && self.sidecars[member].up {
            by(Some(self.now + AGAIN));
        }
        if !machine.up {
            return at;
        }
        by(machine
            .permit
            .map(|(_, until)| self.now + machine.boot_clock.until(until)));
        match machine.proc {
            Proc::Starting { until, .. } | Proc::Stopping { until, .. } => by(Some(until)),
            Proc::Down(_) | Proc::Standby | Proc::Primary => {}
        }
        by(machine.running.as_ref().map(|r| r.until));
        by(machine.busy.as_ref().map(|b| b.until));
        if machine.wants_to_read() {
            by(Some(self.now));
        }
        if !machine.is_down() {
            by(Some(machine.server_due()));
        }
        at.max(machine.frozen_until)
    }

    /// What is due in a member's containers.
    pub fn tick(&mut self, member: usize) {
        let now = self.now;
        if self.machines[member].is_live(now) {
            self.tick_guard(member);
            self.tick_server(member);
        }
        self.tick_pod(member);
    }

    fn tick_guard(&mut self, member: usize) {
        let now = self.now;
        if self.machines[member].wants_to_read() {
            self.machines[member].read_rest();
            self.tell_of_guard(member);
        }
        let boot_now = self.machines[member].boot_now();
        if self.machines[member]
            .permit
            .is_some_and(|(_, until)| until <= boot_now)
        {
            self.machines[member].permit = None;
            if self.machines[member].may_become_primary() {
                say!(
                    self,
                    "  {}: the permit ended, the guard kills the server",
                    self.machines[member].name
                );
                self.machines[member].kill(DownReason::PermitEnded);
            }
            self.tell_of_guard(member);
        }
        match self.machines[member].proc {
            Proc::Starting { until, primary } if now >= until => self.started(member, primary),
            Proc::Stopping { until, clean } if now >= until => self.stopped(member, clean),
            _ => {}
        }
        if self.machines[member]
            .running
            .as_ref()
            .is_some_and(|r| now >= r.until)
        {
            self.operation_ends(member);
        }
        if self.machines[member]
            .busy
            .as_ref()
            .is_some_and(|b| now >= b.until)
        {
            self.order_ends(member);
        }
    }

    fn order_ends(&mut self, member: usize) {
        let Some(mut busy) = self.machines[member].busy.take() else {
            return;
        };
        let stops = matches!(busy.order, GuardOrder::Stop { .. });
        if stops && !self.machines[member].is_down() {
            busy.until = self.now + AGAIN;
            self.machines[member].busy = Some(busy);
            return;
        }
        let result = self.finish(member, &busy);
        self.guard_answers(member, busy.life, busy.order, result.err());
    }

    /// The guard tells its sidecar, when something changed.
    pub fn tell_of_guard(&mut self, member: usize) {
        if !self.sidecars[member].is_told {
            self.sidecars[member].is_told = true;
            let when = self.now + self.rng.between(0, 3);
            self.at(when, Event::GuardTells(member));
        }
    }

    /// A pod on its way out: the guard ends with its server, the sidecar when nothing is half done.
    fn tick_pod(&mut self, member: usize) {
        let now = self.now;
        let machine = &mut self.machines[member];
        if !machine.stopping || now < machine.frozen_until {
            return;
        }
        if now >= machine.stop_by && !machine.is_down() {
            machine.permit = None;
            if !matches!(machine.proc, Proc::Stopping { .. }) {
                let clean = matches!(machine.proc, Proc::Primary | Proc::Standby);
                machine.stops(now, clean);
            }
        }
        if machine.is_down() && machine.busy.is_none() && machine.up {
            machine.up = false;
            self.tell_of_guard(member);
        }
        let holds = self.sidecars[member].holds_lease();
        let machine = &self.machines[member];
        let late = now >= machine.stop_by + LATE;
        if !machine.up && self.sidecars[member].up && (!holds || late) {
            self.sidecars[member].up = false;
        }
    }

    fn started(&mut self, member: usize, primary: bool) {
        let id = self.id();
        let now = self.now;
        let machine = &mut self.machines[member];
        let Some(data) = &mut machine.data else { return };
        machine.fresh = false;
        machine.defined = !machine.names.is_empty();
        machine.next_look = now;
        if primary {
            let timeline = wal::timeline(&data.wal);
            data.wal.push(Entry { timeline, id });
            data.clean = false;
            machine.proc = Proc::Primary;
        } else {
            machine.proc = Proc::Standby;
        }
        // Recovery and its end are flushed.
        machine.flushed = machine.length();
        if primary {
            self.checks.opened(&self.machines[member]);
        }
        self.tell_of_guard(member);
    }

    fn stopped(&mut self, member: usize, clean: bool) {
        let now = self.now;
        let machine = &self.machines[member];
        let waits = clean && !machine.senders.is_empty();
        if waits && machine.stop_waits_until.is_none() {
            // A fast stop of a primary writes its checkpoint and sends it to those who stream.
            self.shutdown_checkpoint(member);
            self.machines[member].stop_waits_until = Some(now + STOP_WAITS);
        }
        let machine = &mut self.machines[member];
        let length = machine.length();
        let behind = machine.senders.iter().any(|s| s.flush != Some(length));
        if waits && behind && machine.stop_waits_until.is_some_and(|until| now < until) {
            let until = now + AGAIN;
            machine.proc = Proc::Stopping { until, clean };
            return;
        }
        if clean {
            machine.flushed = length;
        }
        machine.kill(DownReason::Stopped);
        if let Some(data) = &mut machine.data {
            data.clean = clean;
        }
        machine.read_rest();
        self.tell_of_guard(member);
    }

    pub fn shutdown_checkpoint(&mut self, member: usize) {
        let id = self.id();
        let machine = &mut self.machines[member];
        let Some(data) = &mut machine.data else {
            return;
        };
        let timeline = wal::timeline(&data.wal);
        data.wal.push(Entry { timeline, id });
        machine.flushed = machine.length();
        self.send_all(member);
    }

    /// An order reaches the guard.
    pub fn arrive(&mut self, member: usize, letter: Letter) {
        let machine = &self.machines[member];
        let now = self.now;
        if !machine.up {
            let gone = Some("the guard is out of sight".to_owned());
            return self.guard_answers(member, letter.life, letter.order, gone);
        }
        if now < machine.frozen_until || machine.busy.is_some() {
            let when = machine.frozen_until.max(now + AGAIN);
            return self.at(when, Event::ToGuard(member, Box::new(letter)));
        }
        if letter.boot != machine.boot && self.sidecars[member].life == letter.life {
            let reason = "meant for another boot".to_owned();
            let outcome = Outcome::GuardBusy {
                order: letter.order,
                reason,
            };
            let input = Input::Outcome(Lane::Guard, outcome);
            return self.tell_sidecar(now, member, letter.life, input);
        }
        let foreign = letter.boot != machine.boot || letter.data != machine.data_id();
        let begun = if foreign {
            Err("meant for another boot or data".to_owned())
        } else {
            self.machines[member].begin(letter.term, &letter.order, now)
        };
        self.tell_of_guard(member);
        match begun {
            Ok(takes) => {
                say!(
                    self,
                    "  {} is ordered in term {}: {:.60}",
                    self.machines[member].name,
                    letter.term,
                    format!("{:?}", letter.order)
                );
                // Not longer than in the last story, not always as long.
                let takes = takes * self.rng.between(50, 100) / 100;
                self.machines[member].busy = Some(Busy {
                    until: now + takes,
                    term: letter.term,
                    order: letter.order,
                    life: letter.life,
                });
            }
            Err(error) => {
                say!(
                    self,
                    "  {} refuses {:.40} of term {}: {error}",
                    self.machines[member].name,
                    format!("{:?}", letter.order),
                    letter.term
                );
                self.guard_answers(member, letter.life, letter.order, Some(error));
            }
        }
    }

    /// The status comes with the answer, so that the next decision sees both.
    pub fn guard_answers(&mut self, member: usize, life: u64, order: GuardOrder, error: Option<String>) {
        let outcome = Outcome::Guard { order, error };
        self.tell_sidecar(self.now, member, life, Input::Outcome(Lane::Guard, outcome));
    }

    fn finish(&mut self, member: usize, busy: &Busy) -> Result<(), String> {
        let (now, id) = (self.now, self.id());
        let number = self.id();
        let machine = &mut self.machines[member];
        match busy.order.clone() {
            order @ (GuardOrder::Initialise | GuardOrder::Clone { .. } | GuardOrder::Rewind { .. }) => {
                let takes = if matches!(order, GuardOrder::Rewind { .. }) {
                    200
                } else {
                    400
                };
                machine.running = Some(Running {
                    until: now + takes,
                    order,
                    life: busy.life,
                    number,
                });
            }
            GuardOrder::StartPrimary { .. } if !machine.permitted(busy.term) => {
                return Err("the permit ended".to_owned());
            }
            GuardOrder::StartPrimary { names } => {
                machine.adopting = false;
                machine.names = names;
                machine.following = None;
                machine.proc = Proc::Starting {
                    until: now + 200,
                    primary: true,
                };
            }
            GuardOrder::Follow {
                upstream,
                standby_name,
                names,
                ..
            } => {
                machine.standby_name = standby_name;
                self.run_standby(member, Some(upstream), &names);
            }
            GuardOrder::StandAlone { names } => self.run_standby(member, None, &names),
            GuardOrder::Pledge { .. } => self.pledge(member, busy.term),
            GuardOrder::SetNames { names } => self.set_names(member, &names),
            GuardOrder::Promote { timeline } => return self.promote(member, busy.term, timeline, id),
            GuardOrder::Stop { .. } => machine.read_rest(),
            GuardOrder::NoteTerm => {}
            GuardOrder::Adopt => {
                machine.adopting = machine.unadopted && !machine.signal;
                machine.unadopted = false;
            }
        }
        Ok(())
    }

    fn pledge(&mut self, member: usize, term: Term) {
        let machine = &mut self.machines[member];
        // A receiver flushes what it has when it ends.
        machine.flushed = machine.length();
        let read = machine.data.as_ref().filter(|_| !machine.fresh);
        let position = read.and_then(|d| wal::position(&d.wal));
        machine.pledge = Some(Pledge { term, position });
        machine.read_rest();
        if let (Some(data), Some(log)) = (
            machine.member_data(),
            machine.data.as_ref().map(|d| d.wal.clone()),
        ) {
            machine.given.insert((data, term), log);
        }
    }

    fn promote(&mut self, member: usize, term: Term, timeline: Timeline, id: u64) -> Result<(), String> {
        let machine = &mut self.machines[member];
        if !machine.permitted(term) || machine.proc != Proc::Standby {
            return Err("the permit ended".to_owned());
        }
        let held = machine.data.as_ref().map_or(0, |d| wal::timeline(&d.wal));
        if held >= timeline.0 {
            self.checks.fail(format!(
                "{} is promoted to timeline {timeline} and holds {held}",
                self.machines[member].name
            ));
            return Ok(());
        }
        machine.promoted(timeline, id);
        self.checks.new_timeline(Entry {
            timeline: timeline.0,
            id,
        });
        self.checks.opened(&self.machines[member]);
        Ok(())
    }

    fn run_standby(&mut self, member: usize, upstream: Option<MemberName>, names: &str) {
        if self.machines[member].names != names {
            self.set_names(member, names);
        }
        let until = self.now + 100;
        let machine = &mut self.machines[member];
        if machine.following != upstream || upstream.is_none() {
            machine.stream = None;
        }
        machine.following = upstream;
        if machine.is_down() {
            let primary = false;
            machine.proc = Proc::Starting { until, primary };
        }
    }

    fn set_names(&mut self, member: usize, names: &str) {
        let now = self.now;
        let late: Vec<u64> = (0..self.machines[member].senders.len())
            .map(|_| self.rng.between(0, 1_500))
            .collect();
        let checkpointer = self.rng.between(0, 2_500);
        let machine = &mut self.machines[member];
        machine.names = names.to_owned();
        for (sender, late) in machine.senders.iter_mut().zip(late) {
            sender.reload = Some(now + late);
        }
        // A busy checkpointer reads the names when it is done.
        machine.defined_due = Some(now.max(machine.checkpoint_until) + checkpointer);
    }

    pub fn statement(&mut self, member: usize, life: u64, job: SqlJob, began_with: &str) {
        let machine = &mut self.machines[member];
        let well = machine.writes(self.now) && self.now >= machine.hung_until;
        if well {
            match &job {
                // One that began before the names were set says nothing of them.
                SqlJob::Checkpoint if machine.names != began_with => {}
                SqlJob::Checkpoint => {
                    machine.defined = !Names::parse(&machine.names).names.is_empty();
                    machine.defined_due = None;
                }
                SqlJob::EndWalsenders { pids } => machine.keep_senders(|s| !pids.contains(&s.pid)),
            }
        }
        let error = (!well).then(|| "the server does not answer".to_owned());
        let outcome = Outcome::Sql { job, error };
        self.tell_sidecar(self.now, member, life, Input::Outcome(Lane::Sql, outcome));
    }
}
