//! The shell around [`Service`]: sockets, HTTP, the clock, delivery.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::OptionFuture;
use http::request::Parts;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::api::{self, ApiError, Operation};
use super::cloudwatch::{self, Wire};
use super::faults::{CallFault, Ending, Fate, Refusal, Spoil};
use super::service::{Parcel, Service};
use super::store::uuid;
use super::{Counts, LocalError, Options, Outcome, RequestSummary};
use crate::budget::{Budget, Reservation};

/// Longest request body. A full `PutRecordBatch` of 4 MiB is 5.6 MiB in base64.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Most bytes of request bodies held at once; requests beyond wait for their turn.
const MAX_BODIES_BYTES: usize = 128 * 1024 * 1024;

/// Most connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1_024;

/// A connection on which no request begins for this long is closed. Longer than the 90 s after
/// which the Rust SDK's pool gives a connection up: the client should be the one to close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest time that a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time that an answer under way may take when its connection is to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a connection could not be accepted, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What something in front of a service answers that is none.
const GARBAGE: &[u8] = b"<html><body>Bad Gateway</body></html>";

/// The running service.
#[derive(Debug)]
pub(super) struct Shell {
    address: SocketAddr,
    directory: Option<PathBuf>,
    /// A std mutex: held for the length of one request's synchronous work, never across an await.
    service: Mutex<Service>,
    clock: Clock,
    bodies: Budget,
    /// Told when the earliest due time may have changed.
    filled: Notify,
    stopping: CancellationToken,
    tasks: TaskTracker,
    outages: mpsc::Sender<Outage>,
}

/// An order to go down or up, and whom to tell when that is done.
#[derive(Debug)]
struct Outage {
    down: bool,
    done: oneshot::Sender<Result<(), LocalError>>,
}

/// Time since the Unix epoch that never goes back: the system's time at the start plus what has
/// passed since.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
    epoch: Duration,
}

#[expect(clippy::disallowed_methods, reason = "this is the shell that reads the clock")]
impl Clock {
    fn start() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), epoch }
    }

    fn now(&self) -> Duration {
        self.epoch + self.start.elapsed()
    }
}

