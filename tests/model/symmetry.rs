//! Members differ in their numbers only, so states that differ in these only are one.

use crate::state::{MEMBERS, NO_SET, NOBODY, Record, Set, State, id};

/// The orders in which three members can be numbered, but for the one that is.
const ORDERS: [[usize; MEMBERS]; 5] = [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The least of all states that are the same.
pub fn representative(state: &State, members: usize) -> State {
    let orders = ORDERS
        .iter()
        .filter(|order| (members..MEMBERS).all(|m| order[m] == m));
    orders
        .map(|order| renumbered(state, *order))
        .fold(*state, Ord::min)
}

/// `to[m]` is the new number of `m`.
fn renumbered(state: &State, to: [usize; MEMBERS]) -> State {
    let mut next = *state;
    let number = |m: u8| if m == NOBODY { m } else { id(to[usize::from(m)]) };
    let renumber_record = |record: &mut Record| {
        record.primary.0 = number(record.primary.0);
        record.current = set(record.current, to);
        let formers: Vec<Set> = record.formers().map(|former| set(former, to)).collect();
        record.set_formers(formers.into_iter());
    };
    next.lease.holder = number(next.lease.holder);
    renumber_record(&mut next.lease.record);
    if let Some((by, lease)) = &mut next.in_flight {
        (*by, lease.holder) = (number(*by), number(lease.holder));
        renumber_record(&mut lease.record);
    }
    next.before.iter_mut().for_each(renumber_record);
    for (m, member) in state.members.iter().enumerate() {
        let moved = &mut next.members[to[m]];
        *moved = *member;
        moved.names = set(member.names, to);
        moved.obeyed = set(member.obeyed, to);
        next.pledged[to[m]] = state.pledged[m];
    }
    for installed in next.installed.iter_mut().filter(|i| i.timeline != 0) {
        installed.member = number(installed.member);
    }
    next
}

fn set(of: Set, to: [usize; MEMBERS]) -> Set {
    if of == NO_SET || of == Set::EMPTY {
        return of;
    }
    let k = u16::try_from(of.k()).unwrap();
    Set::of(of.standbys().map(|(m, life)| (to[m], life)), k)
}
