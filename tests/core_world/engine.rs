//! Time passes for guards and servers: permits end, starts and stops come to their end, orders are carried out.

use pgbaton::core::action::{GuardOrder, SqlJob};
use pgbaton::core::observe::{GuardView, Outcome};
use pgbaton::core::types::{DataId, MemberName, SystemId, Term, Timeline};
use pgbaton::guard::protocol::{DownReason, Pledge};

use crate::hands::Letter;
use crate::machine::{Busy, Data, Names, Proc, Running};
use crate::sidecar::{Input, Lane};
use crate::wal::{self, Entry};
use crate::world::{Event, STEP, World};

impl World {
    /// One step of a member's containers.
    pub fn tick(&mut self, member: usize) {
        let now = self.now;
        if !self.machines[member].is_live(now) {
            return;
        }
        self.machines[member].before = self.machines[member].data.as_ref().map_or(0, |d| d.wal.len());
        self.machines[member].read_found();
        let ended = self.machines[member].permit.filter(|(_, until)| *until <= now);
        if ended.is_some() {
            self.machines[member].permit = None;
            if self.machines[member].may_become_primary() {
                self.say(&format!(
                    "  {}: the permit ended, the guard kills the server",
                    self.machines[member].name
                ));
                self.machines[member].kill(DownReason::PermitEnded);
            }
        }
        match self.machines[member].proc.clone() {
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
        if let Some(busy) = self.machines[member].busy.clone().filter(|b| now >= b.until) {
            self.machines[member].busy = None;
            let result = self.finish(member, &busy);
            self.guard_answers(member, busy.life, busy.order, result.err());
        }
        self.tick_pod(member);
    }

    /// A pod on its way out: the guard ends with its server, the sidecar when nothing is half done.
    fn tick_pod(&mut self, member: usize) {
        let now = self.now;
        let machine = &mut self.machines[member];
        if !machine.stopping {
            return;
        }
        if now >= machine.stop_by && !machine.is_down() {
            machine.permit = None;
            if !matches!(machine.proc, Proc::Stopping { .. }) {
                let clean = matches!(machine.proc, Proc::Primary | Proc::Standby);
                machine.proc = Proc::Stopping {
                    until: now + 100,
                    clean,
                };
            }
        }
        if machine.is_down() && machine.busy.is_none() && machine.up {
            machine.up = false;
        }
        let holder = self.sidecars[member].settings.holder.clone();
        let holds = self.sidecars[member]
            .lease
            .as_ref()
            .and_then(Option::as_ref)
            .is_some_and(|l| l.holder.as_ref() == Some(&holder));
        let late = now >= machine.stop_by + 5_000;
        if !machine.up && self.sidecars[member].up && (!holds || late) {
            self.sidecars[member].up = false;
        }
    }

    fn started(&mut self, member: usize, primary: bool) {
        let id = self.id();
        let machine = &mut self.machines[member];
        let Some(data) = &mut machine.data else { return };
        machine.fresh = false;
        machine.defined = !machine.names.is_empty();
        if !primary {
            machine.proc = Proc::Standby;
            return;
        }
        let timeline = wal::timeline(&data.wal);
        data.wal.push(Entry { timeline, id });
        data.clean = false;
        machine.proc = Proc::Primary;
        machine.before = 0;
        self.checks.opened(&self.machines[member]);
    }

    fn stopped(&mut self, member: usize, clean: bool) {
        // A fast stop of a primary writes its checkpoint and sends it to those who stream.
        if clean && self.machines[member].senders.iter().any(|_| true) {
            self.shutdown_checkpoint(member);
        }
        let machine = &mut self.machines[member];
        machine.kill(DownReason::Stopped);
        if let Some(data) = &mut machine.data {
            data.clean = clean;
        }
        machine.read_rest();
    }

    pub fn shutdown_checkpoint(&mut self, member: usize) {
        let id = self.id();
        let Some(data) = &mut self.machines[member].data else {
            return;
        };
        let timeline = wal::timeline(&data.wal);
        data.wal.push(Entry { timeline, id });
        self.replicate();
        self.replicate();
    }

    fn operation_ends(&mut self, member: usize) {
        let Some(running) = self.machines[member].running.clone() else {
            return;
        };
        let result = self.operate(member, &running);
        if let Err(error) = &result {
            self.say(&format!(
                "  {}: {} failed: {error}",
                self.machines[member].name,
                crate::machine::kind_of(&running.order)
            ));
        }
        let error = result.err();
        self.machines[member].end_operation(error.clone());
        if error.is_some() {
            let outcome = Outcome::Guard {
                order: running.order,
                error,
            };
            self.at(
                self.now,
                Event::ToSidecar(member, running.life, Input::Outcome(Lane::None, outcome)),
            );
        }
    }

    fn source(&self, member: usize, upstream: &MemberName, timeline: u32) -> Result<Data, String> {
        let source = self
            .machines
            .iter()
            .position(|m| m.name == *upstream)
            .ok_or("unknown source")?;
        let machine = &self.machines[source];
        if !self.linked(member, source) || !machine.writes(self.now) || self.now < machine.hung_until {
            return Err("the source cannot be reached".to_owned());
        }
        let data = machine.data.clone().ok_or("the source has no data")?;
        if wal::timeline(&data.wal) == timeline {
            Ok(data)
        } else {
            Err("the source is on another timeline".to_owned())
        }
    }

    fn operate(&mut self, member: usize, running: &Running) -> Result<(), String> {
        let fresh = DataId::from_random(self.rng.bytes());
        let data = match &running.order {
            GuardOrder::Initialise => {
                let id = self.id();
                if self.machines[member].permit.is_none() {
                    self.machines[member].incomplete = true;
                    return Err("the permit ended".to_owned());
                }
                let system = SystemId(self.rng.next());
                Data {
                    id: fresh,
                    system,
                    wal: vec![Entry { timeline: 1, id }],
                    clean: true,
                }
            }
            GuardOrder::Clone {
                upstream,
                timeline,
                system_identifier,
                ..
            } => {
                let source = self.source(member, upstream, timeline.0)?;
                if source.system != *system_identifier {
                    return Err("the source is another cluster".to_owned());
                }
                Data {
                    id: fresh,
                    clean: false,
                    ..source
                }
            }
            GuardOrder::Rewind {
                upstream, timeline, ..
            } => {
                let source = self.source(member, upstream, timeline.0)?;
                let own = self.machines[member].data.clone().ok_or("no data")?;
                if wal::timeline(&own.wal) == wal::timeline(&source.wal) {
                    return Err("no rewind required".to_owned());
                }
                Data {
                    id: fresh,
                    clean: false,
                    ..source
                }
            }
            _ => return Ok(()),
        };
        let machine = &mut self.machines[member];
        machine.data = Some(data);
        machine.incomplete = false;
        machine.fresh = !matches!(running.order, GuardOrder::Initialise);
        (machine.unadopted, machine.adopting) = (false, false);
        machine.read_rest();
        Ok(())
    }

    /// An order reaches the guard.
    pub fn arrive(&mut self, member: usize, letter: Letter) {
        let machine = &self.machines[member];
        if !machine.is_live(self.now) {
            if machine.up {
                self.at(self.now + STEP, Event::ToGuard(member, Box::new(letter)));
            } else {
                self.guard_answers(
                    member,
                    letter.life,
                    letter.order,
                    Some("the guard is out of sight".to_owned()),
                );
            }
            return;
        }
        if machine.busy.is_some() {
            self.at(self.now + STEP, Event::ToGuard(member, Box::new(letter)));
            return;
        }
        if letter.boot != machine.boot && self.sidecars[member].life == letter.life {
            let reason = "meant for another boot".to_owned();
            let outcome = Outcome::GuardBusy {
                order: letter.order,
                reason,
            };
            self.at(
                self.now,
                Event::ToSidecar(member, letter.life, Input::Outcome(Lane::Guard, outcome)),
            );
            return;
        }
        let foreign = letter.boot != machine.boot || letter.data != machine.data_id();
        let now = self.now;
        let begun = if foreign {
            Err("meant for another boot or data".to_owned())
        } else {
            self.machines[member].begin(letter.term, &letter.order, now)
        };
        match begun {
            Ok(takes) => {
                let text = format!("{:?}", letter.order);
                let short: String = text.chars().take(60).collect();
                self.say(&format!(
                    "  {} is ordered in term {}: {short}",
                    self.machines[member].name, letter.term
                ));
                self.machines[member].busy = Some(Busy {
                    until: now + takes,
                    term: letter.term,
                    order: letter.order,
                    life: letter.life,
                });
            }
            Err(error) => {
                let short: String = format!("{:?}", letter.order).chars().take(40).collect();
                self.say(&format!(
                    "  {} refuses {short} of term {}: {error}",
                    self.machines[member].name, letter.term
                ));
                self.guard_answers(member, letter.life, letter.order, Some(error));
            }
        }
    }

    pub fn guard_answers(&mut self, member: usize, life: u64, order: GuardOrder, error: Option<String>) {
        // The status comes with the answer, so that the next decision sees both.
        if self.machines[member].up && self.sidecars[member].life == life {
            let status = self.machines[member].status(self.now);
            let live = self.sidecars[member].live;
            self.sidecars[member].guard = GuardView::Heard(Box::new(pgbaton::core::record::Evidence {
                value: status,
                asked_at: pgbaton::core::types::Millis(live),
            }));
        }
        let outcome = Outcome::Guard { order, error };
        self.at(
            self.now,
            Event::ToSidecar(member, life, Input::Outcome(Lane::Guard, outcome)),
        );
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
            GuardOrder::StartPrimary { .. } if !machine.permitted(busy.term, now) => {
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
        let now = self.now;
        let machine = &mut self.machines[member];
        if !machine.permitted(term, now) || machine.proc != Proc::Standby {
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

    /// Events whose moment has come.
    pub fn happen(&mut self) {
        let (due, later) = std::mem::take(&mut self.events)
            .into_iter()
            .partition(|(at, _)| *at <= self.now);
        self.events = later;
        let due: Vec<(u64, Event)> = due;
        for (_, event) in due {
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::ToSidecar(member, life, input) => {
                if self.sidecars[member].up && self.sidecars[member].life == life {
                    if self.now < self.machines[member].frozen_until {
                        self.at(self.now + STEP, Event::ToSidecar(member, life, input));
                    } else {
                        self.sidecars[member].take_in(input);
                    }
                }
            }
            Event::ToGuard(member, letter) => self.arrive(member, *letter),
            Event::Permit(member, boot, term, deadline) => {
                let live = self.machines[member].is_live(self.now);
                if live && self.machines[member].boot == boot && deadline.0 > self.now {
                    self.machines[member].permit_order(term, deadline);
                }
            }
            Event::Sql(member, life, job, names) => self.statement(member, life, job, &names),
            Event::PodBack(member, new_pod, wiped) => self.pod_back(member, new_pod, wiped),
            Event::SidecarBack(member) => {
                let clock = self.rng.between(100, 100_000);
                self.sidecars[member].restart(clock);
            }
        }
    }

    fn statement(&mut self, member: usize, life: u64, job: SqlJob, began_with: &str) {
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
                SqlJob::EndWalsenders { pids } => machine.senders.retain(|s| !pids.contains(&s.pid)),
            }
        }
        let error = (!well).then(|| "the server does not answer".to_owned());
        let outcome = Outcome::Sql { job, error };
        self.at(
            self.now,
            Event::ToSidecar(member, life, Input::Outcome(Lane::Sql, outcome)),
        );
    }
}
