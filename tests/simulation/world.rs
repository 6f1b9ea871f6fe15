//! The world: members, their guards, servers and sidecars, the API server and the network. One thing happens after the other, and after
//! each the rules are checked.

use pgbaton::core::observe::Settings;
use pgbaton::core::record::{Availability, Durability, Record};
use pgbaton::core::types::{Address, MemberName, Millis, Term};

use crate::api::{Api, Lease, Reply, Request};
use crate::check::Checks;
use crate::clock::Clock;
use crate::machine::Machine;
use crate::queue::Queue;
use crate::rng::Rng;
use crate::sidecar::{Input, Sidecar};
use crate::stream::{Closed, Flushed, WalSent};
use crate::touches;
use std::rc::Rc;

/// More things than this do not happen in one millisecond: two members ask each other for ever.
const AT_ONCE: u32 = 20_000;
/// Between two tries of what cannot arrive.
const PATIENCE: u64 = 100;

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
    /// Clocks begin anywhere, and none runs quite as another one.
    pub own_clocks: bool,
    /// From one commit to the next.
    pub write_pause: (u64, u64),
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
            own_clocks: false,
            write_pause: (5, 75),
        }
    }
}

/// What happens later.
#[derive(Debug, Clone)]
pub enum Event {
    /// To a sidecar, if it is still the same process.
    ToSidecar(usize, u64, Box<Input>),
    /// To a guard.
    ToGuard(usize, Box<crate::hands::Letter>),
    /// To a guard of this boot: a permit until its clock shows this.
    Permit(usize, u64, Term, Millis),
    /// The guard tells its sidecar how it stands.
    GuardTells(usize),
    /// With the names that the server had when the statement began.
    Sql(usize, u64, pgbaton::core::action::SqlJob, String),
    /// A look at the local server ends: how long its log was when it began, and when that was.
    Looked(usize, u64, usize, Millis),
    /// A question of one sidecar reaches another one.
    Asked(Box<crate::eyes::Question>),
    /// The watch shows a version of the Lease.
    Watch(usize, u64, Option<Rc<Lease>>),
    /// A swap reaches the API server.
    Swap(Box<Request>),
    /// Its answer reaches the sidecar.
    Reply(Box<Reply>),
    /// Its sender does not wait for the answer any longer.
    GivesUp(Box<Request>),
    Wal(WalSent),
    Flushed(Flushed),
    Closed(Closed),
    /// To a standby: the walsender of its connection ended.
    Reset(usize, (usize, u64, i32)),
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
    pub queue: Queue,
    /// Until when nothing sent by the first member arrives at the second.
    pub cuts: Vec<Vec<u64>>,
    /// Until when a member does not reach the API server.
    pub api_cuts: Vec<u64>,
    pub checks: Checks,
    /// Replicas of each StatefulSet, where not one.
    pub replicas: std::collections::BTreeMap<usize, u32>,
    pub next_id: u64,
    pub answers: Vec<(String, bool, String)>,
    /// The story is written down.
    pub telling: bool,
    pub story: Vec<String>,
    /// Server state is shown in the story when it changes.
    pub shown: Vec<String>,
    /// Connections of standbys as they were last seen.
    pub streams: Vec<Option<(usize, u64, i32)>>,
    /// Things that happened.
    pub happened: u64,
    /// What this thing looked at or changed (`touches.rs`).
    pub touched: std::cell::Cell<u64>,
    at_once: u32,
    /// When each member has something to do by itself.
    due: Vec<u64>,
    /// Members for which that must be found out anew, as bits.
    stale: u64,
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

/// Of a clock, in parts of a million: quartz is some tens off, a virtual machine's clock may be more.
pub fn rate(rng: &mut Rng) -> i64 {
    i64::try_from(rng.between(0, 1_000)).unwrap() - 500
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let record = Record::never_initialised(plan.durability, plan.availability);
        let count = plan.members;
        let mut rng = Rng::new(plan.seed);
        let mut clock = |own: bool| match own {
            true => Clock::new(rng.between(1_000, 1 << 30), rate(&mut rng)),
            false => Clock::new(10_000, 0),
        };
        let machines = (0..count)
            .map(|i| Machine::new(name(i), clock(plan.own_clocks)))
            .collect();
        let sidecars = (0..count)
            .map(|i| Sidecar::new(settings(&plan, i), Clock::new(1_000, 0)))
            .collect();
        let mut world = Self {
            now: 10_000,
            rng,
            api: Api::new(record, count),
            machines,
            sidecars,
            queue: Queue::default(),
            cuts: vec![vec![0; count]; count],
            api_cuts: vec![0; count],
            checks: Checks {
                asynchronous: plan.durability == Durability::Async,
                ..Checks::default()
            },
            replicas: std::collections::BTreeMap::new(),
            next_id: 1,
            answers: Vec::new(),
            telling: true,
            story: Vec::new(),
            shown: vec![String::new(); count],
            streams: vec![None; count],
            happened: 0,
            touched: std::cell::Cell::new(0),
            at_once: 0,
            due: vec![0; count],
            stale: u64::MAX,
            plan,
        };
        for member in 0..count {
            world.sidecar_starts(member);
        }
        world
    }

    /// A world of `plan` in which everybody is well.
    pub fn running(plan: Plan) -> Self {
        let mut world = Self::new(plan);
        world.until_whole(60_000);
        world
    }

    /// The same world with another seed.
    pub fn begin_anew(&mut self, plan: Plan) {
        self.rng = Rng::new(plan.seed);
        if plan.own_clocks {
            for member in 0..plan.members {
                let rate = rate(&mut self.rng);
                self.machines[member].boot_clock.set_rate(rate);
                self.sidecars[member].clock.set_rate(rate);
            }
        }
        self.plan = plan;
    }

    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn at(&mut self, when: u64, event: Event) {
        let lot = self.rng.next();
        self.queue.put(when, lot, event);
    }

