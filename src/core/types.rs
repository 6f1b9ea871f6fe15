//! Words of the domain as types. Pure values: no clock, no I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A term: `leaseTransitions` of the Lease (DESIGN.md, words). Higher is later.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Milliseconds on some monotonic clock; which one, the field's name or documentation says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Time from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// The moment `after` later.
    #[must_use]
    pub fn plus(self, after: Self) -> Self {
        Self(self.0.saturating_add(after.0))
    }
}

/// A write-ahead log location, printed as PostgreSQL does (`16/B374D848`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not a write-ahead log location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a WAL location: expected two hexadecimal numbers of up to 8 digits, as in 16/B374D848")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let part = |digits: &str| {
            let hex =
                !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if hex {
                u64::from_str_radix(digits, 16).map_err(|_| bad())
            } else {
                Err(bad())
            }
        };
        Ok(Self(part(high)? << 32 | part(low)?))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A timeline number of PostgreSQL. Not unique by itself: two servers may both have made a timeline 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The system identifier that initdb gave the cluster. A string in JSON: it exceeds what a double holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for SystemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// Names one life of a data directory: made anew by initdb, clone and rewind (DESIGN.md section 2). 16 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DataId(String);

/// Digits of a data id. With `MemberName::MAX` it keeps a standby's name within PostgreSQL's 63 bytes.
pub const DATA_ID_DIGITS: usize = 16;

impl DataId {
    /// The id of these random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; DATA_ID_DIGITS / 2]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a data id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a data id: expected {DATA_ID_DIGITS} lower-case hexadecimal digits")]
pub struct BadDataId(pub String);

impl FromStr for DataId {
    type Err = BadDataId;

    fn from_str(text: &str) -> Result<Self, BadDataId> {
        let good = text.len() == DATA_ID_DIGITS
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadDataId(text.to_owned()))
        }
    }
}

impl<'de> Deserialize<'de> for DataId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The name of a member: of its StatefulSet and of its headless Service (`postgres-1`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MemberName(String);

impl MemberName {
    /// Longest name, in bytes: with `_` and the data id it is still a PostgreSQL name (63 bytes).
    pub const MAX: usize = 63 - 1 - DATA_ID_DIGITS;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as PostgreSQL's slots take it: lower-case letters, digits and underscores only.
    #[must_use]
    pub fn slot(&self) -> String {
        self.0.replace('-', "_")
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text cannot be a member's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a member name: expected a StatefulSet's name of 1 to {max} lower-case letters, digits and inner hyphens, as in postgres-1",
    max = MemberName::MAX
)]
pub struct BadMemberName(pub String);

impl FromStr for MemberName {
    type Err = BadMemberName;

    fn from_str(text: &str) -> Result<Self, BadMemberName> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let good = !bytes.is_empty()
            && bytes.len() <= Self::MAX
            && bytes.iter().all(|&b| inner(b) || b == b'-')
            && inner(bytes[0])
            && inner(bytes[bytes.len() - 1]);
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadMemberName(text.to_owned()))
        }
    }
}

impl<'de> Deserialize<'de> for MemberName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A member together with the life of its data: what sync sets, pledges and standby names count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberData {
    /// Its name.
    pub member: MemberName,
    /// The life of its data directory.
    pub data_id: DataId,
}

impl MemberData {
    /// The standby's `application_name` and its entry in `synchronous_standby_names` (invariant 6): `postgres_2_<data id>`.
    #[must_use]
    pub fn standby_name(&self) -> String {
        format!("{}_{}", self.member.slot(), self.data_id)
    }
}

impl fmt::Display for MemberData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (data {})", self.member, self.data_id)
    }
}

/// Where a member's servers listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The pod's IP address, checked where it enters; the member's name is used as `host`, this as `hostaddr` (DESIGN.md section 7).
    pub ip: String,
    /// PostgreSQL's port.
    pub postgres_port: u16,
    /// The sidecar's port (status and peers).
    pub sidecar_port: u16,
}

/// How much WAL a member holds: the timeline of the WAL itself (never of a history file) and the **start** of the last
/// whole record on it. Starts are what `pg_controldata` (latest checkpoint) and `pg_waldump` (record at) both tell, so a
/// position read from a stopped server compares with one read beside a running standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Timeline of the last WAL held.
    pub timeline: Timeline,
    /// Start of the last whole record.
    pub last_record: Lsn,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.last_record, self.timeline)
    }
}
