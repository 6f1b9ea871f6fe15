//! What must be reachable, so that nothing holds for want of anything happening.

use stateright::Property;

use crate::model::Protocol;
use crate::state::State;

/// The properties that some state must have, as far as the bounds allow them.
pub fn properties(protocol: &Protocol) -> Vec<Property<Protocol>> {
    let mut properties = vec![
        Property::sometimes("a member fails over to another", |_, s: &State| {
            s.opened.timeline >= 2
        }),
        Property::sometimes("a write is acknowledged after a failover", |_, s: &State| {
            s.acked.timeline >= 2
        }),
        Property::sometimes("two servers are read-write at once", |_, s: &State| {
            writers(s) >= 2
        }),
        Property::sometimes("a primary leads on in a later term", |_, s: &State| {
            s.lease.record.term >= 2 && s.lease.record.timeline == 1
        }),
        Property::sometimes("an old primary is a standby again", |_, s: &State| {
            s.members
                .iter()
                .any(|m| m.life > 0 && !m.writes && m.pos.timeline >= 2)
        }),
    ];
    if protocol.bounds.terms >= 3 {
        properties.push(Property::sometimes(
            "a second failover follows",
            |_, s: &State| s.opened.timeline >= 3,
        ));
    }
    if protocol.bounds.changes > 0 && protocol.faults.lost_volume {
        properties.push(Property::sometimes(
            "the set of a lost member is dropped",
            |_, s: &State| {
                let record = &s.lease.record;
                let is_lost = s.members.iter().any(|m| m.is_empty);
                is_lost && s.changes > 0 && record.formers().next().is_none() && s.acked.len > 0
            },
        ));
    }
    properties
}

fn writers(state: &State) -> usize {
    state.members.iter().filter(|m| m.writes).count()
}
