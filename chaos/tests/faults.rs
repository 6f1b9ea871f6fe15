//! End to end: real PostgreSQL servers under real guards and sidecars, each fault inflicted on a cluster that clients write to.
//! Each test is one cluster with a group of faults, one after the other. `PGBATON_KEEP=1` leaves the directory of a test that failed.

#![allow(clippy::unwrap_used)]

#[path = "faults/run.rs"]
mod run;

use run::{Cluster, Expect};

/// A takeover by expiry waits for the Lease's 10 s; the rest is room for a loaded machine.
const TAKEOVER: u64 = 40_000;
/// Clients should not notice at all; less than any timeout that a broken cluster would wait for.
const UNNOTICED: u64 = 8_000;

/// The primary dies or steps down, its server is gone: another member takes over.
fn taken_over(fault: &'static str) -> Expect {
    Expect {
        moved: Some(true),
        ..healed(fault)
    }
}

/// Who leads afterwards depends on who is faster.
fn healed(fault: &'static str) -> Expect {
    Expect {
        fault,
        moved: None,
        outage_below: TAKEOVER,
        rejoined_by: &[],
    }
}

/// Whatever happens elsewhere, the primary goes on.
fn unnoticed(fault: &'static str) -> Expect {
    Expect {
        fault,
        moved: Some(false),
        outage_below: UNNOTICED,
        rejoined_by: &[],
    }
}

#[test]
fn the_primary_dies_or_steps_down() {
    Cluster::new(211).check(&[
        taken_over("switchover"),
        taken_over("postmaster-kill"),
        healed("pod-kill"),
        taken_over("pod-delete"),
        healed("guard-kill"),
        healed("restarted-by-hand"),
        taken_over("sts-delete"),
    ]);
}

#[test]
fn processes_hang_or_stand_still() {
    Cluster::new(212).check(&[
        taken_over("pod-freeze"),
        taken_over("server-hang"),
        unnoticed("sidecar-kill"),
        taken_over("sidecar-freeze"),
    ]);
}

#[test]
fn data_is_lost_or_left_behind() {
    let by = |expect: Expect, rejoined_by: &'static [&'static str]| Expect {
        rejoined_by,
        ..expect
    };
    Cluster::new(213).check(&[
        by(taken_over("data-lost"), &["clone"]),
        by(unnoticed("standby-data-lost"), &["clone"]),
        by(unnoticed("wal-gone"), &["clone"]),
        // Its own promotion is not in the record: never rewound (invariant 8).
        by(unnoticed("promoted-by-hand"), &["clone"]),
    ]);
}

#[test]
fn everything_dies_at_once() {
    let standbys_only = taken_over("all-kill-standbys-return");
    let primary_only = Expect {
        moved: Some(false),
        ..healed("all-kill-primary-returns")
    };
    Cluster::new(214).check(&[
        healed("all-kill"),
        healed("all-kill-reverse"),
        primary_only,
        standbys_only,
    ]);
}

#[test]
fn standbys_and_the_api_server_come_and_go() {
    // Without heartbeats the primary stops when its permit ends, and comes back or is replaced when the API server is there again.
    let api_down = Expect {
        outage_below: 30_000 + TAKEOVER,
        ..healed("api-down")
    };
    Cluster::new(215).check(&[
        unnoticed("api-restart"),
        unnoticed("standby-kill"),
        unnoticed("standby-freeze"),
        unnoticed("lease-deleted"),
        api_down,
    ]);
}

#[test]
fn asynchronous_durability() {
    Cluster::new(216).asynchronous().check(&[
        taken_over("switchover"),
        taken_over("postmaster-kill"),
        taken_over("postmaster-kill"),
        taken_over("pod-delete"),
        healed("pod-kill"),
    ]);
}

#[test]
fn two_members() {
    Cluster::new(217).members(2).check(&[
        taken_over("switchover"),
        taken_over("postmaster-kill"),
        unnoticed("standby-kill"),
        taken_over("data-lost"),
    ]);
}

#[test]
fn one_member() {
    Cluster::new(218)
        .members(1)
        .check(&[unnoticed("sidecar-kill"), healed("all-kill")]);
}
