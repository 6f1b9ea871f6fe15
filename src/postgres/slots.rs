//! A physical slot for each other member on the primary, none left over (DESIGN.md section 7).

use std::time::Duration;

use super::session::{PgError, Session};
use super::sql::literal;
use crate::core::probe::{Failure, Slot};
use crate::core::types::MemberName;

/// What is to be done about the slots of one server.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SlotPlan {
    /// To make, reserving WAL at once.
    pub create: Vec<String>,
    /// To drop: left over, or lost and useless.
    pub drop: Vec<String>,
    /// For people.
    pub warnings: Vec<String>,
}

/// WAL that a slot may hold before people are told, in bytes.
pub const RETAINED_WARNING: i64 = 1 << 30;

/// What to do about `slots`, on the server of `own`, where `others` are to have one: all other members on a primary, nobody on a
/// standby (a former primary's slots would hold WAL there for ever).
///
/// Dropped is only what carries this cluster's naming (`own`'s name without its number, then a number), is physical, not
/// temporary and not in use. `own`'s slot is never touched.
#[must_use]
pub fn plan(slots: &[Slot], own: &MemberName, others: &[MemberName]) -> SlotPlan {
    let mut plan = SlotPlan::default();
    let wanted: Vec<String> = others
        .iter()
        .filter(|m| *m != own)
        .map(MemberName::slot)
        .collect();
    for name in &wanted {
        match slots.iter().find(|slot| &slot.name == name) {
            None => plan.create.push(name.clone()),
            Some(slot) if !slot.physical => plan.warnings.push(format!(
                "slot {name} is logical, so the member of this name has none: drop it or rename the member"
            )),
            // Its WAL is gone and it cannot be used again; the member needs a copy, for which a new one keeps the WAL.
            Some(slot) if slot.is_lost() && !slot.active => {
                plan.drop.push(name.clone());
                plan.create.push(name.clone());
                plan.warnings.push(format!(
                    "the WAL that slot {name} should keep is gone (max_slot_wal_keep_size): the member is copied anew"
                ));
            }
            Some(_) => {}
        }
    }
    let stem = stem(own.slot().as_str()).map(str::to_owned);
    for slot in slots {
        let left_over = slot.physical
            && !slot.temporary
            && slot.name != own.slot()
            && !wanted.contains(&slot.name)
            && stem.is_some()
            && self::stem(&slot.name) == stem.as_deref();
        if left_over && !slot.active {
            plan.drop.push(slot.name.clone());
        }
        if let Some(text) = retention(slot) {
            plan.warnings.push(text);
        }
    }
    plan
}

/// `postgres` of `postgres_2`; none for a name without a number at its end.
fn stem(slot: &str) -> Option<&str> {
    let (stem, number) = slot.rsplit_once('_')?;
    (!stem.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(stem)
}

fn retention(slot: &Slot) -> Option<String> {
    let bytes = slot.retained_bytes.unwrap_or(0);
    let status = slot.wal_status.as_deref().unwrap_or_default();
    (status == "unreserved" || (!slot.active && bytes > RETAINED_WARNING)).then(|| {
        format!(
            "slot {} holds {bytes} bytes of WAL ({status}){}: bring its member back, or remove it",
            slot.name,
            if slot.active { "" } else { " and nobody reads it" }
        )
    })
}

/// Carries out a plan, each step within `budget`. What another session did meanwhile is no error.
///
/// # Errors
/// The first step that failed; those before it are done, and the next plan has the rest.
pub async fn apply(session: &mut Session, plan: &SlotPlan, budget: Duration) -> Result<(), PgError> {
    for name in &plan.drop {
        let doing = format!("dropping the replication slot {name}");
        // 42704: gone. 55006: in use again, so not left over.
        let order = format!("SELECT pg_drop_replication_slot({})", literal(name));
        tolerate(session, &doing, &order, &["42704", "55006"], budget).await?;
    }
    for name in &plan.create {
        let doing = format!("creating the replication slot {name}");
        let order = format!(
            "SELECT pg_create_physical_replication_slot({}, true)",
            literal(name)
        );
        // 42710: made meanwhile.
        tolerate(session, &doing, &order, &["42710"], budget).await?;
    }
    Ok(())
}

async fn tolerate(
    session: &mut Session,
    doing: &str,
    order: &str,
    codes: &[&str],
    budget: Duration,
) -> Result<(), PgError> {
    match session.rows(order, budget).await {
        Ok(_) => Ok(()),
        Err(Failure::Server { sqlstate, .. }) if codes.contains(&sqlstate.as_str()) => Ok(()),
        Err(failure) => Err(session.error(doing, failure)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> Slot {
        Slot {
            name: name.to_owned(),
            physical: true,
            temporary: false,
            active: false,
            restart_lsn: None,
            wal_status: Some("reserved".to_owned()),
            retained_bytes: Some(0),
        }
    }

    fn member(name: &str) -> MemberName {
        name.parse().expect("a member name")
    }

    #[test]
    fn each_other_member_gets_one_and_only_our_own_left_overs_go() {
        let slots = [
            slot("postgres_3"),
            slot("postgres_9"),
            slot("postgres_1"),
            slot("barman"),
            slot("backup_1"),
            Slot {
                active: true,
                ..slot("postgres_8")
            },
            Slot {
                temporary: true,
                ..slot("postgres_7")
            },
            Slot {
                physical: false,
                ..slot("postgres_6")
            },
        ];
        let others = [member("postgres-1"), member("postgres-2"), member("postgres-3")];
        let plan = plan(&slots, &member("postgres-1"), &others);
        assert_eq!(plan.create, ["postgres_2"]);
        assert_eq!(plan.drop, ["postgres_9"]);
        assert_eq!(plan.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_standby_keeps_none() {
        let plan = plan(
            &[slot("postgres_2"), slot("postgres_3"), slot("barman")],
            &member("postgres-1"),
            &[],
        );
        assert_eq!(plan.drop, ["postgres_2", "postgres_3"]);
        assert!(plan.create.is_empty());
    }

    #[test]
    fn a_lost_slot_is_made_anew_and_a_hoarding_one_told() {
        let slots = [
            Slot {
                wal_status: Some("lost".to_owned()),
                ..slot("db_2")
            },
            Slot {
                retained_bytes: Some(RETAINED_WARNING + 1),
                ..slot("db_3")
            },
        ];
        let plan = plan(&slots, &member("db-1"), &[member("db-2"), member("db-3")]);
        assert_eq!(
            (plan.drop.as_slice(), plan.create.as_slice()),
            (&["db_2".to_owned()][..], &["db_2".to_owned()][..])
        );
        assert_eq!(plan.warnings.len(), 2);
    }

    #[test]
    fn a_member_without_a_number_drops_nothing() {
        let plan = plan(
            &[slot("postgres_2"), slot("main")],
            &member("main"),
            &[member("spare")],
        );
        assert_eq!(
            (plan.create.as_slice(), plan.drop.len()),
            (&["spare".to_owned()][..], 0)
        );
    }
}
