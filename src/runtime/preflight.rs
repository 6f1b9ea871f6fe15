//! Asks which rights this member's account has, before a takeover needs them: all at the start, then one after the other so slowly
//! that a member at rest stays quiet, and all at once again when something was forbidden or an answer has changed. Nothing waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::brain::Input;
use super::hands::send;
use super::settings::SidecarSettings;
use super::sight::Sight;
use crate::core::preflight::{Ledger, Right, Scope, needed, warnings};
use crate::core::record::Record;
use crate::core::types::MemberName;
use crate::http::status::{MissingRight, RightsView};
use crate::kubernetes::preflight::is_granted;

/// With more rights than this a round takes longer: no member asks more often than once in this part of the interval.
const TURNS_MOST: usize = 32;
/// The part of the interval after which a question without an answer is asked again, and a round may follow a round.
const SOON: u32 = 96;

/// What is known of this account's rights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// When a question was last answered (RFC 3339).
    pub checked_at: Option<String>,
    /// So many are not known.
    pub unknown: usize,
    /// Those that are missing.
    pub missing: BTreeSet<Right>,
}

impl Rights {
    /// As the status page shows it.
    #[must_use]
    pub fn view(&self) -> RightsView {
        let missing = self.missing.iter().map(|right| MissingRight {
            verb: right.verb.to_owned(),
            group: right.group.to_owned(),
            resource: right.resource.to_owned(),
            name: right.name.clone(),
            text: right.without().to_owned(),
        });
        RightsView {
            checked_at: self.checked_at.clone(),
            unknown: u64::try_from(self.unknown).unwrap_or(u64::MAX),
            missing: missing.collect(),
        }
    }
}

impl Sight {
    /// Takes in what is known of the rights, and says it when other ones are missing than before.
    pub(super) fn note_rights(&mut self, rights: Rights) {
        if rights.missing != self.rights.missing {
            for text in warnings(&rights.missing) {
                tracing::warn!("{text}");
            }
            if rights.missing.is_empty() {
                tracing::info!("no right is missing any more");
            }
        }
        self.rights = rights;
    }
}

/// What is said of other members' missing rights, where this one lacks none: mostly all have the same account.
#[must_use]
pub fn of_others(sight: &Sight) -> Vec<String> {
    if !sight.rights.missing.is_empty() {
        return Vec::new();
    }
    let answering = sight
        .peers
        .iter()
        .filter(|(member, _)| !sight.peer_trouble.contains_key(*member));
    let lacking = answering.filter(|(_, report)| report.value.missing_rights > 0);
    let text = |member: &MemberName, count: usize| {
        format!(
            "{member} lacks {count} rights on the API server: add the rules that its GET /status and its log name to the Role"
        )
    };
    lacking
        .map(|(member, report)| text(member, report.value.missing_rights))
        .collect()
}

/// The members whose objects this one may have to change.
#[must_use]
pub fn recorded(record: &Record) -> BTreeSet<MemberName> {
    let known = record.members.iter().chain(record.primary.iter());
    known.map(|member| member.member.clone()).collect()
}

/// When what is to be asked.
struct Times {
    /// In this time every right is asked about once more.
    interval: Duration,
    /// When the next one has its turn.
    turn: Instant,
    /// When all are to be asked about; none: as it comes.
    whole: Option<Instant>,
    /// No such round before.
    not_before: Instant,
    /// Between two such rounds that tell nothing new; it doubles.
    pause: Duration,
}

impl Times {
    fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            interval,
            turn: now,
            whole: Some(now),
            not_before: now,
            pause: interval / SOON,
        }
    }

    fn next(&self) -> Instant {
        self.whole.map_or(self.turn, |at| at.min(self.turn))
    }

    /// Asked about everything: what is forbidden for a long time must not make it ask all the time.
    fn was_whole(&mut self, changed: bool) {
        let soon = self.interval / SOON;
        self.pause = if changed {
            soon
        } else {
            (self.pause * 2).min(self.interval / 2)
        };
        self.whole = None;
        self.not_before = Instant::now() + self.pause;
    }

    fn was_forbidden(&mut self) {
        self.whole = Some(self.not_before.max(Instant::now()));
    }

    fn set_turn(&mut self, rights: usize, failed: bool) {
        let turns = u32::try_from(rights.clamp(1, TURNS_MOST)).unwrap_or(1);
        let pause = self.interval / if failed { SOON } else { turns };
        self.turn = Instant::now() + jittered(pause);
    }
}

