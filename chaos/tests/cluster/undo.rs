//! docs/undo.md, block by block, on the cluster that was adopted before (adoption.rs): plain StatefulSets again, with all rows.

use std::collections::HashSet;
use std::fs;

use super::adoption::{SUM, pods, until_both_stream};
use super::kubectl::eventually;
use super::page::{Page, here, paste};
use super::place::{MEMBERS, Place, mode};

/// One step after the other, the primary last.
pub fn follow(place: &Place) {
    let page = Page::of("docs/undo.md");
    page.has_only("sh", &[("1.", 1), ("2.", 1), ("3.", 2), ("4.", 1), ("5.", 1)]);
    let run = |block: &str| paste(place, place.folder(), block);
    run(page.block("1.", "sh", 0));
    fs::create_dir_all(place.folder().join("plain")).unwrap();
    let kustomization = here(place, page.block("2.", "yaml", 0));
    fs::write(place.folder().join("plain/kustomization.yaml"), kustomization).unwrap();
    let before = pods(place);
    run(page.block("2.", "sh", 0));
    assert_eq!(pods(place), before, "nothing restarts");
    let (standby, streams) = (page.block("3.", "sh", 0), page.block("3.", "sh", 1));
    assert!(standby.starts_with("n=2\n"), "{standby}");
    for n in ["n=2\n", "n=3\n"] {
        run(&standby.replacen("n=2\n", n, 1));
        eventually("both standbys stream, as the page looks", || {
            run(streams).matches("streaming").count() == 2
        });
    }
    run(page.block("4.", "sh", 0));
    until_both_stream(place);
    run(page.block("5.", "sh", 0));
}

/// As it was before the adoption: servers that stream, the user's manifests, and nothing of pgbaton.
pub fn is_plain(place: &Place, rows: &str, acknowledged: &[i64]) {
    place
        .sql("postgres-1", "CREATE TABLE after_it AS SELECT 1 AS id")
        .unwrap();
    for member in MEMBERS {
        eventually(&format!("the write arrives at {member}"), || {
            place.sql(member, "SELECT id FROM after_it").as_deref() == Ok("1")
        });
        assert_eq!(place.sql(member, SUM).as_deref(), Ok(rows), "{member}");
        let held = place.sql(member, "SELECT id FROM written").unwrap();
        let held: HashSet<i64> = held.lines().map(|id| id.parse().unwrap()).collect();
        let lost: Vec<&i64> = acknowledged.iter().filter(|id| !held.contains(id)).collect();
        assert!(lost.is_empty(), "acknowledged and not at {member}: {lost:?}");
        let first = member == MEMBERS[0];
        let recovery = place.sql(member, "SELECT pg_is_in_recovery()").unwrap();
        assert_eq!(recovery, if first { "f" } else { "t" }, "{member}");
        let names = place.sql(member, "SHOW synchronous_standby_names");
        assert_eq!(names.as_deref(), Ok(""), "{member}");
        let wanted = if first { ("off", "") } else { ("on", MEMBERS[0]) };
        let set = place.object(&format!("sts/{member}")).unwrap();
        assert_eq!(mode(&set), (wanted.0.to_owned(), wanted.1.to_owned()), "{member}");
        // One that nobody uses keeps WAL for ever.
        let slots = place.sql(member, "SELECT count(*) FROM pg_replication_slots");
        assert_eq!(slots.as_deref(), Ok("0"), "{member}");
        no_pgbaton_in(place, member);
    }
    for gone in [
        "lease/postgres",
        "pdb/postgres",
        "svc/postgres-ro",
        "sa/pgbaton",
        "role/pgbaton",
    ] {
        assert!(place.object(gone).is_none(), "{gone} is still there");
    }
    let bindings = place.must(&["get", "role,rolebinding", "-o", "name"]);
    assert_eq!(bindings, "", "rights that are left");
    let service = place.object("svc/postgres").unwrap();
    assert_eq!(
        service["spec"]["selector"]["app"], "postgres-1",
        "clients still use it"
    );
}

/// Neither in the pod that runs nor in the template of the next one, nor on the volume.
fn no_pgbaton_in(place: &Place, member: &str) {
    let set = place.object(&format!("sts/{member}")).unwrap();
    let pod = place.object(&format!("pod/{member}-0")).unwrap();
    for spec in [&set["spec"]["template"]["spec"], &pod["spec"]] {
        assert!(!spec.to_string().contains("pgbaton"), "{member}: {spec:#}");
    }
    let volume = place.volume(member);
    assert!(volume.join("pgdata/PG_VERSION").exists());
    for mark in ["pgbaton", "pgdata/pgbaton.data_id"] {
        assert!(!volume.join(mark).exists(), "{member}: {mark}");
    }
}
