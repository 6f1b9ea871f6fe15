//! Numbers and states in words for people.

use std::time::Duration;

use jiff::Timestamp;

use super::access::Cluster;
use crate::core::orders::OrderNote;
use crate::core::report::CouldFailOver;

/// `0.4 s`, `42 s`, `3 min`, `2 h`, `5 d`.
pub(super) fn duration(d: Duration) -> String {
    let seconds = d.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", d.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `17 B`, `1.5 kB`, `20.0 MB`, in powers of 1000.
pub(super) fn bytes(count: u64) -> String {
    let mut unit = "B";
    let mut whole = count;
    let mut tenths = 0;
    for larger in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if whole < 1000 {
            break;
        }
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit = larger;
    }
    if unit == "B" {
        format!("{whole} B")
    } else {
        format!("{whole}.{tenths} {unit}")
    }
}

/// A moment, to the second.
pub(super) fn moment(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{unix_ms} ms since 1970"), |at| format!("{at:.0}"))
}

/// `yes, to postgres-2, about 0.4 s`, or what is missing.
pub(super) fn could_fail_over(answer: &CouldFailOver) -> String {
    if !answer.yes {
        let missing = if answer.missing.is_empty() {
            "not said why"
        } else {
            &answer.missing
        };
        return format!("no: {missing}");
    }
    let to = answer.to.as_ref().map(|to| format!(", to {to}"));
    let about = answer
        .about_ms
        .map(|ms| format!(", about {}", duration(Duration::from_millis(ms))));
    format!("yes{}{}", to.unwrap_or_default(), about.unwrap_or_default())
}

/// `switchover to postgres-2`.
pub(super) fn order(order: &OrderNote) -> String {
    let to = order.to.as_ref().map(|to| format!(" to {to}"));
    format!("{}{}", order.order, to.unwrap_or_default())
}

/// What a person does about a damaged Lease.
pub(super) fn damaged(cluster: &Cluster, what: &str) -> String {
    format!(
        "Lease {} is damaged: {what}. The primary that runs under a permit writes the record back by itself within seconds. \
         If none runs, choose the member whose data count (its GET /status shows position and timeline) and run: \
         pgbaton adopt -n {} --lease {} --to MEMBER",
        cluster.name(),
        cluster.namespace,
        cluster.lease
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_for_people() {
        let spans = [
            (400, "0.4 s"),
            (42_000, "42 s"),
            (200_000, "3 min"),
            (7_200_000, "2 h"),
            (259_200_000, "3 d"),
        ];
        for (ms, text) in spans {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        let sizes = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_560_000, "1.5 MB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (count, text) in sizes {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(moment(1_767_323_045_678), "2026-01-02T03:04:05Z");
        assert_eq!(moment(u64::MAX), "18446744073709551615 ms since 1970");
    }
}
