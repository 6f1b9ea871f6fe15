//! What a member tells over HTTP: its status, its metrics, whether it lives and is ready, and answers to its peers. Read
//! only: nothing that comes in here changes the server; what peers may cause is decided behind `PeerHandler`.

pub mod exposition;
pub mod health;
pub mod metrics;
pub mod server;
pub mod status;

pub use health::Pulse;
pub use server::{PeerAnswer, PeerHandler, Served, serve};
pub use status::StatusPage;
