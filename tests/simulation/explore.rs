//! All placements of a few deviations, depth-first: a world is copied where a deviation comes, so what goes before it is run once. After
//! its last deviation each world goes on until it is whole, with all rules checked after each thing that happens.
//!
//! A deviation comes at every boundary between two things, except where the thing before looked at nothing that the deviation changes and
//! changed nothing that the deviation looks at (`touches.rs`): in either order the same state comes of the two. Only the moment differs, and
//! what follows from the deviation comes by so much later. That is not nothing, so it is never more than `CLOSE`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use pgbaton::core::observe::PersonWish;
use pgbaton::core::record::Durability;

use crate::deviations::{Deviation, Placed, written};
use crate::rng::Rng;
use crate::world::{Plan, World};

/// Before the first thing, so that all goes evenly.
const SETTLES: u64 = 3_000;
/// From one renewal to the next, and when it begins.
const RENEWS: u64 = 1_000;
const BEFORE_A_RENEWAL: u64 = 40;
/// Longest time from the end of the last deviation until the cluster is whole.
const WHOLE_WITHIN: u64 = 150_000;
/// After the last deviation's end nobody helps for so long.
const BEFORE_HELP: u64 = 12_000;
/// Things between two looks whether it is whole.
const BETWEEN: u64 = 16;
/// No longer than this after it was placed a deviation is placed again, whatever happened.
const CLOSE: u64 = 20;
/// How long a whole cluster is watched still.
const AFTER: u64 = 300;

/// A settled cluster.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    pub members: usize,
    pub durability: Durability,
    pub k: u32,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.members, self.durability, self.k)
    }
}

impl Base {
    /// Reads what is written.
    pub fn read(text: &str) -> Self {
        let mut words = text.split_whitespace();
        Self {
            members: words.next().unwrap().parse().unwrap(),
            durability: if words.next() == Some("Async") {
                Durability::Async
            } else {
                Durability::Sync
            },
            k: words.next().unwrap().parse().unwrap(),
        }
    }

    pub fn world(self) -> World {
        let mut world = World::running(Plan {
            members: self.members,
            durability: self.durability,
            sync_standbys: self.k,
            // Slow, so that there are few commits, each with all its steps.
            write_pause: (200, 200),
            ..Plan::default()
        });
        world.rng = Rng::even();
        world.run(SETTLES);
        // It begins shortly before the leader renews.
        let number = world.api.number;
        world.until("a renewal", 2 * RENEWS, |w| w.api.number > number);
        world.run(RENEWS - BEFORE_A_RENEWAL);
        assert_eq!(world.wants_for_whole(), None, "{}", world.tell());
        world.telling = false;
        world.story.clear();
        world.happened = 0;
        world
    }
}

/// What is explored.
#[derive(Debug, Clone)]
pub struct Bounds {
    pub base: Base,
    /// The first deviation comes within so many ms,
    pub window: u64,
    /// and is one of these.
    pub first: Vec<Deviation>,
    /// Each further one comes from the first of these to the second, in ms after the one before, unless the cluster is whole before that,
    pub within: (u64, u64),
    /// and is one of these.
    pub then: Vec<Deviation>,
    pub depth: usize,
}

/// What was explored.
#[derive(Debug, Default)]
struct Counts {
    /// By depth.
    placements: Vec<u64>,
    things: u64,
    deepest: u64,
    whole_after: u64,
    opened: u64,
}

pub struct Search {
    bounds: Bounds,
    placed: Vec<Placed>,
    counts: Counts,
}

/// A world on its way, and what is known of its deviations.
#[derive(Clone)]
struct Way {
    world: World,
    /// When the last deviation came, and when all have ended.
    last: u64,
    over: u64,
    helped: u32,
    /// How often a server had become read-write before all of this.
    opened: u64,
}

impl Way {
    fn deviate(&mut self, deviation: &Deviation) {
        deviation.happen(&mut self.world);
        self.last = self.world.now;
        self.over = self.over.max(self.world.now + deviation.lasts());
    }

    fn step(&mut self) {
        self.world.step();
        assert!(
            self.world.now < self.over + WHOLE_WITHIN,
            "not whole: {:?}\n{}",
            self.world.wants_for_whole(),
            self.world.tell()
        );
    }

    fn is_settled(&mut self) -> bool {
        if self.world.now < self.over {
            return false;
        }
        self.help();
        let lease = self.world.api.lease();
        lease.is_some_and(|l| l.order.is_none()) && self.world.wants_for_whole().is_none()
    }

    /// As a person does when nobody could write a lost record back, or an order waits for ever.
    fn help(&mut self) {
        let world = &mut self.world;
        if world.now < self.over + BEFORE_HELP * u64::from(self.helped + 1) {
            return;
        }
        self.helped += 1;
        let id = format!("help{}", self.helped);
        if world.api.record().is_none() {
            world.adopt_what_holds_all(&id);
        } else if world.api.lease().is_some_and(|l| l.order.is_some()) {
            world.order(&id, PersonWish::Resume);
        }
    }

