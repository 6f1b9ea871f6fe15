//! Asks other members.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::keys::Keys;
use super::wire::{Answer, Heartbeat, Key, MAC_HEADER, MESSAGE_MAX, PEERS_VERSION, Question};
use crate::core::types::{Address, MemberName, Term};
use crate::http::metrics::{Direction, DirectionLabel, Metrics};

/// Longest time for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections are kept for the next question.
const IDLE: Duration = Duration::from_secs(30);

/// Places whose challenge is remembered; pods come and go.
const CHALLENGES_MAX: usize = 64;

/// By address and port.
type Challenges = BTreeMap<(String, u16), String>;

/// What a question tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// The term taken, without a primary in it.
    pub leads: Option<Term>,
    /// The term led, for which a promise is asked.
    pub heartbeat: Option<Term>,
}

/// Asks on behalf of one member.
#[derive(Debug, Clone)]
pub struct Asker {
    client: Client<HttpConnector, Full<Bytes>>,
    keys: Keys,
    me: MemberName,
    address: Address,
    cluster: String,
    /// What the member at each address told to be repeated.
    challenges: Arc<Mutex<Challenges>>,
    metrics: Metrics,
}

impl Asker {
    /// Of `me`, which can be asked at `address`, for the cluster of this name.
    #[must_use]
    pub fn new(keys: Keys, me: MemberName, address: Address, cluster: String, metrics: Metrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Self {
            client,
            keys,
            me,
            address,
            cluster,
            challenges: Arc::default(),
            metrics,
        }
    }

    /// Asks the member at `there`, telling the term taken, with a heartbeat of the term led; the answer is authentic and to this very
    /// question.
    ///
    /// # Errors
    /// For people: not reached, no answer within `budget`, or an answer that does not count.
    pub async fn ask(&self, there: &Address, told: Told, budget: Duration) -> Result<Answer, String> {
        match tokio::time::timeout(budget, self.ask_unbounded(there, told)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} ms", budget.as_millis())),
        }
    }

    async fn ask_unbounded(&self, there: &Address, told: Told) -> Result<Answer, String> {
        let mut answer = Err(NoAnswer::Other("there is no key".to_owned()));
        for key in self.keys.all() {
            answer = self.ask_with(key, there, told).await;
            if !matches!(answer, Err(NoAnswer::Refused(_))) {
                break;
            }
        }
        answer.map_err(|no| match no {
            NoAnswer::Refused(text) | NoAnswer::Other(text) => text,
        })
    }

    async fn ask_with(&self, key: &Key, there: &Address, told: Told) -> Result<Answer, NoAnswer> {
        let nonce = random()?;
        let place = (there.ip.clone(), there.sidecar_port);
        let heartbeat = told.heartbeat.and_then(|term| {
            let challenge = lock(&self.challenges).get(&place)?.clone();
            Some(Heartbeat { term, challenge })
        });
        let question = Question {
            version: PEERS_VERSION,
            nonce: nonce.clone(),
            member: self.me.clone(),
            address: self.address.clone(),
            cluster: self.cluster.clone(),
            leads: told.leads,
            heartbeat,
        };
        let body = serde_json::to_vec(&question).map_err(|e| e.to_string())?;
        self.metrics.peer_questions.inc();
        self.count(Direction::sent, body.len());
        let host = if there.ip.contains(':') {
            format!("[{}]", there.ip)
        } else {
            there.ip.clone()
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{host}:{}/peer", there.sidecar_port))
            .header(header::CONTENT_TYPE, "application/json")
            .header(MAC_HEADER, key.sign_question(&body))
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| format!("the address {host} cannot be asked: {e}"))?;
        let answer = self.client.request(request).await.map_err(|e| causes(&e))?;
        let status = answer.status();
        let mac = answer
            .headers()
            .get(MAC_HEADER)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let body = Limited::new(answer.into_body(), MESSAGE_MAX)
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        self.count(Direction::received, body.len());
        if !status.is_success() {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            let text = format!("it answered {status}: {text}");
            // It may know the other password only.
            return Err(if status == StatusCode::FORBIDDEN {
                NoAnswer::Refused(text)
            } else {
                NoAnswer::Other(text)
            });
        }
        let answer = key
            .read_answer(&self.cluster, &nonce, &mac, &body)
            .map_err(|e| NoAnswer::Other(e.to_string()))?;
        let mut challenges = lock(&self.challenges);
        if challenges.len() >= CHALLENGES_MAX {
            challenges.clear();
        }
        challenges.insert(place, answer.challenge.clone());
        Ok(answer)
    }

    fn count(&self, direction: Direction, bytes: usize) {
        let counter = self
            .metrics
            .peer_bytes
            .get_or_create(&DirectionLabel { direction });
        counter.inc_by(bytes as u64);
    }
}

/// Why nothing counts, for people.
#[derive(Debug)]
enum NoAnswer {
    /// 403: another key may be taken.
    Refused(String),
    /// Anything else.
    Other(String),
}

impl From<String> for NoAnswer {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

fn lock(challenges: &Mutex<Challenges>) -> MutexGuard<'_, Challenges> {
    challenges.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 128 random bits in hexadecimal digits.
///
/// # Errors
/// When the system gives none.
pub fn random() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| format!("the system gave no random bytes: {e}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// An error with its causes: hyper's own text names none.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    // Bounded: a chain of causes is a handful long.
    for _ in 0..8 {
        let Some(inner) = cause else { break };
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
