//! Connections to PostgreSQL with every step bounded, and warnings noticed: a COMMIT answered with one is not an acknowledgement.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// How long a connection and a question of the rig itself may take.
const ASK_BOUND: Duration = Duration::from_secs(3);

/// As whom servers are asked, and at which port: the superuser of the Secret.
#[derive(Clone)]
pub struct Login {
    /// POSTGRES_USER
    pub user: String,
    /// POSTGRES_PASSWORD
    pub password: String,
    /// POSTGRES_DB
    pub database: String,
    /// Of every server and of the Service.
    pub port: u16,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// A connection; its driver ends with it.
#[derive(Debug)]
pub struct Connection {
    /// For queries; bound each of them.
    pub client: Client,
    warnings: Arc<AtomicU64>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects within `bound`, all steps together (the driver's own timeout covers the socket only).
    ///
    /// # Errors
    /// When the server refuses, or does not answer in time.
    pub async fn open(config: &Config, bound: Duration) -> Result<Self, Trouble> {
        let (client, mut connection) = match timeout(bound, config.connect(NoTls)).await {
            Ok(connected) => connected.map_err(Trouble::Server)?,
            Err(_) => return Err(Trouble::Silent),
        };
        let warnings = Arc::new(AtomicU64::new(0));
        let count = warnings.clone();
        let driver = tokio::spawn(async move {
            loop {
                match std::future::poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notice(notice))) if notice.severity() == "WARNING" => {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                }
            }
        });
        Ok(Self {
            client,
            warnings,
            driver,
        })
    }

    /// Warnings received so far. One that came before a command's answer is counted when the answer is there.
    #[must_use]
    pub fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::SeqCst)
    }

    /// Runs one text, at most for `bound`; a running statement is cancelled after it.
    ///
    /// # Errors
    /// What the server said, or that it said nothing.
    pub async fn run(&self, text: &str, bound: Duration) -> Result<Vec<SimpleQueryRow>, Trouble> {
        match timeout(bound, self.client.simple_query(text)).await {
            Ok(Ok(messages)) => Ok(messages
                .into_iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .collect()),
            Ok(Err(error)) => Err(Trouble::Server(error)),
            Err(_) => {
                // As drivers do: without it each abandoned commit would keep one of the server's connections.
                let token = self.client.cancel_token();
                let _ = timeout(Duration::from_millis(200), token.cancel_query(NoTls)).await;
                Err(Trouble::Silent)
            }
        }
    }
}

/// Why a connection or a statement did not succeed.
#[derive(Debug)]
pub enum Trouble {
    /// The server or the network said so.
    Server(tokio_postgres::Error),
    /// No answer in time: the outcome is not known.
    Silent,
}

impl Trouble {
    /// The SQLSTATE, where the server gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server(error) => error.code().map(tokio_postgres::error::SqlState::code),
            Self::Silent => None,
        }
    }

    /// The server is a standby.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.code() == Some("25006")
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server(error) => match error.as_db_error() {
                Some(db) => write!(f, "{} ({})", db.message(), db.code().code()),
                None => write!(f, "{error}"),
            },
            Self::Silent => f.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for Trouble {}

/// How to reach the server at this address as the superuser of the Secret.
#[must_use]
pub fn config(login: &Login, ip: Ipv4Addr, application: &str) -> Config {
    let mut config = Config::new();
    config
        .hostaddr(ip.into())
        .port(login.port)
        .user(&login.user)
        .password(&login.password)
        .dbname(&login.database)
        .application_name(application)
        .ssl_mode(tokio_postgres::config::SslMode::Disable);
    config
}

/// Asks the server at this address one question and gives the rows' columns as text.
///
/// # Errors
/// When it cannot be reached, does not answer in time, or refuses.
pub async fn ask(login: &Login, ip: Ipv4Addr, text: &str) -> Result<Vec<Vec<Option<String>>>> {
    ask_within(login, ip, text, ASK_BOUND).await
}

/// As `ask`, with a bound of the caller's.
///
/// # Errors
/// As `ask`.
pub async fn ask_within(
    login: &Login,
    ip: Ipv4Addr,
    text: &str,
    bound: Duration,
) -> Result<Vec<Vec<Option<String>>>> {
    let connection = Connection::open(&config(login, ip, "pgbaton-chaos"), ASK_BOUND)
        .await
        .with_context(|| format!("cannot connect to {ip}:{}", login.port))?;
    let rows = connection
        .run(text, bound)
        .await
        .map_err(|trouble| anyhow!("the server at {ip} answered '{text}' with: {trouble}"))?;
    Ok(rows
        .iter()
        .map(|row| {
            (0..row.len())
                .map(|column| row.get(column).map(str::to_owned))
                .collect()
        })
        .collect())
}

/// As `ask`, for one value.
///
/// # Errors
/// As `ask`, and when the answer is not one value.
pub async fn ask_one(login: &Login, ip: Ipv4Addr, text: &str) -> Result<String> {
    let rows = ask(login, ip, text).await?;
    match rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next())
        .flatten()
    {
        Some(value) => Ok(value),
        None => bail!("the server at {ip} answered '{text}' with nothing"),
    }
}
