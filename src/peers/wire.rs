//! The messages and their authentication.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::core::observe::{PeerReport, Promise};
use crate::core::types::{Address, MemberName, Term};
use crate::guard::protocol::Secret;

/// Version of the messages; any other is refused.
pub const PEERS_VERSION: u32 = 1;
/// Header that carries the MAC, in hexadecimal digits.
pub const MAC_HEADER: &str = "x-pgbaton-mac";
/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// `PEERS_VERSION`.
    pub version: u32,
    /// Random; the answer's MAC covers it.
    pub nonce: String,
    /// Who asks.
    pub member: MemberName,
    /// Where the asker can be asked.
    pub address: Address,
    /// Namespace and Lease of the cluster meant.
    pub cluster: String,
    /// The term that the asker leads without having installed a primary in it: whoever hears it pledges.
    pub leads: Option<Term>,
    /// The asker leads and asks for a promise (DESIGN.md section 6).
    #[serde(default)]
    pub heartbeat: Option<Heartbeat>,
}

/// A leader's heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The term that it leads.
    pub term: Term,
    /// What the member asked last told it to repeat: an old heartbeat, sent again by somebody else, binds nobody.
    pub challenge: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// `PEERS_VERSION`.
    pub version: u32,
    /// As asked.
    pub cluster: String,
    /// How the member stands.
    pub report: PeerReport,
    /// What it promises to the heartbeat.
    #[serde(default)]
    pub promise: Option<Promise>,
    /// To be repeated in the next heartbeat.
    #[serde(default)]
    pub challenge: String,
    /// A `People`, kept apart from the report: nothing is decided by it, and whatever stands in it, the rest of the answer is read.
    #[serde(default)]
    pub people: Option<serde_json::Value>,
}

/// What a refusal says, here and in the answer of a peer.
pub const NOT_AUTHENTIC: &str = "the members' REPLICATION_PASSWORD differ";

/// Why a message does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPeerMessage {
    /// Another key, or not pgbaton.
    #[error("the message is not authentic: {NOT_AUTHENTIC}, or it is not pgbaton that speaks")]
    NotAuthentic,
    /// Not JSON of this shape.
    #[error("the message is not readable: {0}")]
    Unreadable(String),
    /// Another version.
    #[error("the message has version {0}, this pgbaton speaks version {PEERS_VERSION}")]
    Version(u32),
    /// Another cluster.
    #[error("the message is meant for cluster {0}")]
    OtherCluster(String),
}

