//! Knocks at the door of the member that holds the Lease, when there is a sign that it is gone (DESIGN.md section 5, claim).
//!
//! At rest it costs one idle connection to the holder's sidecar, which ends at once when that process does. Only then, or when the
//! sidecar does not answer questions, are the ports tried: a knock at PostgreSQL's makes its postmaster fork.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::brain::Input;
use super::hands::send;
use crate::core::observe::{HolderSight, LeaseView, Observation};
use crate::core::types::{Address, MemberName, Millis};
use crate::lease::LiveClock;
use crate::postgres::remote::{Reach, reach};

/// Longest time for one knock.
const KNOCK: Duration = Duration::from_millis(300);
/// Between two knocks at a door that seems dead.
const PAUSE_FAST: Duration = Duration::from_millis(25);
/// Between two knocks otherwise, and after so many.
const PAUSE: Duration = Duration::from_millis(250);
const KNOCKS_FAST: u32 = 80;
/// A connection that ends sooner than this is not made anew at once.
const WIRE_LEAST: Duration = Duration::from_millis(100);
/// A sidecar whose last answer is older than this is knocked at.
const ANSWERS_WITHIN: Millis = Millis(800);

/// Whose door, and whether to knock without waiting for a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// `holderIdentity`.
    pub holder: String,
    /// Where it is.
    pub address: Address,
    /// Its sidecar does not answer.
    pub silent: bool,
}

/// The door to watch; none: nobody holds the Lease, or this member does. `at` tells where a member can be asked.
#[must_use]
pub fn door(me: &str, seen: &Observation, at: impl Fn(&MemberName) -> Option<Address>) -> Option<Door> {
    let LeaseView::Seen(lease) = &seen.lease else {
        return None;
    };
    let holder = lease.holder.clone().filter(|holder| holder != me)?;
    let member: MemberName = holder.split('_').next()?.parse().ok()?;
    let answered = seen.peers.get(&member).map(|peer| peer.asked_at);
    let silent = answered.is_none_or(|at| seen.now.since(at) > ANSWERS_WITHIN);
    Some(Door {
        holder,
        address: at(&member)?,
        silent,
    })
}

