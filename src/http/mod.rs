//! What a member tells over HTTP: the live page, its status, its metrics, whether it lives and is ready, and answers to its peers. Read
//! only: nothing that comes in here changes the server; what peers may cause is decided behind `PeerHandler`.

pub mod cluster;
pub mod exposition;
pub mod health;
pub mod metrics;
pub mod page;
pub mod server;
pub mod status;

pub use health::Pulse;
pub use server::{PeerAnswer, PeerHandler, Served, serve};
pub use status::StatusPage;