/// Authenticates messages.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// The key of the members that share `secret`.
    #[must_use]
    pub fn derive(secret: &Secret) -> Self {
        let mut derived = Hmac::<Sha256>::new(&padded(secret.0.as_bytes()).into());
        derived.update(b"pgbaton peers 1");
        let derived = derived.finalize().into_bytes();
        Self(Hmac::<Sha256>::new(&padded(&derived).into()))
    }

    fn mac(&self, purpose: &str, nonce: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        // Lengths first: no two different inputs read the same.
        for part in [purpose.as_bytes(), nonce.as_bytes(), body] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    fn sign(&self, purpose: &str, nonce: &str, body: &[u8]) -> String {
        let bytes = self.mac(purpose, nonce, body).finalize().into_bytes();
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn verify(&self, purpose: &str, nonce: &str, body: &[u8], told: &str) -> Result<(), BadPeerMessage> {
        let bytes = unhex(told).ok_or(BadPeerMessage::NotAuthentic)?;
        self.mac(purpose, nonce, body)
            .verify_slice(&bytes)
            .map_err(|_| BadPeerMessage::NotAuthentic)
    }

    /// MAC of a question's text.
    #[must_use]
    pub fn sign_question(&self, body: &[u8]) -> String {
        self.sign("question", "", body)
    }

    /// MAC of an answer's text to the question with this nonce.
    #[must_use]
    pub fn sign_answer(&self, nonce: &str, body: &[u8]) -> String {
        self.sign("answer", nonce, body)
    }

    /// Reads a question.
    ///
    /// # Errors
    /// When it does not count.
    pub fn read_question(&self, cluster: &str, mac: &str, body: &[u8]) -> Result<Question, BadPeerMessage> {
        self.verify("question", "", body, mac)?;
        let question: Question = read(body)?;
        if question.cluster != cluster {
            return Err(BadPeerMessage::OtherCluster(question.cluster));
        }
        Ok(question)
    }

    /// Reads the answer to the question with this nonce.
    ///
    /// # Errors
    /// When it does not count.
    pub fn read_answer(
        &self,
        cluster: &str,
        nonce: &str,
        mac: &str,
        body: &[u8],
    ) -> Result<Answer, BadPeerMessage> {
        self.verify("answer", nonce, body, mac)?;
        let answer: Answer = read(body)?;
        if answer.cluster != cluster {
            return Err(BadPeerMessage::OtherCluster(answer.cluster));
        }
        Ok(answer)
    }
}

/// HMAC's own rule for keys: longer ones than a block are hashed, shorter ones padded with zeros (RFC 2104).
fn padded(secret: &[u8]) -> [u8; 64] {
    use sha2::Digest;
    let mut key = [0; 64];
    if secret.len() > key.len() {
        let hash = Sha256::digest(secret);
        key[..hash.len()].copy_from_slice(&hash);
    } else {
        key[..secret.len()].copy_from_slice(secret);
    }
    key
}

fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, BadPeerMessage> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let unreadable = |e: serde_json::Error| BadPeerMessage::Unreadable(e.to_string());
    let versioned: Versioned = serde_json::from_slice(body).map_err(unreadable)?;
    if versioned.version != PEERS_VERSION {
        return Err(BadPeerMessage::Version(versioned.version));
    }
    serde_json::from_slice(body).map_err(unreadable)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question {
            version: PEERS_VERSION,
            nonce: "n1".into(),
            member: "postgres-1".parse().unwrap(),
            address: Address {
                ip: "127.0.0.1".into(),
                postgres_port: 1,
                sidecar_port: 2,
            },
            cluster: "ns/postgres".into(),
            leads: Some(Term(7)),
            heartbeat: Some(Heartbeat {
                term: Term(7),
                challenge: "c".into(),
            }),
        }
    }

    #[test]
    fn only_an_authentic_question_for_this_cluster_is_read() {
        let key = Key::derive(&Secret("secret".into()));
        let body = serde_json::to_vec(&question()).unwrap();
        let mac = key.sign_question(&body);
        assert_eq!(key.read_question("ns/postgres", &mac, &body), Ok(question()));
        assert!(matches!(
            key.read_question("other", &mac, &body),
            Err(BadPeerMessage::OtherCluster(_))
        ));
        let stranger = Key::derive(&Secret("Secret".into()));
        assert_eq!(
            stranger.read_question("ns/postgres", &mac, &body),
            Err(BadPeerMessage::NotAuthentic)
        );
        let mut altered = body.clone();
        altered[20] ^= 1;
        assert_eq!(
            key.read_question("ns/postgres", &mac, &altered),
            Err(BadPeerMessage::NotAuthentic)
        );
        for bad in ["", "zz", &mac[1..], &"0".repeat(64)] {
            assert_eq!(
                key.read_question("ns/postgres", bad, &body),
                Err(BadPeerMessage::NotAuthentic)
            );
        }
    }

    #[test]
    fn an_answer_counts_for_its_own_question_only() {
        let key = Key::derive(&Secret("secret".into()));
        let report = PeerReport {
            member: "postgres-2".parse().unwrap(),
            pod_uid: "u".into(),
            address: question().address,
            guard: None,
            server: None,
            terminating: false,
            stepped_down_in_ms: None,
            wall_ms: None,
            missing_rights: 0,
        };
        let answer = Answer {
            version: PEERS_VERSION,
            cluster: "ns/postgres".into(),
            report,
            promise: None,
            challenge: String::new(),
            people: Some(serde_json::json!({ "of a later version": [1] })),
        };
        let body = serde_json::to_vec(&answer).unwrap();
        let mac = key.sign_answer("n1", &body);
        assert_eq!(key.read_answer("ns/postgres", "n1", &mac, &body), Ok(answer));
        assert_eq!(
            key.read_answer("ns/postgres", "n2", &mac, &body),
            Err(BadPeerMessage::NotAuthentic)
        );
        // A question's MAC is never an answer's.
        assert!(
            key.read_answer("ns/postgres", "", &key.sign_question(&body), &body)
                .is_err()
        );
    }

    #[test]
    fn another_version_is_named() {
        let key = Key::derive(&Secret("secret".into()));
        let body = br#"{"version":9,"whatever":1}"#;
        let mac = key.sign_question(body);
        assert_eq!(
            key.read_question("ns/postgres", &mac, body),
            Err(BadPeerMessage::Version(9))
        );
    }
}
