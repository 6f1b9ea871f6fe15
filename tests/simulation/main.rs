//! The unmodified core in a seeded world: clusters of 2 to 7 members with model servers, guards, an API server, a network, clocks, disks and
//! people. No I/O, no clock but its own; after each thing that happens all rules are checked.

#![allow(clippy::unwrap_used, reason = "tests")]

/// Writes into the story, when it is told.
macro_rules! say {
    ($world:expr, $($text:tt)*) => {
        if $world.telling {
            let text = format!($($text)*);
            $world.note(&text);
        }
    };
}

mod any;
mod api;
mod check;
mod clock;
mod deviations;
mod explorations;
mod explore;
mod eyes;
mod faults;
mod guards;
mod hands;
mod machine;
mod operations;
mod orders;
mod plain;
mod queue;
mod rng;
mod seeds;
mod sidecar;
mod stories;
mod stories_adoption;
mod stories_bounds;
mod stories_early;
mod stories_people;
mod stories_promises;
mod stories_refusals;
mod stream;
mod touches;
mod wal;
mod whole;
mod world;
