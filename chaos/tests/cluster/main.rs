//! What must hold of deploy/ on a real Kubernetes. Run where its API server and its pods are reached (chaos/cluster/smoke.sh does), with
//! KUBECONFIG and PGBATON_KUBECTL; the overlay `tutorial` runs in namespace psql-namespace.

#![allow(clippy::unwrap_used, reason = "tests")]

mod adoption;
mod bad_input;
mod clients;
mod kubectl;
mod overlays;
mod page;
mod place;
mod rights;
mod rollout;
mod tutorial;
mod undo;

use kubectl::{Kubectl, NAMESPACE, eventually};

/// Folders of deploy/ that can be applied.
const FOLDERS: [&str; 6] = [
    "overlays/tutorial",
    "overlays/two-members",
    "overlays/restricted",
    "overlays/plain-sidecar",
    "optional/admission",
    "optional/flowschema",
];

#[test]
fn the_api_server_accepts_every_folder() {
    let kubectl = Kubectl::new();
    for folder in FOLDERS {
        let path = kubectl::root().join("deploy").join(folder);
        let rendered = kubectl.must(&["kustomize", &path.to_string_lossy()]);
        // Nothing can be put into a namespace that a dry run only pretends to make: it is made for as long as this takes.
        let namespace = rendered
            .lines()
            .find_map(|line| line.strip_prefix("  namespace: "))
            .map(str::to_owned);
        let made = namespace.filter(|name| kubectl.run(&["create", "namespace", name]).is_ok());
        let answer = kubectl.run(&["apply", "--dry-run=server", "-k", &path.to_string_lossy()]);
        if let Some(name) = made {
            kubectl.must(&["delete", "namespace", &name, "--wait=false"]);
        }
        answer.unwrap_or_else(|error| panic!("{folder}: {error}"));
    }
}

#[test]
fn the_account_may_change_only_what_is_pgbatons() {
    let kubectl = Kubectl::new();
    for folder in ["optional/admission", "optional/flowschema"] {
        let path = kubectl::root().join("deploy").join(folder);
        kubectl.must(&["apply", "-k", &path.to_string_lossy()]);
    }
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:pgbaton");
    let patch = |what: &str, patch: &str| {
        kubectl.run(&[
            &account,
            "-n",
            NAMESPACE,
            "patch",
            what,
            "--dry-run=server",
            "-p",
            patch,
        ])
    };
    // A policy is in force some time after it was made.
    eventually("the policy refuses a change of replicas", || {
        patch("sts/postgres-1", r#"{"spec":{"replicas":2}}"#).is_err()
    });
    let container = |patch: &str| {
        format!(r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"postgres",{patch}}}]}}}}}}}}"#)
    };
    for (what, wrong) in [
        ("sts/postgres-1", container(r#""image":"another""#)),
        (
            "sts/postgres-1",
            container(r#""env":[{"name":"PGDATA","value":"/tmp"}]"#),
        ),
        (
            "sts/postgres-1",
            r#"{"spec":{"template":{"spec":{"hostNetwork":true}}}}"#.to_owned(),
        ),
        (
            "sts/postgres-1",
            r#"{"metadata":{"labels":{"app":"another"}}}"#.to_owned(),
        ),
        (
            "pod/postgres-1-0",
            r#"{"metadata":{"labels":{"app":"another"}}}"#.to_owned(),
        ),
    ] {
        let answer = patch(what, &wrong);
        let refusal = answer.expect_err(&format!("{what} {wrong}"));
        assert!(refusal.contains("ValidatingAdmissionPolicy"), "{refusal}");
    }
    for (what, right) in [
        (
            "sts/postgres-1",
            container(r#""env":[{"name":"STANDBY_MODE","value":"off"}]"#),
        ),
        (
            "sts/postgres-1",
            r#"{"metadata":{"annotations":{"pgbaton.dev/term":"1"}}}"#.to_owned(),
        ),
        (
            "pod/postgres-1-0",
            r#"{"metadata":{"labels":{"pgbaton.dev/role":"standby"}}}"#.to_owned(),
        ),
    ] {
        patch(what, &right).unwrap_or_else(|error| panic!("{what} {right}: {error}"));
    }
}

/// The token is mounted in the sidecar only: whoever is superuser of the database, and so runs programs in its container, has none.
#[test]
fn no_token_is_found_through_the_database() {
    let kubectl = Kubectl::new();
    let find = "find / -xdev -path /proc -prune -o -name token -print -o -path '*serviceaccount*' -print";
    let sql = format!(
        "CREATE TEMP TABLE found (path text); COPY found FROM PROGRAM $${find} 2>/dev/null; true$$; \
         SELECT count(*) || ' ' || coalesce(string_agg(path, ' '), '') FROM found; \
         COPY found FROM PROGRAM $$grep -l serviceaccount /proc/[0-9]*/mounts 2>/dev/null; true$$; SELECT count(*) FROM found"
    );
    let selected = "jsonpath={.spec.selector.app}";
    let primary = kubectl.must(&["-n", NAMESPACE, "get", "svc", "postgres", "-o", selected]);
    let answer = kubectl.must(&[
        "-n",
        NAMESPACE,
        "exec",
        &format!("{primary}-0"),
        "-c",
        "postgres",
        "--",
        "sh",
        "-c",
        &format!(
            "psql -At -U \"$POSTGRES_USER\" \"$POSTGRES_DB\" -c \"{}\"",
            sql.replace('$', "\\$")
        ),
    ]);
    let counts: Vec<&str> = answer
        .lines()
        .filter(|line| line.starts_with(char::is_numeric))
        .collect();
    assert_eq!(counts, ["0 ", "0"], "{answer}");
}
