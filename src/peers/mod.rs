//! Sidecars asking each other how they stand: `POST /peer`, one JSON question, one JSON answer, both authenticated.
//!
//! The key is derived from the replication password, which every member has from the Secret. An answer's MAC covers the
//! question's nonce, so an old answer cannot be replayed. A replayed question tells an old term, which nobody acts on; a
//! replayed heartbeat repeats an old challenge, and nobody promises anything to it. While the
//! password is rotated a member has two keys: it takes either, and asks again with the second when the first is refused.

mod client;
mod keys;
mod people;
mod wire;

pub use client::{Asker, Told, random};
pub use keys::Keys;
pub use people::{People, Said};
pub use wire::{
    Answer, BadPeerMessage, Heartbeat, Key, MAC_HEADER, MESSAGE_MAX, NOT_AUTHENTIC, PEERS_VERSION, Question,
};
