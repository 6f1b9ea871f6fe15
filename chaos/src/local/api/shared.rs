//! What the HTTP side and the rig's side of the server share.

use super::access::Access;
use super::counters::Counters;
use super::faults::Faults;
use super::lock;
use super::store::Store;
use super::types::{Change, Fresh};
use jiff::Timestamp;
use std::sync::{Arc, Mutex};
use tokio::sync::{broadcast, watch};

#[derive(Debug)]
pub(super) struct Shared {
    store: Mutex<Store>,
    pub(super) access: Mutex<Access>,
    pub(super) faults: Faults,
    pub(super) counters: Arc<Counters>,
    version: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<Change>>,
}

impl Shared {
    pub(super) fn new(store: Store, access: Access, feed: usize) -> Self {
        Self {
            version: watch::Sender::new(store.version()),
            store: Mutex::new(store),
            access: Mutex::new(access),
            faults: Faults::new(),
            counters: Arc::default(),
            changes: broadcast::Sender::new(feed),
        }
    }

    /// Does something to the store and tells everybody what changed, in order: the lock is held for both.
    pub(super) fn with_store<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = lock(&self.store);
        let result = act(&mut store);
        for change in store.take_unpublished() {
            // Nobody listening is no error.
            let _ = self.changes.send(change);
        }
        let version = store.version();
        self.version
            .send_if_modified(|v| std::mem::replace(v, version) != version);
        result
    }

    pub(super) fn version_changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }
}

/// Time and randomness for one write.
pub(super) fn fresh() -> Fresh {
    let bytes = random();
    let mut uid = bytes;
    // A random UUID (version 4, RFC 9562).
    uid[6] = (uid[6] & 0x0f) | 0x40;
    uid[8] = (uid[8] & 0x3f) | 0x80;
    let hex = hex(&uid);
    let uid = format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    );
    Fresh {
        now: Timestamp::now(),
        uid,
        suffix: self::hex(&random())[..5].to_owned(),
    }
}

/// A bearer token.
pub(super) fn token() -> String {
    hex(&random())
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Without the system's randomness the clock has to tell objects apart; nothing here guards secrets.
        bytes = Timestamp::now().as_nanosecond().to_le_bytes();
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