/// The connections between two outages.
struct Connections {
    /// Each connection closes once it has answered what it is answering.
    close: CancellationToken,
    /// Requests that are not answered yet never will be.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    fn new() -> Self {
        Self { close: CancellationToken::new(), cut: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    async fn ended(&self) {
        self.close.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

enum Event {
    Stop,
    Outage(Outage),
    Connected(TcpStream, OwnedSemaphorePermit),
}

/// Why a request gets no answer in the ordinary way.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{}: {}", .0.code, .0.message)]
    Refused(ApiError),
    #[error("the connection is cut")]
    Cut,
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl Shell {
    pub(super) async fn start(options: Options) -> Result<Arc<Self>, LocalError> {
        let bind = |source| LocalError::Bind { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let clock = Clock::start();
        let service = Service::new(&options, clock.now(), Rng::new())
            .map_err(|error| LocalError::Stream(error.message.into_owned()))?;
        let (outages, orders) = mpsc::channel(1);
        let shell = Arc::new(Self {
            address,
            directory: options.directory,
            service: Mutex::new(service),
            clock,
            bodies: Budget::new(MAX_BODIES_BYTES),
            filled: Notify::new(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            outages,
        });
        shell.tasks.spawn(Arc::clone(&shell).accept(listener, orders));
        shell.tasks.spawn(Arc::clone(&shell).deliver_when_due());
        Ok(shell)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the service when dropped.
    pub(super) fn ends(&self) -> DropGuard {
        self.stopping.clone().drop_guard()
    }

    pub(super) fn service(&self) -> MutexGuard<'_, Service> {
        // A panic while it was held left counts short at worst.
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn set_down(&self, down: bool) -> Result<(), LocalError> {
        let (done, answer) = oneshot::channel();
        self.outages.send(Outage { down, done }).await.map_err(|_| LocalError::Stopped)?;
        answer.await.unwrap_or(Err(LocalError::Stopped))
    }

    pub(super) async fn stop(self: &Arc<Self>) -> Result<Counts, LocalError> {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let parcels = self.service().take_all();
        let (mut lost, mut cause) = (0, None);
        for parcel in parcels {
            let records = parcel.object.records;
            if let Err(error) = self.deliver(parcel).await {
                lost += records;
                cause = Some(error);
            }
        }
        match (cause, &self.directory) {
            (Some(source), Some(directory)) => {
                Err(LocalError::Undelivered { records: lost, directory: directory.clone(), source })
            }
            _ => Ok(self.service().counts()),
        }
    }

    /// Accepts connections, goes down and up as ordered, and ends when all connections have.
    async fn accept(self: Arc<Self>, listener: TcpListener, mut orders: mpsc::Receiver<Outage>) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut listener = Some(listener);
        let mut connections = Connections::new();
        loop {
            let connected = OptionFuture::from(listener.as_ref().map(|socket| next(socket, &permits)));
            let event = tokio::select! {
                biased;
                () = self.stopping.cancelled() => Event::Stop,
                Some(order) = orders.recv() => Event::Outage(order),
                Some((socket, permit)) = connected => Event::Connected(socket, permit),
            };
            match event {
                Event::Stop => break,
                Event::Connected(socket, permit) => {
                    let serving = Arc::clone(&self).connection(
                        socket,
                        connections.close.clone(),
                        connections.cut.clone(),
                    );
                    connections.tasks.spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
                Event::Outage(Outage { down, done }) => {
                    let result = match (down, listener.take()) {
                        (true, _) => {
                            connections.cut.cancel();
                            connections.ended().await;
                            connections = Connections::new();
                            Ok(())
                        }
                        (false, None) => {
                            let bind = |source| LocalError::Bind { address: self.address, source };
                            let bound = TcpListener::bind(self.address).await.map_err(bind);
                            bound.map(|bound| listener = Some(bound))
                        }
                        (false, up) => {
                            listener = up;
                            Ok(())
                        }
                    };
                    // Whoever gave the order may have stopped waiting; it is carried out all the same.
                    done.send(result).ok();
                }
            }
        }
        drop(listener);
        connections.ended().await;
    }

    /// Serves one connection to its end.
    async fn connection(
        self: Arc<Self>,
        socket: TcpStream,
        close: CancellationToken,
        cut: CancellationToken,
    ) {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "A connection stays without TCP_NODELAY.");
        }
        let service = service_fn(|request| Arc::clone(&self).handle(request, cut.clone()));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = close.cancelled() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                tokio::time::timeout(CLOSE_TIMEOUT, &mut connection).await.unwrap_or(Ok(()))
            }
        };
        // The only error of ours is `Trouble::Cut`: the client shall see a reset, not an end.
        if ended.is_err_and(|error| error.is_user()) {
            let socket = connection.into_parts().io.into_inner();
            if let Err(error) = socket.set_zero_linger() {
                tracing::warn!(%error, "A connection is closed where it should be reset.");
            }
        }
    }

    /// Answers one request; the error resets the connection.
    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        cut: CancellationToken,
    ) -> Result<Response<Full<Bytes>>, Trouble> {
        let started = self.clock.now();
        let (parts, body) = request.into_parts();
        let route = route(&parts);
        let wire = route.as_ref().map_or(Wire::Json11, |(_, wire)| *wire);
        let mut summary = RequestSummary {
            at: started.saturating_sub(self.clock.epoch),
            operation: route.as_ref().ok().map(|(operation, _)| *operation),
            stream: String::new(),
            records: 0,
            bytes: 0,
            outcome: Outcome::Cut { accepted: 0 },
        };
        let answer = match route {
            Err(error) => Some(Err(error.into())),
            Ok((operation, wire)) => {
                let answering = self.answer(operation, wire, &parts, body, &mut summary);
                cut.run_until_cancelled(answering).await
            }
        };
        let answer = answer.unwrap_or_else(|| {
            // Accepted, and the outage came before the answer.
            if let Outcome::Cut { accepted: accepted @ 1.. } = summary.outcome {
                self.service().answer_lost(&summary.stream, accepted);
            }
            Err(Trouble::Cut)
        });
        if let Err(Trouble::Refused(error)) = &answer {
            summary.outcome = Outcome::Refused { code: error.code };
        }
        self.service().finished(self.clock.now(), started, summary);
        match answer {
            Ok(body) => Ok(respond(StatusCode::OK, wire, None, body)),
            Err(Trouble::Refused(error)) => {
                let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Ok(respond(status, wire, Some(error.code), wire.write(&error.body())))
            }
            Err(Trouble::Cut) => Err(Trouble::Cut),
        }
    }

    /// The body of the answer to one request. Until it returns, `summary.outcome` says what would
    /// be true if it were dropped.
    async fn answer(
        self: &Arc<Self>,
        operation: Operation,
        wire: Wire,
        head: &Parts,
        body: Incoming,
        summary: &mut RequestSummary,
    ) -> Result<Vec<u8>, Trouble> {
        if !head.headers.contains_key(header::AUTHORIZATION) {
            let message = "Missing Authentication Token";
            return Err(ApiError::new(400, "MissingAuthenticationTokenException", message).into());
        }
        let befallen = self.service().faults.call(operation);
        match befallen {
            Some(CallFault::Denied) => return Err(Refusal::AccessDenied.error().into()),
            Some(CallFault::Throttled) => return Err(ApiError::throttled().into()),
            Some(CallFault::Garbage) => return Ok(GARBAGE.to_vec()),
            Some(CallFault::Silence) => std::future::pending().await,
            None => {}
        }
        let fate = if operation.puts() { Some(self.service().fate(operation)) } else { None };
        if fate == Some(Fate::Reset) {
            summary.outcome = Outcome::Reset;
            return Err(Trouble::Cut);
        }
        let (body, _hold) = self.read(head, body).await?;
        if let Some(request) = cloudwatch::decode(operation, wire, &body)? {
            let answer = self.service().metrics.apply(self.clock.now(), request)?;
            summary.outcome = Outcome::Answered { failed: 0 };
            return Ok(wire.write(&answer));
        }
        match fate {
            Some(fate) => self.put(operation, &body, fate, summary).await,
            None => {
                let answer = self.control(operation, &body, summary).await?;
                summary.outcome = Outcome::Answered { failed: 0 };
                Ok(wire.write(&answer))
            }
        }
    }

    async fn put(
        self: &Arc<Self>,
        operation: Operation,
        body: &[u8],
        fate: Fate,
        summary: &mut RequestSummary,
    ) -> Result<Vec<u8>, Trouble> {
        let puts = api::decode_puts(operation, body)?;
        summary.stream.clone_from(&puts.stream);
        (summary.records, summary.bytes) = (puts.ends.len(), puts.data.len());
        let (ending, fate) = match fate {
            Fate::Reset => return Err(Trouble::Cut),
            Fate::Refused(error) => (Ending::Answered, Err(error)),
            Fate::Carried(ending) => (ending, Ok(ending)),
        };
        let (put, latency) = {
            let mut service = self.service();
            (service.put(self.clock.now(), operation, puts, fate), service.faults.latency)
        };
        if let Ok(put) = &put {
            // What an ending other than an answer makes ambiguous is counted already.
            let accepted = if ending == Ending::Answered { put.accepted } else { 0 };
            summary.outcome = Outcome::Cut { accepted };
            if put.filled {
                self.filled.notify_one();
            }
        }
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut put = put?;
        if let Some(parcel) = put.due.take() {
            // As a task of its own: it goes on should the client leave. Waited for, so that
            // whoever fills buffers faster than the disk takes them is slowed down by it.
            self.tasks.spawn(Arc::clone(self).deliver_logged(parcel)).await.ok();
        }
        summary.outcome = Outcome::Cut { accepted: put.accepted };
        let answer = match ending {
            Ending::Cut => return Err(Trouble::Cut),
            Ending::Answered | Ending::Spoilt(Spoil::OneShort | Spoil::WrongCount) => put.answer,
            Ending::Spoilt(Spoil::Html) => GARBAGE.to_vec(),
            Ending::Spoilt(Spoil::Empty) => Vec::new(),
            Ending::Spoilt(Spoil::Truncated) => {
                put.answer.truncate(put.answer.len() / 2);
                put.answer
            }
        };
        summary.outcome = Outcome::Answered { failed: put.failed };
        Ok(answer)
    }

    async fn control(
        self: &Arc<Self>,
        operation: Operation,
        body: &[u8],
        summary: &mut RequestSummary,
    ) -> Result<serde_json::Value, ApiError> {
        let now = self.clock.now();
        let named = |summary: &mut RequestSummary| -> Result<Option<String>, ApiError> {
            let name = api::parse::<api::NameBody>(body)?.delivery_stream_name;
            summary.stream = name.clone().unwrap_or_default();
            Ok(name)
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "puts and CloudWatch have their own ways")]
        match operation {
            Operation::CreateDeliveryStream => {
                named(summary)?;
                self.service().create(now, api::parse(body)?)
            }
            Operation::DeleteDeliveryStream => {
                let name = named(summary)?;
                let (answer, parcel) = self.service().delete(name.as_deref())?;
                if let Some(parcel) = parcel {
                    self.tasks.spawn(Arc::clone(self).deliver_logged(parcel)).await.ok();
                }
                Ok(answer)
            }
            Operation::DescribeDeliveryStream => {
                let name = named(summary)?;
                self.service().describe(name.as_deref())
            }
            Operation::ListDeliveryStreams => self.service().list(&api::parse(body)?),
            _ => Err(unknown_operation()),
        }
    }

