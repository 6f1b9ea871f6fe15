//! One connection: made, asked and dropped within bounds, its failures told apart.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::Either;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, SimpleQueryMessage, SimpleQueryRow, Statement};

use crate::core::probe::Failure;
use crate::guard::protocol::Secret;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAt {
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for ServerAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// As whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Role.
    pub user: String,
    /// Its password; none where the server trusts the address.
    pub password: Option<Secret>,
    /// Database.
    pub database: String,
}

/// What was tried, at which server, and how it failed. A `TimedOut` may have taken effect all the same (invariant 10).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing} on {server} failed: {failure}")]
pub struct PgError {
    /// What was tried, as a noun phrase.
    pub doing: String,
    /// Where.
    pub server: String,
    /// How it failed.
    pub failure: Failure,
}

/// How a connection behaves on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behaviour {
    /// The server gives up a statement after this time.
    pub statement_timeout: Duration,
    /// Commits of this session never wait for standbys: what pgbaton writes for itself must not hang on them.
    pub local_commit: bool,
}

type Wire = Connection<TcpStream, NoTlsStream>;

/// Connects and logs in. Unbounded: the caller bounds it.
async fn connect(
    server: &ServerAt,
    credentials: &Credentials,
    behaviour: Behaviour,
) -> Result<(Client, Wire), Failure> {
    let stream = TcpStream::connect((server.host.as_str(), server.port))
        .await
        .map_err(|e| of_io(&e))?;
    stream.set_nodelay(true).map_err(|e| of_io(&e))?;
    let millis = behaviour.statement_timeout.as_millis().max(1);
    // search_path: nobody's function or operator of the same name is run with a superuser's rights.
    let mut options =
        format!("-c search_path=pg_catalog -c statement_timeout={millis} -c lock_timeout={millis}");
    if behaviour.local_commit {
        options.push_str(" -c synchronous_commit=local");
    }
    let mut config = Config::new();
    config
        .user(&credentials.user)
        .dbname(&credentials.database)
        .application_name("pgbaton")
        .options(options);
    if let Some(password) = &credentials.password {
        config.password(&password.0);
    }
    config
        .connect_raw(stream, NoTls)
        .await
        .map_err(|e| of_postgres(&e))
}

/// One connection for one question: connected, asked and closed within `budget`. Nothing of it survives the call.
pub(super) async fn ask_once(
    server: &ServerAt,
    credentials: &Credentials,
    behaviour: Behaviour,
    sql: &str,
    budget: Duration,
) -> Result<Vec<SimpleQueryRow>, Failure> {
    let started = Instant::now();
    let talk = async {
        let (client, mut wire) = connect(server, credentials, behaviour).await?;
        let query = Box::pin(client.simple_query(sql));
        let answer = match futures_util::future::select(query, &mut wire).await {
            Either::Left((answer, _)) => answer,
            // The connection ended first: its own error names the reason (57P01), the query's only "closed".
            Either::Right((ended, _)) => return Err(of_end(ended)),
        };
        drop(client);
        // With the client gone the connection says goodbye; one poll writes it, and no answer is waited for.
        match (answer, wire.now_or_never()) {
            (Ok(messages), _) => Ok(rows(messages)),
            (Err(error), Some(Err(reason))) if error.is_closed() => Err(of_postgres(&reason)),
            (Err(error), _) => Err(of_postgres(&error)),
        }
    };
    timeout(budget, talk)
        .await
        .unwrap_or_else(|_| Err(timed_out(started)))
        .map_err(|f| cancelled(f, started))
}

/// A connection kept open. Dropping it ends it; one that timed out once is never used again.
pub struct Session {
    server: ServerAt,
    client: Client,
    driver: Driver,
    prepared: Option<Statement>,
    spoilt: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.server)
            .field("usable", &self.usable())
            .finish()
    }
}