    fn ends(&mut self) {
        while !self.is_settled() {
            for _ in 0..BETWEEN {
                self.step();
            }
        }
        self.world.run(AFTER);
    }
}

/// A kind of deviation at the boundary that is reached.
struct Candidate {
    deviation: Deviation,
    touches: Option<u64>,
    /// When it was placed last, if nothing that it has to do with happened since.
    since: Option<u64>,
}

impl Search {
    fn new(bounds: Bounds) -> Self {
        let placements = vec![0; bounds.depth];
        Self {
            bounds,
            placed: Vec::new(),
            counts: Counts {
                placements,
                ..Counts::default()
            },
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let kinds = if self.placed.is_empty() {
            &self.bounds.first
        } else {
            &self.bounds.then
        };
        let candidate = |deviation: &Deviation| Candidate {
            touches: deviation.touches(self.bounds.base.members),
            deviation: deviation.clone(),
            since: None,
        };
        kinds.iter().map(candidate).collect()
    }

    /// Goes one way to its end, and from it all ways that part from it.
    fn walk(&mut self, mut way: Way) {
        let level = self.placed.len();
        let first = level == 0;
        let (from, until) = if first {
            (way.last, way.last + self.bounds.window)
        } else {
            (way.last + self.bounds.within.0, way.last + self.bounds.within.1)
        };
        let mut candidates = if level < self.bounds.depth {
            self.candidates()
        } else {
            Vec::new()
        };
        let began = way.world.happened;
        let mut looked = 0;
        while !candidates.is_empty() && way.world.now <= until {
            if way.world.now >= from {
                self.part(&mut way, &mut candidates);
            }
            way.step();
            let touched = way.world.touched.get();
            for candidate in &mut candidates {
                if candidate.touches.is_none_or(|bits| bits & touched != 0) {
                    candidate.since = None;
                }
            }
            looked += 1;
            if !first && looked % BETWEEN == 0 && way.is_settled() {
                break;
            }
        }
        if !first {
            way.ends();
            self.counts.whole_after = self.counts.whole_after.max(way.world.now - way.last);
            self.counts.deepest = self.counts.deepest.max(way.world.happened);
            self.counts.opened += way.world.checks.promotions - way.opened;
        }
        self.counts.things += way.world.happened - began;
    }

    /// A copy for each deviation that makes a difference here.
    fn part(&mut self, way: &mut Way, candidates: &mut [Candidate]) {
        let now = way.world.now;
        for candidate in candidates {
            if candidate.since.is_some_and(|since| now <= since + CLOSE) {
                continue;
            }
            candidate.since = Some(now);
            if !candidate.deviation.changes(&mut way.world) {
                continue;
            }
            let mut copy = way.clone();
            self.counts.placements[self.placed.len()] += 1;
            self.placed.push(Placed {
                after: copy.world.happened,
                deviation: candidate.deviation.clone(),
            });
            copy.deviate(&candidate.deviation);
            self.walk(copy);
            self.placed.pop();
        }
    }
}

fn begin(base: Base) -> Way {
    let world = base.world();
    Way {
        last: world.now,
        over: world.now,
        helped: 0,
        opened: world.checks.promotions,
        world,
    }
}

fn message(why: &(dyn std::any::Any + Send)) -> String {
    why.downcast_ref::<String>()
        .cloned()
        .unwrap_or_else(|| "it panicked".to_owned())
}

/// Goes through all placements; prints what that was.
pub fn explore(name: &str, bounds: Bounds) {
    let began = Instant::now();
    let base = bounds.base;
    let mut search = Search::new(bounds);
    let way = begin(base);
    let broken = catch_unwind(AssertUnwindSafe(|| search.walk(way)));
    let seconds = began.elapsed().as_secs_f64();
    let Search {
        bounds,
        placed,
        counts,
        ..
    } = &search;
    let then = match (bounds.depth, bounds.within) {
        (1, _) => String::new(),
        (_, (from, to)) => format!(", then {} kinds from {from} to {to} ms after", bounds.then.len()),
    };
    println!(
        "\n{name}: {base}, {} kinds in {} ms{then}: {:?} placements, {} things, deepest {}, whole after {} ms at most, {} times read-write, \
         {seconds:.1} s",
        bounds.first.len(),
        bounds.window,
        counts.placements,
        counts.things,
        counts.deepest,
        counts.whole_after,
        counts.opened,
    );
    if broken.is_err() {
        let told = replay(base, placed).expect_err("it went well when told: not deterministic");
        panic!("{base}: {}\n{told}", written(placed));
    }
    assert!(counts.placements.iter().all(|n| *n > 0), "nothing was placed");
}

/// Goes one way, telling its story.
///
/// # Errors
/// What broke, with the story.
pub fn replay(base: Base, placed: &[Placed]) -> Result<(), String> {
    let mut way = begin(base);
    way.world.telling = true;
    let run = || {
        for Placed { after, deviation } in placed {
            while way.world.happened < *after {
                way.step();
            }
            way.deviate(deviation);
        }
        way.ends();
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|why| message(&*why))
}
