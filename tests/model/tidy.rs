//! Takes out of a state what cannot matter any more, so that states which differ only in it are one.

use crate::model::Protocol;
use crate::rules::Without;
use crate::state::{
    FLUSHED, FORMERS, Installed, LIVES, MEMBERS, Member, NO_SET, Pos, Record, Set, State, id,
};

pub fn tidy(state: &mut State, protocol: &Protocol) {
    for m in 0..MEMBERS {
        let member = &mut state.members[m];
        if member.highest > member.leads || member.is_empty {
            member.leads = 0;
        }
        if member.leads == 0 && !member.writes {
            member.names = Set::EMPTY;
        }
        if !member.writes {
            member.obeyed = Set::EMPTY;
        }
        if !member.writes || member.leads == 0 || state.lease.holder != id(m) {
            member.mark = 0;
        }
        if member.mark > 0 && state.may_drop_formers(m, &protocol.without) {
            // What it has seen it does not unsee, whatever becomes of the standby.
            state.members[m].mark = FLUSHED;
        }
    }
    // Nobody can be told any more to follow those who led before all that is seen.
    for (term, installed) in state.installed.iter_mut().enumerate() {
        let is_over = |m: &Member| usize::from(m.highest) > term && usize::from(m.leads) != term;
        if state.members.iter().all(is_over) {
            *installed = Installed::default();
        }
    }
    if state.lease.record.term == state.lease.term && !protocol.without.pledges_of_this_term {
        state.pledged = Default::default();
    }
    let goes_on = protocol.without.conditional_swaps || protocol.faults.lost_record;
    if goes_on {
        // What seems over may come back.
    } else if protocol.is_over(state) {
        end(state, protocol);
    } else if protocol.is_last_claim(state) && protocol.without == Without::default() {
        state.changes = protocol.bounds.changes;
        only_what_proofs_need(state);
    }
    if !protocol.without.new_life {
        renumber_lives(state);
    }
}

/// Nobody takes over from the primary of the last term: sets, proofs and faults decide nothing any more.
fn end(state: &mut State, protocol: &Protocol) {
    let record = &mut state.lease.record;
    record.current = Set::EMPTY;
    record.formers = [NO_SET; FORMERS];
    record.rest = Pos::default();
    (state.faults, state.changes) = (protocol.bounds.faults, protocol.bounds.changes);
    state.in_flight = None;
    let primary = usize::from(record.primary.0);
    let member = &mut state.members[primary];
    if member.leads == state.lease.term {
        // Whom it waits for matters to nobody: what it acknowledges is its own.
        (member.names, member.obeyed) = (Set::EMPTY, Set::EMPTY);
    }
}

/// Nobody changes sets any more and one member alone may still be promoted: a set that asks for nothing beyond what another one asks for
/// decides nothing, nor does a life that is over and has not pledged.
fn only_what_proofs_need(state: &mut State) {
    let is_dead = |m: usize, life: u8| {
        let member = &state.members[m];
        let is_over = member.is_empty || member.life != life;
        is_over && state.pledged[m][usize::from(life)].timeline == 0
    };
    let mut asked: Vec<(u16, u32)> = Vec::new();
    let record = &state.lease.record;
    for set in std::iter::once(record.current).chain(record.formers()) {
        let needed = set.standbys().count() + 1 - usize::try_from(set.k()).unwrap();
        let alive = Set::of(set.standbys().filter(|(m, life)| !is_dead(*m, *life)), 0);
        let needed = u32::try_from(needed).unwrap();
        if set.k() == 0 || needed > alive.0.count_ones() {
            // No pledges will ever do.
            asked = vec![(0, 1)];
            break;
        }
        asked.push((alive.0, needed));
    }
    asked.sort_unstable();
    asked.dedup();
    let follows = |of: &(u16, u32), from: &(u16, u32)| {
        of != from && (of.0 & from.0).count_ones() + from.1 >= from.0.count_ones() + of.1
    };
    let mut kept: Vec<(u16, u32)> = Vec::new();
    for (i, set) in asked.iter().enumerate() {
        // Of two that ask for the same the first is kept.
        let is_asked = kept.iter().any(|other| follows(set, other));
        let will_be = asked[i + 1..]
            .iter()
            .any(|other| follows(set, other) && !follows(other, set));
        if !is_asked && !will_be {
            kept.push(*set);
        }
    }
    let sets = kept.iter().map(|(bits, needed)| {
        let k = (bits.count_ones() + 1).saturating_sub(*needed);
        Set(*bits).with_k(u16::try_from(k).unwrap())
    });
    let sets: Vec<Set> = sets.collect();
    let record = &mut state.lease.record;
    record.current = sets[0];
    record.set_formers(sets[1..].iter().copied());
}

/// A life that nothing names any more gives its number to the next one.
fn renumber_lives(state: &mut State) {
    let mut sets = Vec::new();
    let mut used = [[false; LIVES]; MEMBERS];
    let mut note = |m: u8, life: u8| used[usize::from(m)][usize::from(life)] = true;
    let late = state.in_flight.iter().map(|(_, lease)| &lease.record);
    for record in late.chain([&state.lease.record]).chain(&state.before) {
        sets.push(record.current);
        sets.extend(record.formers());
        note(record.primary.0, record.primary.1);
    }
    for member in &state.members {
        sets.extend([member.names, member.obeyed]);
    }
    for (m, life) in sets.iter().flat_map(|set| set.standbys()) {
        note(id(m), life);
    }
    for installed in state.installed.iter().filter(|i| i.timeline != 0) {
        note(installed.member, installed.life);
    }
    for (m, member) in state.members.iter().enumerate() {
        note(id(m), member.life);
        for life in (0..LIVES).filter(|l| state.pledged[m][*l].timeline != 0) {
            note(id(m), id(life));
        }
    }
    let numbers = used.map(|lives| {
        let mut next = 0;
        lives.map(|is_used| {
            let number = next;
            next += u8::from(is_used);
            number
        })
    });
    let changes = (0..MEMBERS).any(|m| (0..LIVES).any(|l| used[m][l] && usize::from(numbers[m][l]) != l));
    if changes {
        renumber(state, &numbers);
    }
}

fn renumber(state: &mut State, numbers: &[[u8; LIVES]; MEMBERS]) {
    let life = |m: usize, life: u8| numbers[m][usize::from(life)];
    let set = |set: Set| {
        let k = u16::try_from(set.k()).unwrap();
        Set::of(set.standbys().map(|(m, l)| (m, life(m, l))), k)
    };
    let of_record = |record: &mut Record| {
        record.primary.1 = life(usize::from(record.primary.0), record.primary.1);
        record.current = set(record.current);
        let formers: Vec<Set> = record.formers().map(set).collect();
        record.set_formers(formers.into_iter());
    };
    of_record(&mut state.lease.record);
    state.before.iter_mut().for_each(of_record);
    if let Some((_, late)) = &mut state.in_flight {
        of_record(&mut late.record);
    }
    for installed in state.installed.iter_mut().filter(|i| i.timeline != 0) {
        installed.life = life(usize::from(installed.member), installed.life);
    }
    for (m, member) in state.members.iter_mut().enumerate() {
        (member.names, member.obeyed) = (set(member.names), set(member.obeyed));
        let told = state.pledged[m];
        state.pledged[m] = Default::default();
        for l in (0..LIVES).filter(|l| told[*l].timeline != 0) {
            state.pledged[m][usize::from(life(m, id(l)))] = told[l];
        }
        member.life = life(m, member.life);
    }
}
