//! The guard: main process of the `postgres` container. Runs the server and ends it when its permit ends.
//!
//! Threads, none of which waits for another: `enforce_permit` (no disk, no socket), `watch_processes` (/proc), `watch_files` (PGDATA),
//! the reaper, one for each connection, one for an operation.

pub mod children;
pub mod clock;
pub mod clone;
pub mod command;
pub mod control;
pub mod crc;
pub mod disk;
pub mod fence;
pub mod housekeeping;
pub mod keeper;
pub mod last_words;
pub mod live;
pub mod log;
pub mod operation;
pub mod orders;
pub mod pledge;
pub mod prepare;
pub mod processes;
pub mod programs;
pub mod progress;
pub mod promote;
pub mod protocol;
pub mod refusal;
pub mod resident;
pub mod rewind;
pub mod run;
pub mod server;
pub mod settings;
pub mod socket;
pub mod timelines;
pub mod volume;
pub mod wal;
pub mod watch;