/// Watches the door that is wanted, until the loop is gone.
pub async fn watch(clock: LiveClock, mut door: watch::Receiver<Option<Door>>, inputs: mpsc::Sender<Input>) {
    let mut sight: Option<HolderSight> = None;
    loop {
        let wanted = door.borrow_and_update().clone();
        let stay = async {
            match &wanted {
                Some(wanted) => at_door(&clock, wanted, &mut sight, &inputs).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = door.changed() => if changed.is_err() { return },
            () = stay => {}
        }
    }
}

/// One stay at this door: ends when there is no reason to knock any more.
async fn at_door(
    clock: &LiveClock,
    wanted: &Door,
    sight: &mut Option<HolderSight>,
    inputs: &mpsc::Sender<Input>,
) {
    let Ok(ip) = wanted.address.ip.parse::<IpAddr>() else {
        return std::future::pending().await;
    };
    let server = SocketAddr::new(ip, wanted.address.postgres_port);
    let sidecar = SocketAddr::new(ip, wanted.address.sidecar_port);
    if !wanted.silent
        && let Ok(Ok(wire)) = timeout(KNOCK, TcpStream::connect(sidecar)).await
    {
        return held(wire).await;
    }
    let sight = match sight {
        Some(sight) if sight.holder == wanted.holder => sight,
        other => other.insert(HolderSight {
            holder: wanted.holder.clone(),
            refused: None,
            server_refused: false,
            server_heard_at: None,
        }),
    };
    let mut knocks = 0_u32;
    loop {
        let began = clock.now();
        let (found, opened) = tokio::join!(reach(server, KNOCK), timeout(KNOCK, TcpStream::connect(sidecar)));
        let closed =
            matches!(&opened, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused);
        sight.refused = (closed && found == Reach::Refused)
            .then(|| (sight.refused.map_or(began, |(first, _)| first), began));
        sight.server_refused = found == Reach::Refused;
        if found == Reach::Alive {
            sight.server_heard_at = Some(began);
        }
        send(inputs, Input::Holder(sight.clone())).await;
        if !wanted.silent && matches!(opened, Ok(Ok(_))) {
            return;
        }
        knocks = knocks.saturating_add(1);
        // The server may be a moment behind its sidecar in dying. One that lives is not knocked at often.
        let fast = closed && found != Reach::Alive && knocks <= KNOCKS_FAST;
        sleep(if fast { PAUSE_FAST } else { PAUSE }).await;
    }
}

/// Holds an idle connection until its other end closes it: because it ended, or because the connection was idle for long.
async fn held(mut wire: TcpStream) {
    // Nothing is ever said on it; whatever ends it is a sign.
    let mut byte = [0];
    if timeout(WIRE_LEAST, wire.read(&mut byte)).await.is_ok() {
        return sleep(WIRE_LEAST).await;
    }
    let _ = wire.read(&mut byte).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const BOUND: Duration = Duration::from_secs(20);

    fn at(server: SocketAddr, sidecar: SocketAddr, silent: bool) -> Option<Door> {
        Some(Door {
            holder: "postgres-1_u1".to_owned(),
            address: Address {
                ip: "127.0.0.1".to_owned(),
                postgres_port: server.port(),
                sidecar_port: sidecar.port(),
            },
            silent,
        })
    }

    async fn sidecar() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    async fn next(queue: &mut mpsc::Receiver<Input>) -> HolderSight {
        match timeout(BOUND, queue.recv()).await.unwrap() {
            Some(Input::Holder(sight)) => sight,
            other => panic!("{other:?}"),
        }
    }

    /// A postmaster that answers the first byte of each connection, as far as this looks.
    async fn postmaster(listener: TcpListener) {
        use tokio::io::AsyncWriteExt as _;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 8];
            let _ = stream.read_exact(&mut asked).await;
            let _ = stream.write_all(b"N").await;
        }
    }

    #[tokio::test]
    async fn nobody_knocks_while_the_sidecar_lives_and_its_end_is_told_at_once() {
        let (server, there) = (sidecar().await, sidecar().await);
        let wanted = at(server.local_addr().unwrap(), there.local_addr().unwrap(), false);
        let (plan, door) = watch::channel(wanted);
        let (inputs, mut queue) = mpsc::channel(64);
        let task = tokio::spawn(watch(LiveClock::system(), door, inputs));
        let (wire, _) = timeout(BOUND, there.accept()).await.unwrap().unwrap();
        sleep(WIRE_LEAST * 2).await;
        // Idle for too long, says the sidecar, and takes the next connection: no sign.
        drop(wire);
        let (wire, _) = timeout(BOUND, there.accept()).await.unwrap().unwrap();
        sleep(WIRE_LEAST * 2).await;
        assert!(queue.try_recv().is_err(), "nobody was to knock");
        // Both end, as at the death of a pod.
        drop((there, server, wire));
        let first = next(&mut queue).await;
        let (began, _) = first.refused.unwrap();
        let later = loop {
            let sight = next(&mut queue).await;
            let (first, last) = sight.refused.unwrap();
            assert_eq!(first, began, "one unbroken row of refusals");
            if last.since(first) >= Millis(100) {
                break sight;
            }
        };
        assert_eq!(later.server_heard_at, None);
        drop(plan);
        timeout(BOUND, task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_server_that_answers_is_heard_and_breaks_the_row_of_refusals() {
        let (server, there) = (sidecar().await, sidecar().await);
        let (of_server, of_sidecar) = (server.local_addr().unwrap(), there.local_addr().unwrap());
        drop((there, server));
        let (_plan, door) = watch::channel(at(of_server, of_sidecar, true));
        let (inputs, mut queue) = mpsc::channel(64);
        let task = tokio::spawn(watch(LiveClock::system(), door, inputs));
        assert!(next(&mut queue).await.refused.is_some());
        let answers = tokio::spawn(postmaster(TcpListener::bind(of_server).await.unwrap()));
        let sight = loop {
            let sight = next(&mut queue).await;
            if sight.server_heard_at.is_some() {
                break sight;
            }
        };
        assert_eq!(sight.refused, None);
        answers.abort();
        task.abort();
    }
}
