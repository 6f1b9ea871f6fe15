//! `holderIdentity`: which life of which member holds the Lease.

use std::fmt;
use std::str::FromStr;

use crate::core::types::{BadMemberName, MemberName};

/// Longest holder identity, in bytes: KLE sends it as `fieldManager` too, which the API server limits.
pub const HOLDER_MAX: usize = 128;

/// `<member>_<pod UID>`. The UID is part of it because a pod that was replaced by force while its node was cut off must not
/// share its successor's identity: both would renew.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HolderId {
    member: MemberName,
    pod_uid: String,
}

/// The text is not a holder identity of pgbaton.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHolder {
    /// No underscore.
    #[error("'{0}' is not a holder identity of pgbaton: expected <member>_<pod UID>")]
    Shape(String),
    /// The part before the underscore.
    #[error(transparent)]
    Member(#[from] BadMemberName),
    /// The part after it.
    #[error(
        "'{0}' is not a pod UID: expected letters, digits and hyphens, as the downward API gives in metadata.uid; check POD_UID"
    )]
    PodUid(String),
    /// See [`HOLDER_MAX`].
    #[error(
        "the holder identity '{text}' has {length} bytes, the API server takes {HOLDER_MAX}; check POD_UID"
    )]
    TooLong {
        /// The identity.
        text: String,
        /// Its length in bytes.
        length: usize,
    },
}

impl HolderId {
    /// The identity of this pod of this member.
    ///
    /// # Errors
    /// When `pod_uid` cannot be one, or the whole is longer than [`HOLDER_MAX`].
    pub fn new(member: MemberName, pod_uid: &str) -> Result<Self, BadHolder> {
        let good = !pod_uid.is_empty() && pod_uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !good {
            return Err(BadHolder::PodUid(pod_uid.to_owned()));
        }
        let id = Self {
            member,
            pod_uid: pod_uid.to_owned(),
        };
        let text = id.to_string();
        if text.len() > HOLDER_MAX {
            return Err(BadHolder::TooLong {
                length: text.len(),
                text,
            });
        }
        Ok(id)
    }

    /// The member.
    #[must_use]
    pub fn member(&self) -> &MemberName {
        &self.member
    }

    /// The pod's UID.
    #[must_use]
    pub fn pod_uid(&self) -> &str {
        &self.pod_uid
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.member, self.pod_uid)
    }
}

impl FromStr for HolderId {
    type Err = BadHolder;

    fn from_str(text: &str) -> Result<Self, BadHolder> {
        // A member's name has no underscore, so the first one ends it.
        let (member, pod_uid) = text
            .split_once('_')
            .ok_or_else(|| BadHolder::Shape(text.to_owned()))?;
        Self::new(member.parse()?, pod_uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let id = HolderId::new(
            "postgres-1".parse().unwrap(),
            "0e6c5f0a-7d0b-4a3e-9a2e-1f7f0a3f5a11",
        )
        .unwrap();
        assert_eq!(id.to_string(), "postgres-1_0e6c5f0a-7d0b-4a3e-9a2e-1f7f0a3f5a11");
        assert_eq!(id.to_string().parse::<HolderId>().unwrap(), id);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "postgres-1",
            "_uid",
            "postgres-1_",
            "Postgres_uid",
            "postgres-1_a b",
            "postgres-1_a_b",
        ] {
            assert!(text.parse::<HolderId>().is_err(), "{text:?}");
        }
        let long = HolderId::new("postgres-1".parse().unwrap(), &"a".repeat(118)).unwrap_err();
        assert!(matches!(long, BadHolder::TooLong { length: 129, .. }), "{long}");
    }
}
