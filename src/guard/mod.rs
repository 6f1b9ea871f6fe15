//! The guard: main process of the `postgres` container. Runs the server and ends it when its permit ends.

pub mod protocol;
