//! What takes long: initdb, a clone, a rewind.

use pgbaton::core::action::GuardOrder;
use pgbaton::core::observe::Outcome;
use pgbaton::core::types::{DataId, MemberName, SystemId};

use crate::machine::{Data, Running};
use crate::orders::kind_of;
use crate::sidecar::{Input, Lane};
use crate::touches;
use crate::wal::{self, Entry};
use crate::world::World;

impl World {
    pub fn operation_ends(&mut self, member: usize) {
        let Some(running) = self.machines[member].running.clone() else {
            return;
        };
        let result = self.operate(member, &running);
        if let Err(error) = &result {
            say!(
                self,
                "  {}: {} failed: {error}",
                self.machines[member].name,
                kind_of(&running.order)
            );
        }
        let error = result.err();
        self.machines[member].end_operation(error.clone());
        self.tell_of_guard(member);
        if error.is_some() {
            let outcome = Outcome::Guard {
                order: running.order,
                error,
            };
            self.tell_sidecar(
                self.now,
                member,
                running.life,
                Input::Outcome(Lane::None, outcome),
            );
        }
    }

    fn source(&self, member: usize, upstream: &MemberName, timeline: u32) -> Result<Data, String> {
        let source = self
            .machines
            .iter()
            .position(|m| m.name == *upstream)
            .ok_or("unknown source")?;
        self.touches(touches::member(source));
        let machine = &self.machines[source];
        if !self.linked(member, source) || !machine.writes(self.now) || self.now < machine.hung_until {
            return Err("the source cannot be reached".to_owned());
        }
        let mut data = machine.data.clone().ok_or("the source has no data")?;
        // A copy brings what was flushed.
        data.wal.truncate(machine.held());
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
        machine.flushed = machine.length();
        machine.fresh = !matches!(running.order, GuardOrder::Initialise);
        (machine.unadopted, machine.adopting) = (false, false);
        machine.read_rest();
        Ok(())
    }
}
