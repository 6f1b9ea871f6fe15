//! The keys of a member: the one in use, and the one before while the password is rotated.

use super::wire::{BadPeerMessage, Key, Question};
use crate::guard::protocol::Secret;

/// One or two keys.
#[derive(Debug, Clone)]
pub struct Keys {
    current: Key,
    previous: Option<Key>,
}

impl Keys {
    /// Of the password in use, and of the one before.
    #[must_use]
    pub fn derive(current: &Secret, previous: Option<&Secret>) -> Self {
        Self {
            current: Key::derive(current),
            previous: previous.map(Key::derive),
        }
    }

    /// All, the one in use first.
    pub fn all(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(&self.previous)
    }

    /// Reads a question, and tells which key it was authenticated with: whoever asked may have no other one, so the answer is
    /// signed with it too.
    ///
    /// # Errors
    /// When it does not count.
    pub fn read_question(
        &self,
        cluster: &str,
        mac: &str,
        body: &[u8],
    ) -> Result<(Question, &Key), BadPeerMessage> {
        let mut bad = BadPeerMessage::NotAuthentic;
        for key in self.all() {
            match key.read_question(cluster, mac, body) {
                Ok(question) => return Ok((question, key)),
                // Authentic, and no good all the same: that is what it says.
                Err(error) if error != BadPeerMessage::NotAuthentic => bad = error,
                Err(_) => {}
            }
        }
        Err(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{MAC_HEADER, PEERS_VERSION};

    fn keys(current: &str, previous: Option<&str>) -> Keys {
        let previous = previous.map(|text| Secret(text.to_owned()));
        Keys::derive(&Secret(current.to_owned()), previous.as_ref())
    }

    #[test]
    fn a_question_counts_with_either_password_and_no_other() {
        let rotating = keys("new", Some("old"));
        let body = serde_json::to_vec(&serde_json::json!({
            "version": PEERS_VERSION, "nonce": "n", "member": "postgres-1", "cluster": "ns/postgres", "leads": null,
            "address": { "ip": "127.0.0.1", "postgres_port": 1, "sidecar_port": 2 },
        }))
        .unwrap();
        for (asker, good) in [("new", true), ("old", true), ("older", false)] {
            let asker = Key::derive(&Secret(asker.to_owned()));
            let mac = asker.sign_question(&body);
            let read = rotating.read_question("ns/postgres", &mac, &body);
            assert_eq!(read.is_ok(), good, "{MAC_HEADER}");
            if let Ok((_, key)) = read {
                assert_eq!(key.sign_answer("n", b"a"), asker.sign_answer("n", b"a"));
            }
            let other = rotating.read_question("ns/other", &mac, &body);
            assert_eq!(matches!(other, Err(BadPeerMessage::OtherCluster(_))), good);
        }
        let single = keys("new", None);
        let mac = Key::derive(&Secret("old".to_owned())).sign_question(&body);
        assert!(single.read_question("ns/postgres", &mac, &body).is_err());
    }
}