    /// As `at`, for what must wait so long, or until somebody mends it.
    pub fn wait(&mut self, until: u64, event: Event) {
        self.at(until.min(self.now + PATIENCE), event);
    }

    pub fn tell_sidecar(&mut self, when: u64, member: usize, life: u64, input: Input) {
        self.at(when, Event::ToSidecar(member, life, Box::new(input)));
    }

    /// What this member does next must be found out anew.
    pub fn touch(&mut self, member: usize) {
        self.stale |= 1 << member;
        self.touches(touches::member(member));
    }

    /// Somebody else changed something: what everybody does next must be found out anew.
    pub fn stale_all(&mut self) {
        self.stale = u64::MAX;
    }

    /// A while that a message takes.
    pub fn latency(&mut self) -> u64 {
        if self.rng.percent(2) {
            return self.rng.between(30, 200);
        }
        self.rng.between(1, 12)
    }

    /// Until when what the first sends does not arrive at the second; a moment that is past: it does.
    pub fn cut_until(&self, from: usize, to: usize) -> u64 {
        self.touches(touches::link(from, to));
        self.cuts[from][to]
    }

    pub fn arrives(&self, from: usize, to: usize) -> bool {
        self.touches(touches::link(from, to));
        self.now >= self.cuts[from][to]
    }

    pub fn linked(&self, a: usize, b: usize) -> bool {
        self.arrives(a, b) && self.arrives(b, a)
    }

    pub fn mend_cuts(&mut self) {
        for row in &mut self.cuts {
            row.fill(0);
        }
    }

    pub fn reaches_api(&self, member: usize) -> bool {
        self.touches(touches::api(member));
        self.now >= self.api.down_until && self.now >= self.api_cuts[member]
    }

    pub fn stands_still(&self, member: usize) -> u64 {
        let machine = &self.machines[member];
        machine.frozen_until.max(self.sidecars[member].stuck_until)
    }

    pub fn awake(&self, member: usize) -> bool {
        self.sidecars[member].up && self.now >= self.stands_still(member)
    }

    /// When the next thing happens.
    fn next_moment(&mut self) -> u64 {
        let mut at = self.queue.next().unwrap_or(u64::MAX);
        for member in 0..self.plan.members {
            if self.stale & (1 << member) != 0 {
                self.due[member] = self.machine_due(member).min(self.sidecar_due(member));
            }
            at = at.min(self.due[member]);
        }
        self.stale = 0;
        at.max(self.now)
    }

    fn pass(&mut self, until: u64) {
        let millis = until - self.now;
        if millis == 0 {
            return;
        }
        for member in 0..self.plan.members {
            let still = self.now < self.stands_still(member);
            let suspended = self.now < self.machines[member].suspended_until;
            if !suspended {
                self.machines[member].boot_clock.pass(millis);
            }
            if !still && !suspended {
                self.sidecars[member].clock.pass(millis);
            }
        }
        self.now = until;
        self.at_once = 0;
        self.end_permits();
    }

    /// A guard has nothing more urgent to do.
    pub fn end_permits(&mut self) {
        for member in 0..self.plan.members {
            if self.machines[member].permit_has_ended() && self.machines[member].is_live(self.now) {
                self.by_itself(member);
            }
        }
    }

    /// What comes next, unless a member does something by itself. Exact where nothing is by chance.
    pub fn coming(&mut self) -> Option<&Event> {
        let at = self.next_moment();
        let by_itself = self.due.iter().any(|due| *due <= at);
        self.queue.first().filter(|_| !by_itself)
    }

    /// The next thing happens.
    pub fn step(&mut self) {
        self.touched.set(0);
        let at = self.next_moment();
        self.pass(at);
        self.happened += 1;
        self.at_once += 1;
        if self.at_once > AT_ONCE {
            self.checks
                .fail("something happens again and again in one moment".to_owned());
        }
        let ready = (0..self.plan.members)
            .filter(|m| self.due[*m] <= self.now)
            .count();
        let waits = self.queue.next().is_some_and(|at| at <= self.now);
        if waits && (ready == 0 || self.rng.percent(50)) {
            if let Some(event) = self.queue.take() {
                self.touches(event.touches());
                self.event(event);
            }
        } else {
            let turn = self.rng.between(0, (ready.max(1) - 1) as u64);
            let turn = usize::try_from(turn).unwrap_or(0);
            let member = (0..self.plan.members)
                .filter(|m| self.due[*m] <= self.now)
                .nth(turn);
            if let Some(member) = member {
                self.by_itself(member);
            }
        }
        self.announce();
        self.close_connections();
        self.checks.writers(&self.machines, self.now);
        if self.telling {
            self.show();
        }
        if let Some(broken) = self.checks.broken.clone() {
            panic!("{broken}\n{}", self.tell());
        }
    }

    /// A member does what is due.
    fn by_itself(&mut self, member: usize) {
        self.touch(member);
        self.tick(member);
        if self.awake(member) {
            self.look(member);
            if self.sidecars[member].is_due_to_think(self.now) {
                self.think(member);
            }
        }
    }

    pub fn run(&mut self, millis: u64) {
        let until = self.now + millis;
        self.stale = u64::MAX;
        while self.next_moment() <= until {
            self.step();
        }
        self.pass(until);
        self.stale = u64::MAX;
    }

    /// Runs until the condition holds.
    pub fn until(&mut self, what: &str, millis: u64, holds: impl Fn(&Self) -> bool) -> u64 {
        let began = self.now;
        self.stale = u64::MAX;
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
}
