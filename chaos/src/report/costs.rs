//! What pgbaton itself asked for while a cluster went through a fault, beside what it asks for at rest.

use serde::{Deserialize, Serialize};

/// Requests and questions of all members together, since some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests to the API server, watches not counted.
    pub requests: u64,
    /// Those that write: so many writes of etcd at most (one that is refused writes nothing).
    pub writes: u64,
    /// Questions to other members, heartbeats among them.
    pub questions: u64,
    /// Bytes of them and of their answers, without HTTP's own, at both ends.
    pub peer_bytes: u64,
}

impl Traffic {
    /// What came since an earlier moment.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            writes: self.writes.saturating_sub(earlier.writes),
            questions: self.questions.saturating_sub(earlier.questions),
            peer_bytes: self.peer_bytes.saturating_sub(earlier.peer_bytes),
        }
    }
}

/// From the fault until the cluster was whole, and at rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// How long it was, in milliseconds.
    pub window_ms: u64,
    /// In that time.
    pub traffic: Traffic,
    /// Of the same cluster before its first fault, over the time that follows; none: not measured.
    pub at_rest: Option<Traffic>,
    /// How long that was, in milliseconds.
    pub at_rest_ms: u64,
}

impl Costs {
    /// What would have been asked for at rest in the same time.
    #[must_use]
    pub fn at_rest_in_that_time(&self) -> Option<Traffic> {
        let rest = self.at_rest?;
        let scaled = |count: u64| {
            let all = count.saturating_mul(self.window_ms);
            all.saturating_add(self.at_rest_ms / 2)
                .checked_div(self.at_rest_ms)
        };
        Some(Traffic {
            requests: scaled(rest.requests)?,
            writes: scaled(rest.writes)?,
            questions: scaled(rest.questions)?,
            peer_bytes: scaled(rest.peer_bytes)?,
        })
    }
}

/// Milliseconds as seconds with one digit behind the point, for people.
#[must_use]
pub fn seconds(ms: u64) -> String {
    let tenths = ms.saturating_add(50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

/// For people.
#[must_use]
pub fn words(traffic: Traffic) -> String {
    let Traffic {
        requests,
        writes,
        questions,
        peer_bytes,
    } = traffic;
    let kib = peer_bytes.div_ceil(1024);
    format!("{requests} API requests, {writes} of them writes, {questions} questions to others, {kib} KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_told_for_the_same_time() {
        let traffic = |factor: u64| Traffic {
            requests: 10 * factor,
            writes: 8 * factor,
            questions: 40 * factor,
            peer_bytes: 2_048 * factor,
        };
        let costs = Costs {
            window_ms: 10_000,
            traffic: traffic(9),
            at_rest: Some(traffic(1)),
            at_rest_ms: 5_000,
        };
        assert_eq!(costs.at_rest_in_that_time(), Some(traffic(2)));
        assert_eq!(
            Costs {
                at_rest: None,
                ..costs
            }
            .at_rest_in_that_time(),
            None
        );
        assert_eq!(
            words(traffic(9).since(traffic(1))),
            "80 API requests, 64 of them writes, 320 questions to others, 16 KiB"
        );
    }
}
