//! Pods as the tutorial makes them, without guard and sidecar, and how they are converted.

use pgbaton::core::adoption::{FoundServer, ServerAnswer, Survey};
use pgbaton::core::record::Record;
use pgbaton::core::types::{DataId, Millis, SystemId, Timeline};
use pgbaton::guard::protocol::DownReason;

use crate::machine::{Data, Proc};
use crate::sidecar::Input;
use crate::wal::{self, Entry};
use crate::world::{Event, Plan, World, name, settings};

/// Between two rounds of questions.
const EVERY: u64 = 1_000;

impl World {
    /// A primary and its standbys, none with a guard, all with the same rows; the record says never initialised.
    pub fn plain(plan: Plan) -> Self {
        let mut world = Self::new(plan);
        let system = SystemId(4711);
        let log: Vec<Entry> = (0..30)
            .map(|id| Entry {
                timeline: 1,
                id: 1_000_000 + id,
            })
            .collect();
        for member in 0..world.plan.members {
            let id = DataId::from_random(world.rng.bytes());
            let wal = log.clone();
            let machine = &mut world.machines[member];
            machine.data = Some(Data {
                id,
                system,
                wal,
                clean: false,
            });
            machine.flushed = log.len();
            machine.unadopted = true;
            machine.signal = member != 0;
            world.run_plain(member);
        }
        world.run(1_000);
        world
    }

    /// The pod runs without guard and sidecar, as its files say.
    pub fn run_plain(&mut self, member: usize) {
        self.touch(member);
        self.sidecars[member].up = false;
        let machine = &mut self.machines[member];
        machine.plain = true;
        machine.up = true;
        machine.flushed = machine.length();
        machine.next_look = 0;
        machine.names.clear();
        machine.defined = false;
        if machine.signal {
            machine.proc = Proc::Standby;
            machine.following = Some(name(0));
            machine.standby_name = "walreceiver".to_owned();
        } else {
            machine.proc = Proc::Primary;
            machine.following = None;
        }
    }

    /// A person deletes the pod; the new one, `millis` later, has guard and sidecar.
    pub fn convert(&mut self, member: usize, millis: u64) {
        say!(self, "** {} gets guard and sidecar", name(member));
        self.end_plain(member, true);
        self.at(self.now + millis, Event::PodBack(member, true, false));
    }

    /// The pod's end: by a fast stop, or by SIGKILL.
    pub fn end_plain(&mut self, member: usize, clean: bool) {
        if clean && self.machines[member].proc == Proc::Primary {
            self.shutdown_checkpoint(member);
            // A fast stop does not end before those who stream have all.
            let all = self.machines[member].data.as_ref().map(|d| d.wal.clone());
            for other in 0..self.plan.members {
                let machine = &mut self.machines[other];
                let streams = machine.stream.is_some_and(|(to, _, _)| to == member);
                if let (Some(data), Some(all), true) = (&mut machine.data, &all, streams) {
                    data.wal.clone_from(all);
                    machine.flushed = all.len();
                }
            }
        }
        self.touch(member);
        let machine = &mut self.machines[member];
        if clean {
            machine.flushed = machine.length();
        }
        machine.kill(DownReason::Stopped);
        machine.plain = false;
        machine.up = false;
        machine.following = None;
        if let Some(data) = &mut machine.data {
            data.clean = clean;
        }
    }

    /// Asks all servers, as long as the cluster was never initialised.
    pub fn survey(&mut self, member: usize) {
        let (live, life) = (self.sidecars[member].live(), self.sidecars[member].life);
        if live < self.sidecars[member].next_survey {
            return;
        }
        self.sidecars[member].next_survey = live + EVERY;
        let lease = self.api.lease();
        if !lease
            .and_then(|l| l.record().map(Record::is_never_initialised))
            .unwrap_or(false)
        {
            return;
        }
        let survey = if self.plan.may_not_list {
            Survey::Failed {
                why: "the right is missing".to_owned(),
                forbidden: true,
            }
        } else if !self.reaches_api(member) {
            Survey::Failed {
                why: "no answer".to_owned(),
                forbidden: false,
            }
        } else {
            let servers = (0..self.plan.members).map(|other| (name(other), self.found(member, other)));
            Survey::Taken {
                asked_at: Millis(live),
                servers: servers.collect(),
            }
        };
        // Not by chance: the other stories keep theirs.
        let when = self.now + 20 + (self.now * 7 + member as u64 * 131) % 560;
        self.tell_sidecar(when, member, life, Input::Survey(survey));
    }

    fn found(&self, asker: usize, other: usize) -> FoundServer {
        let machine = &self.machines[other];
        let reached = asker == other || self.linked(asker, other);
        let serves = reached && machine.is_live(self.now) && self.now >= machine.hung_until;
        let answer = match (&machine.data, &machine.proc) {
            (Some(data), Proc::Primary) if serves => ServerAnswer::ReadWrite {
                system_identifier: data.system,
            },
            (Some(data), Proc::Standby) if serves => ServerAnswer::Standby {
                system_identifier: data.system,
                timeline: Timeline(wal::timeline(&data.wal)),
                held: Some(wal::end(machine.held().saturating_sub(machine.unreplayed))),
            },
            _ => ServerAnswer::Silent {
                why: "connection refused".to_owned(),
            },
        };
        FoundServer {
            replicas: self.replicas.get(&other).copied().unwrap_or(1),
            address: machine.up.then(|| settings(&self.plan, other).address),
            answer,
        }
    }
}
