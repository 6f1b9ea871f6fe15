//! What a person is told before data may be lost.

use serde_json::json;

use super::*;
use crate::cli::status::tests::{LEASE, cluster, lease, record, report};
use crate::core::record::LeaderWal;
use crate::core::types::Lsn;
use crate::kubernetes::fake::FakeApi;

async fn told(annotations: serde_json::Value) -> String {
    let api = FakeApi::default();
    api.put(LEASE, lease(&annotations));
    let seen = cluster(&api).read().await.unwrap();
    what_may_be_lost(&seen, &"postgres-2".parse().unwrap())
}

#[tokio::test]
async fn what_is_known_of_the_loss_is_told() {
    let mut record = record();
    record.leader_wal = Some(LeaderWal {
        lsn: Lsn(0x0300_0060),
        at_unix_ms: 1_767_323_045_000,
        age_ms: 0,
    });
    let text = told(json!({
        "pgbaton.dev/cluster-state": record.render(),
        "pgbaton.dev/report": report().render(),
    }))
    .await;
    for part in [
        "Recorded primary: postgres-1 (term 7).",
        "Its WAL was at 0/3000060 on 2026-01-02T03:04:05Z.",
        "postgres-2 lacked 1.5 kB of WAL on 2026-01-02T03:04:05Z.",
        "yes, to postgres-2, about 0.4 s",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[tokio::test]
async fn what_is_not_known_is_said_to_be_so() {
    let text = told(json!({})).await;
    assert!(text.contains("How much postgres-2 lacks is not known."), "{text}");
}
