//! While the replication password is rotated: which of two passwords an upstream takes, and following anew when it takes the
//! other one since.

use std::sync::Arc;
use std::time::Duration;

use super::hands::Hands;
use super::settings::SidecarSettings;
use super::sight::Sight;
use crate::core::action::GuardOrder;
use crate::core::decide::Decision;
use crate::core::observe::Observation;
use crate::core::phase::Phase;
use crate::core::types::Millis;
use crate::core::why::Why;
use crate::guard::protocol::Secret;
use crate::postgres::remote::takes_password;
use crate::postgres::{Credentials, ServerAt};

/// Longest time to find out.
const LOOK: Duration = Duration::from_secs(1);
/// A standby that has not streamed for so long is told again whom to follow, and not more often than that.
const AGAIN: Millis = Millis(1_500);

/// The settings with the password that the upstream of `order` takes. Without a previous one, as they are.
pub async fn fitting(settings: Arc<SidecarSettings>, order: &GuardOrder) -> Arc<SidecarSettings> {
    let (GuardOrder::Follow { address, .. }
    | GuardOrder::Clone { address, .. }
    | GuardOrder::Rewind { address, .. }) = order
    else {
        return settings;
    };
    let Some(previous) = &settings.replication_password_previous else {
        return settings;
    };
    let at = ServerAt {
        host: address.ip.clone(),
        port: address.postgres_port,
    };
    let with = |password: &Secret| Credentials {
        user: settings.replication_user.clone(),
        password: Some(password.clone()),
        database: settings.superuser.database.clone(),
    };
    if takes_password(&at, &with(&settings.replication_password), LOOK).await != Some(false)
        || takes_password(&at, &with(previous), LOOK).await != Some(true)
    {
        return settings;
    }
    tracing::info!(%at, "it takes the previous replication password: used until it takes the new one");
    let mut fitting = (*settings).clone();
    fitting.replication_password.clone_from(previous);
    Arc::new(fitting)
}

/// Gives the order to follow again while two passwords are known and the standby does not stream: the primary may take the other
/// one since. The guard refuses it when another term has come.
pub fn follow_again(hands: &mut Hands, decision: &Decision, seen: &Observation, sight: &mut Sight) {
    let waits = matches!(decision.why, Why::NotStreaming { for_ms, .. } if for_ms >= AGAIN.0);
    if hands.settings.replication_password_previous.is_none()
        || decision.phase != Phase::Following
        || !waits
        || sight.guard_is_busy()
    {
        return;
    }
    let Some((term, order, at)) = hands.followed.clone() else {
        return;
    };
    if seen.now.since(at) >= AGAIN {
        hands.order(term, &order, &seen.guard, seen.now);
        sight.guard_was_ordered();
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::http::health::Pulse;
    use crate::http::metrics::Metrics;
    use crate::http::page::stream::{Limits, Streams};
    use crate::http::server::{Served, serve};
    use crate::peers::{Asker, Keys, Told};
    use crate::runtime::{Answering, fixtures, page, peer_handler};

    fn keys(current: &str, previous: Option<&str>) -> Keys {
        let previous = previous.map(|text| Secret(text.to_owned()));
        Keys::derive(&Secret(current.to_owned()), previous.as_ref())
    }

    /// Whether a member with `asker`'s passwords hears one with `asked`'s.
    async fn hears(asker: Keys, asked: Keys) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut there = fixtures::address(2);
        there.ip = "127.0.0.1".into();
        there.sidecar_port = listener.local_addr().unwrap().port();
        let (_page, status) = watch::channel(Arc::new(page::first_page(&fixtures::settings(2))));
        let (inputs, _queue) = mpsc::channel(8);
        let (_, registry) = Metrics::new();
        let served = Served {
            status,
            pulse: Pulse::start(),
            registry: Arc::new(registry),
            peer: peer_handler(Answering::plain(
                asked,
                "default/postgres",
                fixtures::standby(2),
                inputs,
            )),
            cluster: watch::channel(crate::runtime::cluster::first(&fixtures::settings(2))).1,
            streams: Streams::new(Limits::USUAL),
            hosts: Arc::default(),
        };
        let serving = tokio::spawn(serve(listener, served, std::future::pending()));
        let asker = Asker::new(
            asker,
            fixtures::name(1),
            fixtures::address(1),
            "default/postgres".into(),
            Metrics::new().0,
        );
        let answer = asker.ask(&there, Told::default(), Duration::from_secs(10)).await;
        serving.abort();
        answer.map(|mut answer| {
            // Put on it as it leaves.
            answer.report.wall_ms = None;
            assert_eq!(answer.report, fixtures::standby(2));
        })
    }

    #[tokio::test]
    async fn members_hear_each_other_through_a_rotation() {
        let (old, both, new) = (keys("old", None), keys("new", Some("old")), keys("new", None));
        for (asker, asked) in [
            (&old, &old),
            (&old, &both),
            (&both, &old),
            (&both, &both),
            (&both, &new),
            (&new, &both),
        ] {
            let heard = hears(asker.clone(), asked.clone()).await;
            assert!(heard.is_ok(), "{heard:?}");
        }
        let heard = hears(old, new).await.unwrap_err();
        assert!(heard.contains("REPLICATION_PASSWORD"), "{heard}");
    }
}
