//! Rights: what a member needs is what it is given, and each one that is missing is named before a takeover needs it.

use std::collections::BTreeSet;

use pgbaton::core::preflight::{Scope, needed};
use pgbaton_chaos::local::api::Rule;
use pgbaton_chaos::local::kubelet::Role;
use pgbaton_chaos::local::objects;
use pgbaton_chaos::names::CLUSTER;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::support::{BOUND, Live};

/// Group, resource, name (empty: new ones), verb.
type Right = (String, String, String, String);

/// What these rules grant, one by one.
fn granted(rules: &[Rule]) -> BTreeSet<Right> {
    let mut all = BTreeSet::new();
    for rule in rules {
        let names = if rule.resource_names.is_empty() {
            vec![String::new()]
        } else {
            rule.resource_names.clone()
        };
        for (verb, name) in rule
            .verbs
            .iter()
            .flat_map(|verb| names.iter().map(move |name| (verb, name)))
        {
            let right = (rule.api_groups[0].clone(), rule.resources[0].clone());
            all.insert((right.0, right.1, name.clone(), verb.clone()));
        }
    }
    all
}

fn table(live: &Live, patch_env: bool) -> BTreeSet<Right> {
    let members = live.rig().settings.member_names();
    let members = members.iter().map(|name| name.parse().unwrap()).collect();
    let scope = Scope {
        lease: CLUSTER,
        service: CLUSTER,
        me: &"postgres-1".parse().unwrap(),
        recorded: &members,
        patch_env,
    };
    let all = needed(&scope).into_iter();
    all.map(|right| {
        let (group, resource) = (right.group.to_owned(), right.resource.to_owned());
        (
            group,
            resource,
            right.name.unwrap_or_default(),
            right.verb.to_owned(),
        )
    })
    .collect()
}

/// What a status page says is missing.
fn missing(page: &Value) -> BTreeSet<Right> {
    let missing = page["rights"]["missing"].as_array().unwrap().iter();
    let text = |right: &Value, key: &str| right[key].as_str().unwrap_or_default().to_owned();
    missing
        .map(|right| {
            (
                text(right, "group"),
                text(right, "resource"),
                text(right, "name"),
                text(right, "verb"),
            )
        })
        .collect()
}

async fn until_missing(live: &Live, member: &str, expected: &BTreeSet<Right>) {
    let what = format!("exactly these rights are missing: {expected:?}");
    let holds = |page: &Value| missing(page) == *expected && page["rights"]["unknown"] == json!(0);
    live.until_status(member, &what, |page| {
        !page["rights"]["checked_at"].is_null() && holds(page)
    })
    .await;
}

/// Each rule, and each verb of each rule.
fn removals(rules: &[Rule]) -> Vec<Vec<Rule>> {
    let mut all = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let mut without = rules.to_vec();
        without.remove(number);
        all.push(without);
        for verb in rule.verbs.iter().filter(|_| rule.verbs.len() > 1) {
            let mut less = rules.to_vec();
            less[number].verbs.retain(|other| other != verb);
            all.push(less);
        }
    }
    all
}

/// Its watch of the Lease goes on meanwhile: what is asked is the right, not its use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_missing_rule_is_named_and_gone_when_it_is_put_back() {
    let live = Live::whole(221, |choice| {
        choice.members = 2;
        choice
            .sidecar_env
            .push(("PGBATON_PREFLIGHT_INTERVAL".to_owned(), "1s".to_owned()));
    })
    .await;
    let rules = objects::member_rights(&live.rig().members);
    let all = granted(&rules);
    assert_eq!(
        all,
        table(&live, true),
        "the rig grants what the table says, and nothing else"
    );
    for member in live.rig().settings.member_names() {
        until_missing(&live, &member, &BTreeSet::new()).await;
    }
    let removals = removals(&rules);
    assert_eq!(removals.len(), 5 + 3 + 3 + 2 + 2);
    for less in removals {
        let expected = all.difference(&granted(&less)).cloned().collect();
        live.set_rules("postgres-2", less);
        until_missing(&live, "postgres-2", &expected).await;
        live.set_rules("postgres-2", rules.clone());
        until_missing(&live, "postgres-2", &BTreeSet::new()).await;
    }
    told_everywhere(&live, &rules).await;
    assert_eq!(live.term(), 1, "nobody took over for it");
    live.end().await;
}

