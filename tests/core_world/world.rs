//! The world: members, their guards and sidecars, the API server, the network, one clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pgbaton::core::observe::{RecordView, Settings};
use pgbaton::core::record::{Availability, Durability, Record};
use pgbaton::core::types::{Address, MemberName, Millis};

use crate::api::Api;
use crate::check::Checks;
use crate::machine::{Machine, Proc};
use crate::rng::Rng;
use crate::sidecar::{Input, Sidecar};
use crate::wal;

/// Milliseconds of a step.
pub const STEP: u64 = 20;

#[derive(Debug, Clone)]
pub struct Plan {
    pub members: usize,
    pub seed: u64,
    pub durability: Durability,
    pub availability: Availability,
    pub sync_standbys: u32,
    pub maximum_lag: u64,
    /// Every checkpoint takes seconds.
    pub slow_checkpoints: bool,
    /// The right to list StatefulSets is missing.
    pub may_not_list: bool,
    /// Members marked by `STANDBY_MODE=off`.
    pub first: Vec<usize>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            members: 3,
            seed: 1,
            durability: Durability::Sync,
            availability: Availability::Available,
            sync_standbys: 1,
            maximum_lag: 1 << 20,
            slow_checkpoints: false,
            may_not_list: false,
            first: vec![0],
        }
    }
}

/// What happens to the guard or server later.
#[derive(Debug, Clone)]
pub enum Event {
    /// To a sidecar, if it is still the same process.
    ToSidecar(usize, u64, Input),
    /// To a guard: who sent it, in which life, for which boot and data.
    ToGuard(usize, Box<crate::hands::Letter>),
    Permit(usize, u64, pgbaton::core::types::Term, Millis),
    /// With the names that the server had when the statement began.
    Sql(usize, u64, pgbaton::core::action::SqlJob, String),
    /// A pod comes back: with a new UID or the same, its volume emptied or not.
    PodBack(usize, bool, bool),
    SidecarBack(usize),
}

#[derive(Debug, Clone)]
pub struct World {
    pub plan: Plan,
    pub now: u64,
    pub rng: Rng,
    pub api: Api,
    pub machines: Vec<Machine>,
    pub sidecars: Vec<Sidecar>,
    pub events: Vec<(u64, Event)>,
    /// Pairs of members that do not reach each other, and until when.
    pub cuts: BTreeMap<(usize, usize), u64>,
    /// Members that do not reach the API server, and until when.
    pub api_cuts: BTreeMap<usize, u64>,
    pub checks: Checks,
    /// Replicas of each StatefulSet, where not one.
    pub replicas: BTreeMap<usize, u32>,
    pub story: Vec<String>,
    pub next_id: u64,
    pub answers: Vec<(String, bool, String)>,
    /// Server state is shown in the story when it changes.
    pub shown: Vec<String>,
}

pub fn name(index: usize) -> MemberName {
    format!("m{}", index + 1).parse().unwrap()
}

