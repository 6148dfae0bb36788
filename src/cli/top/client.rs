//! Looks at a daemon: its status each time, its history when that is news.

use http::StatusCode;
use serde::de::DeserializeOwned;

use super::model::{History, Look, Status, read};
use crate::cli::ask::{self, AskError};
use crate::config::Address;

/// Why a look has shown nothing.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// There is no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It does not know the path.
    #[error("{0} answered GET {1} with {2}; name a daemon's admin.address with --admin")]
    Refused(Address, &'static str, StatusCode),
    /// The answer is no status or history.
    #[error("what {0} answered to GET {1} is not understood: {2}; is it a hydrant of another version?")]
    Unreadable(Address, &'static str, serde_json::Error),
}

impl LookError {
    /// The reason alone, for one who knows that it was the daemon who was asked.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Ask(error) => error.why(),
            Self::Refused(..) | Self::Unreadable(..) => self.to_string(),
        }
    }
}

/// Remembers what earlier looks have shown, as far as it decides what is asked for.
#[derive(Debug)]
pub struct Client {
    address: Address,
    /// The daemon's uptime at the last look, if that was answered.
    uptime_seconds: Option<u64>,
}

impl Client {
    /// A client of the admin listener at `address`.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address, uptime_seconds: None }
    }

    /// Asks for the status; and for the history, where this is the first look, or the first after
    /// one that failed, or one at another process than the last.
    ///
    /// # Errors
    ///
    /// See [`LookError`].
    pub async fn look(&mut self) -> Result<Look, LookError> {
        let before = self.uptime_seconds.take();
        let status: Status = self.get("/status").await?;
        let goes_on = before.is_some_and(|before| status.uptime_seconds.unwrap_or(0) >= before);
        let history = if goes_on { None } else { Some(self.history().await?) };
        self.uptime_seconds = Some(status.uptime_seconds.unwrap_or(0));
        Ok(Look { status, history })
    }

    /// The history; an empty one of a daemon from before there was any.
    async fn history(&self) -> Result<History, LookError> {
        match self.get("/history").await {
            Err(LookError::Refused(_, _, StatusCode::NOT_FOUND)) => Ok(History::default()),
            history => history,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, LookError> {
        let (status, body) = ask::get(&self.address, path).await?;
        if status != StatusCode::OK {
            return Err(LookError::Refused(self.address.clone(), path, status));
        }
        read(&body).map_err(|error| LookError::Unreadable(self.address.clone(), path, error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::status::About;
    use crate::admin::{self, Context};
    use crate::config::connect_address;
    use crate::telemetry::figures::Figures;
    use crate::telemetry::now;

    /// An admin listener that answers until the task is dropped, and its address.
    fn serve(address: &str) -> (Address, JoinSet<()>) {
        let about = About {
            delivery_stream_name: "app".to_owned(),
            memory_bytes: 1,
            max_in_flight: 8,
            monitor_interval: None,
        };
        let figures = Arc::new(Figures::new(Arc::default(), now()));
        figures.take_sample(now());
        let socket = admin::bind(&connect_address(address).unwrap()).unwrap().unwrap();
        let address = connect_address(&socket.address()).unwrap();
        let context = Context { figures, about: Arc::new(about) };
        let mut serving = JoinSet::new();
        serving.spawn(admin::serve(socket, context, CancellationToken::new()));
        (address, serving)
    }

    /// What is made of a server that answers with `answer` and closes.
    async fn check_answer(answer: Vec<u8>, expected: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            // The client may have heard enough.
            stream.write_all(&answer).await.ok();
        };
        tokio::join!(check(address, expected), serving);
    }

    async fn check(address: Address, expected: &str) {
        let error = Client::new(address).look().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[tokio::test]
    async fn the_daemon_is_looked_at_over_tcp_and_unix_sockets_and_its_history_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let unix = format!("unix:{}", directory.path().join("admin.sock").display());
        for address in ["tcp:127.0.0.1:0", &unix] {
            let (address, _serving) = serve(address);
            let mut client = Client::new(address);
            let look = client.look().await.unwrap();
            assert_eq!(look.status.delivery_stream_name.as_deref(), Some("app"));
            let history = look.history.unwrap();
            assert_eq!((history.rows.len(), history.rows[0].len()), (1, history.columns.len()));
            assert!(client.look().await.unwrap().history.is_none());
        }
    }

    #[tokio::test]
    async fn the_history_is_read_again_once_a_daemon_was_away() {
        let directory = tempfile::tempdir().unwrap();
        let unix = format!("unix:{}", directory.path().join("admin.sock").display());
        let (address, serving) = serve(&unix);
        let mut client = Client::new(address);
        client.look().await.unwrap();
        drop(serving);
        let mut attempts = 0;
        while client.look().await.is_ok() {
            attempts += 1;
            assert!(attempts < 10_000, "the listener never went away");
        }
        let (_, _serving) = serve(&unix);
        assert!(client.look().await.unwrap().history.is_some());
        client.uptime_seconds = Some(u64::MAX);
        assert!(client.look().await.unwrap().history.is_some(), "the daemon has become younger");
    }

    #[tokio::test]
    async fn whoever_is_no_daemon_is_named_with_what_is_wrong() {
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        check(Address::Tcp(refused), &format!("no daemon answers at tcp:{refused}: Connection refused"))
            .await;
        let missing = connect_address("unix:/nonexistent/admin.sock").unwrap();
        check(missing, "unix:/nonexistent/admin.sock: No such file").await;
        let http = |body: &str| {
            let length = body.len();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
        };
        check_answer(b"220 mail.example.com ESMTP\r\n".to_vec(), "gave no answer in HTTP").await;
        check_answer(http("<html>"), "answered to GET /status is not understood").await;
        check_answer(http(r#"{"uptime_seconds":"long"}"#), "another version").await;
        check_answer(http(&" ".repeat(ask::MAX_BODY_BYTES + 1)), "more than 4194304 bytes").await;
        let not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec();
        check_answer(not_found, "answered GET /status with 404").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_daemon_is_not_waited_for_without_end() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(silent.local_addr().unwrap());
        check(address, "has not answered within 5 s").await;
    }
}