    /// The whole body of a request, decompressed, and the hold on the memory that it takes.
    async fn read(&self, head: &Parts, mut body: Incoming) -> Result<(Vec<u8>, Reservation), Trouble> {
        let too_large = || {
            let message = format!("Request body is larger than {MAX_BODY_BYTES} bytes");
            ApiError::new(413, "RequestEntityTooLargeException", message)
        };
        let length = match body.size_hint().exact() {
            Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
            None => MAX_BODY_BYTES,
        };
        if length > MAX_BODY_BYTES {
            return Err(too_large().into());
        }
        let hold = self.bodies.reserve(length).await;
        let reading = async {
            let mut bytes = Vec::with_capacity(length);
            while let Some(frame) = body.frame().await {
                // The client has left, so nobody would read an answer.
                let frame = frame.map_err(|_| Trouble::Cut)?;
                let data = frame.into_data().unwrap_or_default();
                if bytes.len() + data.len() > MAX_BODY_BYTES {
                    return Err(too_large().into());
                }
                bytes.extend_from_slice(&data);
            }
            Ok(bytes)
        };
        let bytes = tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or(Err(Trouble::Cut))?;
        let bytes = match head.headers.get(header::CONTENT_ENCODING).map(|coding| coding.as_bytes()) {
            None | Some(b"identity") => bytes,
            Some(b"gzip") => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&*bytes)
                    .take(MAX_BODY_BYTES as u64 + 1)
                    .read_to_end(&mut plain)
                    .map_err(|error| ApiError::serialization(format!("the body is no gzip: {error}")))?;
                if plain.len() > MAX_BODY_BYTES {
                    return Err(too_large().into());
                }
                plain
            }
            Some(_) => return Err(ApiError::serialization("the body's encoding is not gzip").into()),
        };
        Ok((bytes, hold))
    }

    /// Delivers what falls due by the age of its data, until the service stops.
    async fn deliver_when_due(self: Arc<Self>) {
        loop {
            let due = self.service().next_due();
            let wait = due.map(|due| tokio::time::sleep(due.saturating_sub(self.clock.now())));
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.filled.notified() => {}
                Some(()) = OptionFuture::from(wait) => {
                    let parcels = self.service().take_due(self.clock.now());
                    for parcel in parcels {
                        Arc::clone(&self).deliver_logged(parcel).await;
                    }
                }
            }
        }
    }

    async fn deliver_logged(self: Arc<Self>, parcel: Parcel) {
        let (stream, records) = (parcel.stream.clone(), parcel.object.records);
        if let Err(error) = self.deliver(parcel).await {
            tracing::error!(%error, stream, records, "Data could not be written.");
        }
    }

    /// Delivers one parcel, or takes it back if that fails.
    async fn deliver(&self, parcel: Parcel) -> io::Result<()> {
        if let Some(directory) = self.directory.clone() {
            let copy = parcel.clone();
            let written = tokio::task::spawn_blocking(move || super::disk::write(&directory, &copy)).await;
            if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                let kept = self.service().put_back(self.clock.now(), parcel);
                self.filled.notify_one();
                return match kept {
                    true => Err(error),
                    false => Err(io::Error::new(
                        error.kind(),
                        format!("{error}; its stream is gone, and so is it"),
                    )),
                };
            }
        }
        self.service().delivered(self.clock.now(), &parcel);
        Ok(())
    }
}

