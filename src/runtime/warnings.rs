//! What a person should look at, each with the heading of the runbook that says more.

use super::settings::SidecarSettings;
use super::sight::Sight;
use super::unguarded::Unheld;
use super::{clocks, effects};
use crate::core::probe::Probe;
use crate::core::record::Record;
use crate::lease;
use crate::peers::Said;

/// Heading of what is said about warnings in general.
const IN_GENERAL: &str = "warnings-and-metrics";

/// Warnings of this member.
pub(super) fn warnings(
    settings: &SidecarSettings,
    record: Option<&Record>,
    sight: &Sight,
    view: &lease::LeaseView,
) -> Vec<Said> {
    let mut all = Vec::new();
    let mut say = |see: &str, text: String| {
        let see = see.to_owned();
        all.push(Said { text, see });
    };
    for (source, text) in &sight.warnings {
        say(of_source(source), text.clone());
    }
    for server in &sight.unguarded {
        say(of_server(server.what), server.text.clone());
    }
    for text in crate::core::preflight::warnings(&sight.rights.missing) {
        say("MissingRights", text);
    }
    for text in super::preflight::of_others(sight) {
        say("MissingRights", text);
    }
    if let Some(status) = sight.status()
        && !status.value.warning.is_empty()
    {
        say("GuardWarns", format!("guard: {}", status.value.warning));
    }
    if sight.status().is_none() && !sight.guard_trouble.is_empty() {
        say("guard_not_heard", sight.guard_trouble.clone());
    }
    if let Some(trouble) = &view.contact.trouble {
        say(
            "no_lease_seen_yet",
            format!("the Lease cannot be read: {}", trouble.text),
        );
    }
    if let Some(server) = sight.probe.as_ref().and_then(|p| p.value.server()) {
        for text in &server.warnings {
            say(IN_GENERAL, text.clone());
        }
    }
    match sight.probe.as_ref().map(|p| &p.value) {
        Some(probe @ Probe::AuthFailed { .. }) => say("login_failed", probe.to_string()),
        Some(probe @ Probe::Full { .. }) => say("server_full", probe.to_string()),
        _ => {}
    }
    for text in not_in_force(settings, record) {
        say(IN_GENERAL, text);
    }
    all
}

fn of_source(source: &str) -> &'static str {
    match source {
        clocks::CLOCKS => "ClockApart",
        effects::KUBERNETES | effects::KUBERNETES_REFUSED => "EffectRefused",
        "archive" => "ArchiveFailing",
        "replication" => "ReplicationNotKept",
        _ => IN_GENERAL,
    }
}

fn of_server(what: Unheld) -> &'static str {
    match what {
        Unheld::Primary => "UnguardedServer",
        Unheld::Foreign => "ForeignServer",
        Unheld::Standby => "UnguardedStandby",
    }
}

/// The recorded durability and availability count, whatever this member was told.
fn not_in_force(settings: &SidecarSettings, record: Option<&Record>) -> Vec<String> {
    let Some(record) = record else {
        return Vec::new();
    };
    let recorded = serde_json::to_value((record.durability, record.availability)).unwrap_or_default();
    [
        ("--durability", settings.durability.as_str(), &recorded[0]),
        ("--availability", settings.availability.as_str(), &recorded[1]),
    ]
    .into_iter()
    .map(|(flag, told, recorded)| (flag, told, recorded.as_str().unwrap_or_default()))
    .filter(|(_, told, recorded)| told != recorded && !told.is_empty())
    .map(|(flag, told, recorded)| format!("{flag} {told} is not in force: the record says {recorded}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::page::runbook;

    #[test]
    fn every_warning_leads_to_a_place_in_the_runbook() {
        let sources = [
            "archive",
            "replication",
            clocks::CLOCKS,
            effects::KUBERNETES,
            "anything else",
        ];
        let servers = [Unheld::Primary, Unheld::Foreign, Unheld::Standby];
        let fixed = [
            "MissingRights",
            "GuardWarns",
            "guard_not_heard",
            "no_lease_seen_yet",
            "login_failed",
            "server_full",
        ];
        let all = sources
            .map(of_source)
            .into_iter()
            .chain(servers.map(of_server))
            .chain(fixed);
        for heading in all {
            assert!(runbook::has(heading), "{heading}");
        }
    }
}