/// The task that moves the bytes; aborted when dropped.
struct Driver(JoinHandle<Result<(), tokio_postgres::Error>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Connects within `budget`. Statements are given up by the server after `statement_timeout`; commits never wait for standbys.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses.
    pub async fn open(
        server: &ServerAt,
        credentials: &Credentials,
        statement_timeout: Duration,
        budget: Duration,
    ) -> Result<Self, PgError> {
        let behaviour = Behaviour {
            statement_timeout,
            local_commit: true,
        };
        Self::open_as(server, credentials, behaviour, budget)
            .await
            .map_err(|failure| PgError {
                doing: "connecting".to_owned(),
                server: server.to_string(),
                failure,
            })
    }

    pub(super) async fn open_as(
        server: &ServerAt,
        credentials: &Credentials,
        behaviour: Behaviour,
        budget: Duration,
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        let (client, wire) = timeout(budget, connect(server, credentials, behaviour))
            .await
            .unwrap_or_else(|_| Err(timed_out(started)))?;
        Ok(Self {
            server: server.clone(),
            client,
            driver: Driver(tokio::spawn(wire)),
            prepared: None,
            spoilt: false,
        })
    }

    /// False when the next question can only fail: open another one.
    #[must_use]
    pub fn usable(&self) -> bool {
        !self.spoilt && !self.client.is_closed()
    }

    /// Runs `sql` (one or more statements) within `budget` and gives the rows of all of them.
    pub(super) async fn rows(&mut self, sql: &str, budget: Duration) -> Result<Vec<SimpleQueryRow>, Failure> {
        let started = Instant::now();
        if self.spoilt {
            return Err(given_up());
        }
        let answer = timeout(budget, self.client.simple_query(sql)).await;
        self.settle(answer, started, budget).await.map(rows)
    }

    /// The first column of the first row of `sql`, a text; planned once in this session's life, so cheap when asked often. A session
    /// takes one such question.
    pub(super) async fn text(&mut self, sql: &str, budget: Duration) -> Result<Option<String>, Failure> {
        let started = Instant::now();
        if self.spoilt {
            return Err(given_up());
        }
        if self.prepared.is_none() {
            let answer = timeout(budget, self.client.prepare(sql)).await;
            self.prepared = Some(self.settle(answer, started, budget).await?);
        }
        let Some(prepared) = &self.prepared else {
            return Ok(None);
        };
        let left = budget.saturating_sub(started.elapsed());
        let answer = timeout(left, self.client.query_opt(prepared, &[])).await;
        let row = self.settle(answer, started, budget).await?;
        row.map_or(Ok(None), |row| row.try_get(0).map_err(|e| of_postgres(&e)))
    }

    /// Judges an answer, and whether the session can be used again.
    async fn settle<T>(
        &mut self,
        answer: Result<Result<T, tokio_postgres::Error>, tokio::time::error::Elapsed>,
        started: Instant,
        budget: Duration,
    ) -> Result<T, Failure> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.is_closed() => {
                self.spoilt = true;
                let left = budget
                    .saturating_sub(started.elapsed())
                    .max(Duration::from_millis(1));
                // The reason (57P01) came to the connection, not to the query.
                match timeout(left, &mut self.driver.0).await {
                    Ok(Ok(ended)) => Err(of_end(ended)),
                    Ok(Err(_)) | Err(_) => Err(of_postgres(&error)),
                }
            }
            Ok(Err(error)) => Err(cancelled(of_postgres(&error), started)),
            Err(_) => {
                // The next question would wait behind this one (dropping it does not cancel it).
                self.spoilt = true;
                Err(timed_out(started))
            }
        }
    }

    /// As `rows`, with what was tried in the error.
    pub(super) async fn run(
        &mut self,
        doing: &str,
        sql: &str,
        budget: Duration,
    ) -> Result<Vec<SimpleQueryRow>, PgError> {
        self.rows(sql, budget)
            .await
            .map_err(|failure| self.error(doing, failure))
    }

    /// An error of this session.
    pub(super) fn error(&self, doing: &str, failure: Failure) -> PgError {
        PgError {
            doing: doing.to_owned(),
            server: self.server.to_string(),
            failure,
        }
    }
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect()
}

fn given_up() -> Failure {
    Failure::Other {
        detail: "the connection was given up after a timeout".to_owned(),
    }
}

fn timed_out(started: Instant) -> Failure {
    Failure::TimedOut {
        after_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// 57014 is this session's own statement_timeout, or a person's cancel: no answer in time.
fn cancelled(failure: Failure, started: Instant) -> Failure {
    match failure {
        Failure::Server { sqlstate, .. } if sqlstate == "57014" => timed_out(started),
        other => other,
    }
}

fn of_end(ended: Result<(), tokio_postgres::Error>) -> Failure {
    match ended {
        Ok(()) => Failure::Other {
            detail: "the server closed the connection".to_owned(),
        },
        Err(reason) => of_postgres(&reason),
    }
}

/// What an error of the system says.
pub(super) fn of_io(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused {
            detail: error.to_string(),
        },
        _ => Failure::Other {
            detail: error.to_string(),
        },
    }
}

fn of_postgres(error: &tokio_postgres::Error) -> Failure {
    if let Some(said) = error.as_db_error() {
        let detail = said.detail().map(|d| format!(": {d}")).unwrap_or_default();
        let sqlstate = said.code().code().to_owned();
        return Failure::Server {
            sqlstate,
            detail: format!("{}{detail}", said.message()),
        };
    }
    let cause = std::error::Error::source(error);
    let text = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    // The library hides the kind; its own untranslated text is what tells a failed login.
    let kind = error.to_string();
    if kind == "authentication error" || kind == "invalid configuration" {
        return Failure::Login { detail: text };
    }
    Failure::Other { detail: text }
}