/// Four fifths to six fifths of it: members that started together do not ask together for ever.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without chance they do ask together, which is no harm.
    let _ = getrandom::fill(&mut byte);
    pause * (4 * 255 + 2 * u32::from(byte[0])) / (5 * 255)
}

/// How questions went.
struct Asked {
    answered: bool,
    changed: bool,
    failed: Option<String>,
}

/// Asks until the loop is gone.
pub async fn keep(
    settings: Arc<SidecarSettings>,
    client: kube::Client,
    mut recorded: watch::Receiver<BTreeSet<MemberName>>,
    forbidden: Arc<Notify>,
    inputs: mpsc::Sender<Input>,
) {
    let mut times = Times::new(settings.preflight_interval);
    let mut ledger = Ledger::default();
    let mut due = BTreeSet::new();
    let mut checked_at = None;
    let mut failing = false;
    loop {
        let members = recorded.borrow_and_update().clone();
        ledger.want(&needed(&scope(&settings, &members)));
        let mut whole = times.whole.is_some_and(|at| at <= Instant::now());
        if whole {
            due = ledger.all();
        } else if times.turn <= Instant::now() {
            due.extend(ledger.next());
        }
        due.extend(ledger.unknown());
        let needed = ledger.all();
        due.retain(|right| needed.contains(right));
        let mut asked = ask(&client, &settings.namespace, &mut ledger, &mut due).await;
        if asked.changed && !whole {
            // Somebody edits the Role: the others may have changed too. All of it is told at once.
            (whole, due) = (true, ledger.all());
            let more = ask(&client, &settings.namespace, &mut ledger, &mut due).await;
            asked.failed = more.failed;
        }
        if whole {
            times.was_whole(asked.changed);
        }
        if let Some(why) = asked.failed.as_ref().filter(|_| !failing) {
            tracing::warn!(
                why,
                "this member's rights could not be asked for: it goes on, and asks again"
            );
        }
        failing = asked.failed.is_some();
        times.set_turn(needed.len(), failing);
        if asked.answered {
            checked_at = Some(jiff::Timestamp::now().to_string());
        }
        let rights = Rights {
            checked_at: checked_at.clone(),
            unknown: ledger.unknown().len(),
            missing: ledger.missing(),
        };
        send(&inputs, Input::Rights(Box::new(rights))).await;
        tokio::select! {
            changed = recorded.changed() => if changed.is_err() { return },
            () = forbidden.notified(), if times.whole.is_none() => times.was_forbidden(),
            () = tokio::time::sleep_until(times.next()) => {}
        }
    }
}

fn scope<'a>(settings: &'a SidecarSettings, recorded: &'a BTreeSet<MemberName>) -> Scope<'a> {
    Scope {
        lease: &settings.lease,
        service: &settings.service,
        me: &settings.core.me,
        recorded,
        patch_env: settings.patch_env,
    }
}

/// Asks one question after the other until one has no answer: then the next ones would have none either.
async fn ask(
    client: &kube::Client,
    namespace: &str,
    ledger: &mut Ledger,
    due: &mut BTreeSet<Right>,
) -> Asked {
    let mut asked = Asked {
        answered: false,
        changed: false,
        failed: None,
    };
    while let Some(right) = due.first().cloned() {
        match is_granted(client, namespace, &right).await {
            Ok(granted) => {
                asked.answered = true;
                asked.changed |= ledger.answer(&right, granted);
                due.remove(&right);
            }
            Err(why) => {
                asked.failed = Some(why);
                break;
            }
        }
    }
    asked
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
