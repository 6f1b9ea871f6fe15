//! StatefulSets as the tutorial's own manifests make them, without guard and sidecar. The rig's kubelet runs no init containers, so what
//! the tutorial's does stands before the entrypoint in the server's own container; and where its names lead to pods, here are addresses.

use anyhow::Result;
use serde_json::{Value, json};

use super::kubelet::Kubelet;
use super::member::Member;
use super::objects::{self, Programs, image_env, plain, secret};
use super::rig::Rig;
use super::settings::{NAMESPACE, Settings};
use super::store::Kind;
use crate::names::{POSTGRES_PORT, PRIMARY_ADDRESS, SERVER_CONTAINER, STANDBY_MODE};

/// What the tutorial's init container does: a standby without data is a base backup of the primary, which gets its settings written by
/// it (-R); a primary's first start makes the replication role. Then the image's entrypoint.
const INIT: &str = r#"
case "$STANDBY_MODE" in
on)
  [ -e "$PGDATA/PG_VERSION" ] ||
    PGPASSWORD="$REPLICATION_PASSWORD" pg_basebackup --write-recovery-conf --wal-method=stream --pgdata="$PGDATA" \
      --host="$PRIMARY_SERVER_ADDRESS" --username="$REPLICATION_USER" || exit 1
  ;;
*)
  printf "CREATE ROLE %s WITH LOGIN REPLICATION PASSWORD '%s';\n" "$REPLICATION_USER" "$REPLICATION_PASSWORD" \
    >"$INITDB_DIRECTORY/role.sql"
  ;;
esac
exec "$0" "$@"
"#;

/// One member's StatefulSet of the tutorial: member 1 is the primary.
#[must_use]
pub fn stateful_set(settings: &Settings, member: &Member, programs: &Programs) -> Value {
    let (mode, primary) = if member.index == 1 {
        ("off", String::new())
    } else {
        ("on", settings.member_ip(1).to_string())
    };
    let mut env = image_env(programs);
    env.extend([
        plain(STANDBY_MODE, mode),
        plain(PRIMARY_ADDRESS, &primary),
        plain("PGDATA", &member.pgdata().display().to_string()),
        plain(
            "INITDB_DIRECTORY",
            &member.initdb_directory().display().to_string(),
        ),
    ]);
    let keys = [
        "POSTGRES_USER",
        "POSTGRES_PASSWORD",
        "POSTGRES_DB",
        "REPLICATION_USER",
        "REPLICATION_PASSWORD",
    ];
    env.extend(keys.map(secret));
    let config = format!(
        "config_file={}/postgresql.conf",
        member.config_directory().display()
    );
    let mut set = objects::stateful_set(settings, member, programs);
    set["spec"]["template"]["spec"] = json!({
        "terminationGracePeriodSeconds": 30,
        "containers": [{
            "name": SERVER_CONTAINER,
            "image": "postgres",
            "command": ["bash", "-c", INIT, programs.entrypoint],
            "args": ["-c", config],
            "env": env,
            "ports": [{ "name": "database", "containerPort": POSTGRES_PORT }],
        }],
    });
    set
}

/// What a sidecar of the rig needs to find servers by name: no name leads anywhere here.
#[must_use]
pub fn server_addresses(settings: &Settings) -> String {
    let pairs = (1..=settings.choice.members).map(|index| {
        let name = super::settings::member_name(index);
        format!("{name}={}", settings.member_ip(index))
    });
    pairs.collect::<Vec<_>>().join(",")
}

impl Rig {
    /// What a person does first: OnDelete, then the new templates. No pod is touched.
    ///
    /// # Errors
    /// What the API server says.
    pub fn apply_adoption(&self) -> Result<()> {
        for member in &self.members {
            let strategy = json!({ "type": "OnDelete", "rollingUpdate": null });
            let patch = json!({ "spec": { "updateStrategy": strategy } });
            self.store.patch(Kind::StatefulSet, &member.name, &patch)?;
            let set = objects::stateful_set(&self.settings, member, &self.programs_of(member));
            let patch = json!({ "spec": { "template": set["spec"]["template"] } });
            self.store.patch(Kind::StatefulSet, &member.name, &patch)?;
        }
        Ok(())
    }

    /// Grants what the component deploy/adopt grants, or takes it away.
    ///
    /// # Errors
    /// When the API server knows no such member.
    pub fn may_list(&self, granted: bool) -> Result<()> {
        for kubelet in &self.kubelets {
            let name = &Kubelet::member(kubelet).name;
            let mut rules = objects::member_rights(&self.members);
            if granted {
                rules.push(objects::adoption_rights());
            }
            let text = self.store.api().kubeconfig(name, NAMESPACE).unwrap_or_default();
            let config: Value = serde_json::from_str(&text)?;
            let token = config["users"][0]["user"]["token"].as_str().unwrap_or_default();
            self.store.api().add_user(name, token, rules);
        }
        Ok(())
    }
}