/// Status, log, metric, Event, and `pgbaton status`: what is missing and what to add.
async fn told_everywhere(live: &Live, rules: &[Rule]) {
    let mut less = rules.to_vec();
    less.retain(|rule| rule.resources != ["pods"]);
    let rule = "resources: [pods], resourceNames: [postgres-1-0, postgres-2-0], verbs: [get, patch]}";
    live.set_rules("postgres-1", less);
    live.until_warned("postgres-1", &["a right is missing", "postgres-ro", rule])
        .await;
    assert!(live.log("postgres-1", Role::Sidecar).contains(rule));
    let event = live.until_event("postgres-1", "MissingRights").await;
    assert!(event.contains(rule), "{event}");
    let metrics = live.get_good("postgres-1", "/metrics").await;
    let lacks = "pgbaton_missing_rights{cluster=\"postgres\",member=\"postgres-1\"} 4\n";
    assert!(metrics.contains(lacks), "{metrics}");
    // The other member says who lacks what.
    live.until_warned("postgres-2", &["postgres-1 lacks 4 rights"])
        .await;
    let deadline = Instant::now() + BOUND;
    loop {
        let ran = live.pgbaton(&["status"]).await;
        if ran.out.contains("warning: a right is missing") && ran.out.contains(rule) {
            break;
        }
        assert!(Instant::now() < deadline, "{ran:#?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    live.set_rules("postgres-1", rules.to_vec());
    until_missing(live, "postgres-1", &BTreeSet::new()).await;
}

/// With the interval that ships: at the start, and at once when something was forbidden.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_noticed_at_the_start_and_when_something_was_forbidden() {
    let live = Live::whole(222, |choice| choice.members = 2).await;
    let rules = objects::member_rights(&live.rig().members);
    let without = |resource: &str| -> Vec<Rule> {
        let kept = rules.iter().filter(|rule| rule.resources != [resource]);
        kept.cloned().collect()
    };
    let all = granted(&rules);
    let of = |less: &[Rule]| all.difference(&granted(less)).cloned().collect();
    // A standby uses none of these rights: only asking shows it.
    let less = without("services");
    live.set_rules("postgres-2", less.clone());
    let sidecar = live.member("postgres-2").container(Role::Sidecar).unwrap();
    sidecar.kill();
    until_missing(&live, "postgres-2", &of(&less)).await;
    live.set_rules("postgres-2", rules.clone());
    until_missing(&live, "postgres-2", &BTreeSet::new()).await;

    let less = without("statefulsets");
    live.set_rules("postgres-2", less.clone());
    live.until_settled().await;
    let ran = live.pgbaton(&["switchover", "--to", "postgres-2"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    until_missing(&live, "postgres-2", &of(&less)).await;
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_patch_env_no_right_on_stateful_sets_is_needed() {
    let live = Live::start(223, |choice| {
        choice.members = 2;
        choice
            .sidecar_env
            .push(("PGBATON_PATCH_ENV".to_owned(), "off".to_owned()));
    })
    .await;
    let mut rules = objects::member_rights(&live.rig().members);
    rules.retain(|rule| rule.resources != ["statefulsets"]);
    assert_eq!(granted(&rules), table(&live, false));
    for member in live.rig().settings.member_names() {
        live.set_rules(&member, rules.clone());
    }
    live.until_settled().await;
    let ran = live.pgbaton(&["switchover", "--to", "postgres-2"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    // Whole it is not any more: the env says what it said.
    live.until_status("postgres-2", "it leads, and could fail over", |page| {
        page["role"] == json!("primary") && page["could_fail_over"]["yes"] == json!(true)
    })
    .await;
    assert!(live.takes_writes("postgres-2").await);
    for member in live.rig().settings.member_names() {
        until_missing(&live, &member, &BTreeSet::new()).await;
        live.until_status(&member, "no warning", |page| page["warnings"] == json!([]))
            .await;
    }
    let asked = live.rig().store.api().requests();
    let on_sets = asked
        .requests
        .keys()
        // Whoever is to be the first primary looks once whether there are servers to adopt, and may be refused.
        .filter(|key| key.resource.starts_with("statefulsets") && key.verb != "list");
    assert_eq!(on_sets.count(), 0, "{:#?}", asked.requests);
    live.end().await;
}