/// The next connection, with its permit taken before it is accepted.
async fn next(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let permit = Arc::clone(permits).acquire_owned().await;
        match (listener.accept().await, permit) {
            (Ok((socket, _)), Ok(permit)) => return (socket, permit),
            (Err(error), _) => {
                tracing::warn!(%error, "A connection could not be accepted.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The semaphore is never closed.
            (_, Err(_)) => std::future::pending().await,
        }
    }
}

fn unknown_operation() -> ApiError {
    ApiError::new(400, "UnknownOperationException", "The embedded service has no such operation")
}

/// What a request asks for, and how its body is written.
fn route(head: &Parts) -> Result<(Operation, Wire), ApiError> {
    const CBOR: &str = "/service/GraniteServiceVersion20100801/operation/";
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let route = match (head.uri.path().strip_prefix(CBOR), target) {
        _ if head.method != Method::POST => None,
        (Some(name), _) => Operation::from_cloudwatch(name).map(|operation| (operation, Wire::Cbor)),
        (None, Some(target)) if head.uri.path() == "/" => {
            let wire = if target.starts_with("Firehose_") { Wire::Json11 } else { Wire::Json10 };
            Operation::from_target(target).map(|operation| (operation, wire))
        }
        _ => None,
    };
    route.ok_or_else(unknown_operation)
}

fn respond(
    status: StatusCode,
    wire: Wire,
    error: Option<&'static str>,
    body: Vec<u8>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut set = |name, value: &str| {
        if let Ok(value) = value.parse() {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-amzn-requestid", &uuid(fastrand::u128(..)));
    set("content-type", wire.content_type());
    if wire == Wire::Cbor {
        set("smithy-protocol", "rpc-v2-cbor");
    }
    if let Some(error) = error {
        set("x-amzn-errortype", error);
        // CloudWatch's clients still know its errors by the names of its oldest protocol:
        // https://smithy.io/2.0/aws/protocols/aws-query-protocol.html#aws-query-compatible
        if wire != Wire::Json11 {
            set("x-amzn-query-error", &format!("{};Sender", error.trim_end_matches("Exception")));
        }
    }
    response
}