pub fn settings(plan: &Plan, index: usize) -> Settings {
    Settings {
        me: name(index),
        holder: format!("{}_1", name(index)),
        address: Address {
            ip: format!("127.0.0.{}", index + 1),
            postgres_port: 5432,
            sidecar_port: 8008,
        },
        first_primary: plan.first.contains(&index),
        lease_duration: Millis(5_000),
        renew_interval: Millis(1_000),
        permit: Millis(4_000),
        health_timeout: Millis(3_000),
        pledge_timeout: Millis(3_000),
        silence_timeout: Millis(1_500),
        standby_timeout: Millis(3_000),
        sync_standbys: plan.sync_standbys,
        maximum_lag: plan.maximum_lag,
    }
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let record = Record::never_initialised(plan.durability, plan.availability);
        let asynchronous = plan.durability == Durability::Async;
        Self {
            now: 10_000,
            rng: Rng::new(plan.seed),
            api: Api::new(record),
            machines: (0..plan.members).map(|i| Machine::new(name(i))).collect(),
            sidecars: (0..plan.members)
                .map(|i| Sidecar::new(settings(&plan, i)))
                .collect(),
            events: Vec::new(),
            cuts: BTreeMap::new(),
            api_cuts: BTreeMap::new(),
            checks: Checks {
                asynchronous,
                ..Checks::default()
            },
            replicas: BTreeMap::new(),
            story: Vec::new(),
            next_id: 1,
            answers: Vec::new(),
            shown: vec![String::new(); plan.members],
            plan,
        }
    }

    /// A world of `plan` in which everybody is well.
    pub fn running(plan: Plan) -> Self {
        let mut world = Self::new(plan);
        world.until_whole(60_000);
        world
    }

    pub fn say(&mut self, what: &str) {
        self.story.push(format!("{:>7} {what}", self.now));
    }

    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn at(&mut self, when: u64, event: Event) {
        self.events.push((when, event));
    }

    pub fn linked(&self, a: usize, b: usize) -> bool {
        let pair = (a.min(b), a.max(b));
        self.cuts.get(&pair).is_none_or(|until| self.now >= *until)
    }

    pub fn reaches_api(&self, member: usize) -> bool {
        self.now >= self.api.down_until && self.api_cuts.get(&member).is_none_or(|until| self.now >= *until)
    }

    pub fn awake(&self, member: usize) -> bool {
        let stands_still = self.machines[member]
            .frozen_until
            .max(self.sidecars[member].stuck_until);
        self.sidecars[member].up && self.now >= stands_still
    }

    pub fn step(&mut self) {
        self.now += STEP;
        for member in 0..self.plan.members {
            let stands_still = self.machines[member]
                .frozen_until
                .max(self.sidecars[member].stuck_until);
            if self.now >= stands_still {
                self.sidecars[member].live += STEP;
            }
            self.tick(member);
        }
        self.happen();
        self.replicate();
        self.commit();
        self.serve();
        for member in 0..self.plan.members {
            self.look(member);
            self.think(member);
        }
        self.checks.writers(&self.machines, self.now);
        self.show();
        if let Some(broken) = self.checks.broken.clone() {
            panic!("{broken}\n{}", self.tell());
        }
    }

    pub fn run(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.step();
        }
    }

    /// Runs until the condition holds.
    pub fn until(&mut self, what: &str, millis: u64, holds: impl Fn(&Self) -> bool) -> u64 {
        let began = self.now;
        while !holds(self) {
            assert!(
                self.now < began + millis,
                "after {millis} ms still not: {what}\n{}",
                self.tell()
            );
            self.step();
        }
        self.now - began
    }

    pub fn until_whole(&mut self, millis: u64) -> u64 {
        let began = self.now;
        loop {
            match self.wants_for_whole() {
                None => return self.now - began,
                Some(missing) => assert!(
                    self.now < began + millis,
                    "after {millis} ms not whole: {missing}\n{}",
                    self.tell()
                ),
            }
            self.step();
        }
    }

    /// What is missing for a whole cluster.
    pub fn wants_for_whole(&self) -> Option<String> {
        let Some(primary) = self.primary() else {
            return Some("a primary".to_owned());
        };
        let lease = self.api.lease()?;
        let record = lease.record()?;
        if lease.holder.as_deref() != Some(self.sidecars[primary].settings.holder.as_str()) {
            return Some("the primary holds the Lease".to_owned());
        }
        let own = &self.machines[primary].data.as_ref()?.wal;
        for (member, machine) in self.machines.iter().enumerate() {
            if member == primary {
                continue;
            }
            if machine.proc != Proc::Standby || machine.stream.is_none_or(|(to, _, _)| to != primary) {
                return Some(format!("{} streams", machine.name));
            }
            let theirs = machine.data.as_ref().map_or(&[][..], |d| &d.wal);
            if !wal::is_within(theirs, own) || theirs.len() + 50 < own.len() {
                return Some(format!("{} keeps up", machine.name));
            }
        }
        if record.step.is_some() {
            return Some("no step is left in the record".to_owned());
        }
        let full = self.plan.members - 1;
        let sync = self.plan.durability == Durability::Sync;
        if record.sync_sets.len() != 1 || (sync && record.sync_sets[0].standbys.len() != full) {
            return Some(format!("one full sync set, there are {:?}", record.sync_sets));
        }
        (sync && self.machines[primary].names != record.current_set().names())
            .then(|| "the names are set".to_owned())
    }

    /// The recorded primary, when it runs read-write.
    pub fn primary(&self) -> Option<usize> {
        let record = self.api.record()?;
        let named = record.primary?.data();
        let index = self
            .machines
            .iter()
            .position(|m| m.member_data().as_ref() == Some(&named))?;
        self.machines[index].writes(self.now).then_some(index)
    }

    fn show(&mut self) {
        for member in 0..self.plan.members {
            let machine = &self.machines[member];
            let last = self.sidecars[member]
                .last
                .as_ref()
                .filter(|_| self.sidecars[member].up);
            let line = format!(
                "{:?} {} | {}",
                machine.proc,
                if machine.up { "" } else { "(no container)" },
                last.map_or("no sidecar".to_owned(), |d| {
                    let why: String = d.why.to_string();
                    let cut = why.find(" ms").map_or(why.len(), |_| why.len().min(60));
                    format!(
                        "{:?}: {}",
                        d.phase,
                        why.chars()
                            .take(cut)
                            .filter(|c| !c.is_ascii_digit())
                            .collect::<String>()
                    )
                })
            );
            if self.shown[member] != line {
                let text = format!("    {} {line}", machine.name);
                self.shown[member] = line;
                self.say(&text);
            }
        }
    }

    /// The story so far, its end, and how things stand.
    pub fn tell(&self) -> String {
        let mut text = String::new();
        let from = self.story.len().saturating_sub(160);
        for line in &self.story[from..] {
            let _ = writeln!(text, "{line}");
        }
        if let Some(lease) = self.api.lease() {
            let _ = writeln!(text, "Lease: holder {:?}, term {}", lease.holder, lease.term);
            if let RecordView::Good(record) = &lease.record {
                let _ = writeln!(text, "record: {}", record.render());
            }
        }
        for (index, machine) in self.machines.iter().enumerate() {
            let length = machine.data.as_ref().map_or(0, |d| d.wal.len());
            let _ = writeln!(
                text,
                "{}: {:?} data {:?} length {length} position {:?} pledge {:?} permit {:?} highest {} names {} following {:?} running {:?} rest {:?} busy {:?} lanes {:?} unreadable {} not before {:?} now {}",
                machine.name,
                machine.proc,
                machine.data.as_ref().map(|d| d.id.to_string()),
                machine.data.as_ref().and_then(|d| wal::position(&d.wal)),
                machine.pledge,
                machine.permit,
                machine.highest_term,
                machine.names,
                machine.following,
                machine.running.as_ref().map(|r| &r.order),
                machine.rest,
                machine.busy.as_ref().map(|b| &b.order),
                self.sidecars[index].lanes,
                self.sidecars[index].state.rejoin.unreadable,
                self.sidecars[index].state.guard_not_before,
                self.sidecars[index].live,
            );
        }
        let _ = writeln!(
            text,
            "acknowledged: {}, last {:?}",
            self.checks.acked.len(),
            self.checks.acked.last()
        );
        text
    }
}
