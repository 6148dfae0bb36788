//! The AWS SDK behind [`Firehose`].

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_firehose::Client;
use aws_sdk_firehose::config::retry::RetryConfig;
use aws_sdk_firehose::config::timeout::TimeoutConfig;
use aws_sdk_firehose::config::{IdentityCache, interceptors};
use aws_sdk_firehose::error::SdkError;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_smithy_types::date_time::{DateTime, Format};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use bytes::Bytes;
use interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef,
};
use tokio::sync::OnceCell;

use super::bodies::Bodies;
use super::classify::{self, Target};
use super::credentials::{Credentials, Lease};
use super::pairs::Pairs;
use super::protocol::{Prebuilt, Protocol};
use super::{
    Answer, Class, Description, Entry, Firehose, Operation, Put, PutError, WatchError, answer, proxy,
    transport,
};
use crate::config::Config;
use crate::record::Span;

/// What the client is made from. The rest is the SDK's own: profiles and `AWS_…` variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// AWS region; `None` leaves it to the SDK's chain.
    pub region: Option<String>,
    /// The Firehose endpoint; it wins over `AWS_ENDPOINT_URL_FIREHOSE` and the profile.
    pub endpoint_url: Option<String>,
    /// Bound on one attempt, from start to answer.
    pub attempt_timeout: Duration,
    /// Bound on opening a connection.
    pub connect_timeout: Duration,
    /// Bound on the wait for an answer's first byte.
    pub read_timeout: Duration,
    /// Most requests at once, as many connections are kept.
    pub max_in_flight: usize,
    /// Our serialiser for `PutRecordBatch`, or the SDK's own.
    pub fast_body: bool,
    /// The CloudWatch endpoint; it wins over `AWS_ENDPOINT_URL_CLOUDWATCH` and the profile.
    pub cloudwatch_endpoint_url: Option<String>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            region: config.region.clone(),
            endpoint_url: config.endpoint_url.clone(),
            attempt_timeout: config.send.attempt_timeout,
            connect_timeout: config.send.connect_timeout,
            read_timeout: config.send.read_timeout,
            max_in_flight: config.send.max_in_flight,
            fast_body: config.send.fast_body,
            cloudwatch_endpoint_url: config.monitor.endpoint_url.clone(),
        }
    }
}

/// Amazon Data Firehose through the AWS SDK.
///
/// Nothing is read, loaded or looked up before the first call. A call that finds no region or no
/// credentials fails with a [`PutError`] that says what to do, and the next one looks again.
#[derive(Debug)]
pub struct Sdk {
    pub(super) settings: Settings,
    given: Option<SharedCredentialsProvider>,
    loaded: OnceCell<Loaded>,
}

#[derive(Debug)]
pub(super) struct Loaded {
    client: Client,
    pub(super) credentials: Credentials,
    pub(super) shared: SdkConfig,
    pub(super) region: String,
    pub(super) cloudwatch: OnceLock<aws_sdk_cloudwatch::Client>,
    seen: Arc<Seen>,
    bodies: Arc<Bodies>,
    pairs: Pairs,
}

impl Sdk {
    /// A client of `settings`, not yet made.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, given: None, loaded: OnceCell::new() }
    }

    /// The same, with credentials of `source` in place of the SDK's chain.
    #[must_use]
    pub fn with_credentials(mut self, source: impl ProvideCredentials + 'static) -> Self {
        self.given = Some(SharedCredentialsProvider::new(source));
        self
    }

    pub(super) async fn loaded(&self) -> Result<&Loaded, PutError> {
        self.loaded.get_or_try_init(|| Loaded::load(&self.settings, self.given.clone())).await
    }

    /// Waits for credentials, no longer than an attempt may take.
    pub(super) async fn lease(&self, loaded: &Loaded) -> Result<Lease, PutError> {
        match tokio::time::timeout(self.settings.attempt_timeout, loaded.credentials.ready()).await {
            Ok(lease) => lease.map_err(|error| classify::credentials_error(&error)),
            Err(_) => Err(PutError {
                class: Class::Transient,
                code: Cow::Borrowed("credentials"),
                message: "AWS credentials could not be fetched in time; their source is asked again"
                    .to_owned(),
                ambiguous: false,
            }),
        }
    }

    // snippet-start:[firehose.rust.hydrant.describe_delivery_stream]
    /// See [`super::Watch::describe`].
    pub(super) async fn describe_stream(&self, stream: &str) -> Result<Description, WatchError> {
        let loaded = self.loaded().await?;
        self.lease(loaded).await?;
        let call = loaded.client.describe_delivery_stream().delivery_stream_name(stream);
        let answer = ReadAnswer::default();
        let call = call.customize().interceptor(ReadClock(Arc::clone(&loaded.seen)));
        let output = call.interceptor(answer.clone()).send().await;
        // The SDK's own reading is all or nothing: it gives up an answer for one field that it
        // misses deep in a destination.
        match (output, Description::read(&answer.take())) {
            (Ok(_), Some(description)) => Ok(description),
            (Err(SdkError::ResponseError(context)), Some(description))
                if context.raw().status().is_success() =>
            {
                Ok(description)
            }
            (Err(error), _) => {
                let target = loaded.target("DescribeDeliveryStream", stream);
                Err(classify::put_error(&error, target).into())
            }
            (Ok(_), None) => Err(WatchError::Failed(PutError {
                class: Class::Transient,
                code: Cow::Borrowed("response"),
                message: format!(
                    "the answer of {} to DescribeDeliveryStream has no description",
                    loaded.target("DescribeDeliveryStream", stream)
                ),
                ambiguous: false,
            })),
        }
    }
    // snippet-end:[firehose.rust.hydrant.describe_delivery_stream]

    /// What the service answers to a `PutRecordBatch` of no records, which it must refuse: a
    /// [`Class::Refused`] means that the request came past authentication.
    ///
    /// # Errors
    ///
    /// The refusal, or why it did not come to that.
    pub async fn probe(&self, stream: &str) -> Result<(), PutError> {
        let loaded = self.loaded().await?;
        self.lease(loaded).await?;
        let call =
            loaded.client.put_record_batch().delivery_stream_name(stream).set_records(Some(Vec::new()));
        let output = call.customize().interceptor(ReadClock(Arc::clone(&loaded.seen))).send().await;
        output.map(drop).map_err(|error| classify::put_error(&error, loaded.target("PutRecordBatch", stream)))
    }

    /// The region that requests are signed for.
    ///
    /// # Errors
    ///
    /// [`PutError`] where none is configured.
    pub async fn region(&self) -> Result<&str, PutError> {
        self.loaded().await.map(|loaded| loaded.region.as_str())
    }

    /// The current credentials.
    ///
    /// # Errors
    ///
    /// [`PutError`] where there are none.
    pub async fn keys(&self) -> Result<Keys, PutError> {
        let loaded = self.loaded().await?;
        self.lease(loaded).await?;
        loaded.credentials.keys().await.map_err(|error| classify::credentials_error(&error))
    }

    // snippet-start:[sts.rust.hydrant.get_caller_identity]
    /// The ARN of whoever the credentials belong to, from STS.
    ///
    /// # Errors
    ///
    /// [`PutError`] where STS did not say.
    pub async fn identity(&self) -> Result<String, PutError> {
        let loaded = self.loaded().await?;
        self.lease(loaded).await?;
        let config = aws_sdk_sts::config::Builder::from(&loaded.shared)
            .credentials_provider(loaded.credentials.clone())
            .identity_cache(IdentityCache::no_cache())
            .timeout_config(timeouts(&self.settings))
            .retry_config(RetryConfig::disabled())
            .build();
        let output = aws_sdk_sts::Client::from_conf(config).get_caller_identity().send().await;
        let target = Target {
            service: "sts",
            operation: "GetCallerIdentity",
            stream: "",
            region: &loaded.region,
            endpoint: Some("STS"),
        };
        let output = output.map_err(|error| classify::put_error(&error, target))?;
        Ok(output.arn().unwrap_or("an identity without an ARN").to_owned())
    }
    // snippet-end:[sts.rust.hydrant.get_caller_identity]

    /// Scheme and authority of the endpoint, known once a request was tried.
    #[must_use]
    pub fn endpoint(&self) -> Option<&str> {
        self.loaded.get()?.seen.endpoint.get().map(String::as_str)
    }

    /// How far this host's clock was ahead of the service's, in seconds, when the last
    /// [`Watch::describe`](super::Watch::describe) or [`Self::probe`] was answered.
    #[must_use]
    pub fn clock_skew_seconds(&self) -> Option<i64> {
        *self.loaded.get()?.seen.skew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn timeouts(settings: &Settings) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .read_timeout(settings.read_timeout)
        .operation_attempt_timeout(settings.attempt_timeout)
        .build()
}

/// What no attempt can change: a setting is missing or wrong.
pub(super) fn unsettled(code: &'static str, message: String) -> PutError {
    PutError { class: Class::Permanent, code: Cow::Borrowed(code), message, ambiguous: false }
}

/// Whether the settings have no credentials, as opposed to a source that has none just now.
fn is_unsettled(error: &CredentialsError) -> bool {
    matches!(error, CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))
}

/// Variables that the SDK takes an endpoint from, and panics over when they are set to nothing
/// (`Endpoint::builder` of aws-smithy-types).
const ENDPOINT_VARIABLES: [&str; 3] =
    ["AWS_ENDPOINT_URL_FIREHOSE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS"];

/// Whether `url` can be an endpoint.
pub(super) fn is_http(url: &str) -> bool {
    let scheme = |uri: http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    url.parse().is_ok_and(scheme)
}

impl Loaded {
    async fn load(settings: &Settings, given: Option<SharedCredentialsProvider>) -> Result<Self, PutError> {
        if let Some(url) = settings.endpoint_url.as_deref().filter(|url| !is_http(url)) {
            let message =
                format!("`endpoint_url` is `{url}`; set it to a URL that begins with https:// or http://");
            return Err(unsettled("request", message));
        }
        let empty = |name: &&str| std::env::var_os(name).is_some_and(|value| value.is_empty());
        if let Some(name) = ENDPOINT_VARIABLES.into_iter().find(empty) {
            return Err(unsettled(
                "request",
                format!("{name} is empty; unset it, or set it to the URL of an endpoint"),
            ));
        }
        let proxies = proxy::from_environment(|name| std::env::var(name).ok())
            .map_err(|error| unsettled("request", error.to_string()))?;
        let http = transport::client(&proxies, settings.max_in_flight);
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(given) = given {
            loader = loader.credentials_provider(given);
        }
        let shared = loader.load().await;
        let Some(region) = shared.region().map(ToString::to_string) else {
            let message = "no AWS region is configured; set `region`, or AWS_REGION".to_owned();
            return Err(unsettled("region", message));
        };
        let Some(source) = shared.credentials_provider() else {
            return Err(unsettled("credentials", "no source of AWS credentials is configured".to_owned()));
        };
        let clock = shared.time_source().unwrap_or_else(SharedTimeSource::default);
        let credentials = Credentials::new(source, clock);
        // The chain reads the profiles once. One that found nothing in them is not kept, so that
        // the next call reads them again.
        match tokio::time::timeout(settings.attempt_timeout, credentials.ready()).await {
            Ok(Err(error)) if is_unsettled(&error) => return Err(classify::credentials_error(&error)),
            Ok(_) | Err(_) => {}
        }
        let seen = Arc::new(Seen::default());
        let mut config = aws_sdk_firehose::config::Builder::from(&shared)
            .credentials_provider(credentials.clone())
            // `credentials` is the cache; the SDK's own would refresh on the send path.
            .identity_cache(IdentityCache::no_cache())
            // The sender has the one policy, which sees per-record failures too.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts(settings))
            .interceptor(ReadEndpoint(Arc::clone(&seen)));
        if let Some(endpoint_url) = &settings.endpoint_url {
            config = config.endpoint_url(endpoint_url);
        }
        if settings.fast_body {
            config = config.protocol(Protocol::new());
        }
        let client = Client::from_conf(config.build());
        Ok(Self {
            client,
            credentials,
            shared,
            region,
            cloudwatch: OnceLock::new(),
            seen,
            bodies: Arc::default(),
            pairs: Pairs::default(),
        })
    }

    fn target<'a>(&'a self, operation: &'static str, stream: &'a str) -> Target<'a> {
        Target {
            service: "firehose",
            operation,
            stream,
            region: &self.region,
            endpoint: self.seen.endpoint.get().map(String::as_str),
        }
    }

    // snippet-start:[firehose.rust.hydrant.put_record]
    async fn put_record(&self, put: &Put) -> Result<Answer, PutError> {
        let mut records = put.singles();
        let (Some(data), None) = (records.next(), records.next()) else {
            return Err(unsettled("request", "PutRecord takes exactly one record".to_owned()));
        };
        let output =
            self.client.put_record().delivery_stream_name(&*put.stream).record(record(data)?).send().await;
        let output = output.map_err(|error| self.failed("PutRecord", &put.stream, &error))?;
        match output.record_id() {
            "" => Err(PutError {
                class: Class::Transient,
                code: Cow::Borrowed("response"),
                message: "the answer to PutRecord has no record id; the record will be sent again".to_owned(),
                ambiguous: true,
            }),
            id => Ok(Answer { failed: Vec::new(), record_id: Some(id.to_owned()) }),
        }
    }
    // snippet-end:[firehose.rust.hydrant.put_record]

    // snippet-start:[firehose.rust.hydrant.put_record_batch]
    async fn put_fast(&self, put: &Put) -> Result<Answer, PutError> {
        let prebuilt = Prebuilt::new(put, &self.bodies).hashed(&self.pairs).await;
        // The SDK's own input stays empty; the protocol sends the body instead of it.
        let call =
            self.client.put_record_batch().delivery_stream_name(&*put.stream).set_records(Some(Vec::new()));
        let output = call.customize().interceptor(prebuilt.clone()).send().await;
        let output = output.map_err(|error| self.failed("PutRecordBatch", &put.stream, &error))?;
        if prebuilt.delivered() {
            Ok(Answer::default())
        } else {
            answer::verdicts(&output, put.entry_count())
        }
    }

    async fn put_stock(&self, put: &Put) -> Result<Answer, PutError> {
        let joined = |spans: &[Span]| Bytes::from(spans.iter().map(Span::data).collect::<Vec<_>>().concat());
        let records: Result<Vec<_>, _> = match &put.packed {
            Some(_) if put.members.is_none() => put
                .entries()
                .map(|entry| match entry {
                    Entry::Record(data) => record(Bytes::copy_from_slice(data)),
                    Entry::Packed(spans) => record(joined(spans)),
                })
                .collect(),
            _ => put.singles().map(record).collect(),
        };
        let records = records?;
        let count = records.len();
        let call =
            self.client.put_record_batch().delivery_stream_name(&*put.stream).set_records(Some(records));
        let output = call.send().await.map_err(|error| self.failed("PutRecordBatch", &put.stream, &error))?;
        answer::verdicts(&output, count)
    }
    // snippet-end:[firehose.rust.hydrant.put_record_batch]

    fn failed<E>(&self, operation: &'static str, stream: &str, error: &SdkError<E, HttpResponse>) -> PutError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        classify::put_error(error, self.target(operation, stream))
    }
}

fn record(data: Bytes) -> Result<Record, PutError> {
    let record = Record::builder().data(Blob::from_maybe_shared(data)).build();
    record.map_err(|error| unsettled("request", format!("a record could not be made ({error})")))
}

impl Firehose for Sdk {
    async fn put(&self, put: Put) -> Result<Answer, PutError> {
        if put.spans.is_empty() {
            return Ok(Answer::default());
        }
        let loaded = self.loaded().await?;
        let lease = self.lease(loaded).await?;
        let answer = match put.operation {
            Operation::PutRecord => loaded.put_record(&put).await,
            Operation::PutRecordBatch if self.settings.fast_body => loaded.put_fast(&put).await,
            Operation::PutRecordBatch => loaded.put_stock(&put).await,
        };
        answer.inspect_err(|error| {
            if classify::blames_credentials(&error.code) {
                loaded.credentials.invalidate(lease);
            }
        })
    }
}

/// What was noticed of requests and answers on their way.
#[derive(Debug, Default)]
struct Seen {
    endpoint: OnceLock<String>,
    skew: Mutex<Option<i64>>,
}

/// Notes where requests go, which only the SDK's endpoint rules know.
#[derive(Debug)]
struct ReadEndpoint(Arc<Seen>);

#[dyn_dispatch_hint]
impl Intercept for ReadEndpoint {
    fn name(&self) -> &'static str {
        "ReadEndpoint"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.endpoint.get_or_init(|| context.request().uri().trim_end_matches('/').to_owned());
        Ok(())
    }
}

/// Keeps the bytes of an answer.
#[derive(Debug, Clone, Default)]
struct ReadAnswer(Arc<Mutex<Bytes>>);

impl ReadAnswer {
    fn take(&self) -> Bytes {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[dyn_dispatch_hint]
impl Intercept for ReadAnswer {
    fn name(&self) -> &'static str {
        "ReadAnswer"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().map(Bytes::copy_from_slice);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = body.unwrap_or_default();
        Ok(())
    }
}

/// Notes how far the clock of whoever answers is from ours.
#[derive(Debug)]
struct ReadClock(Arc<Seen>);

#[dyn_dispatch_hint]
impl Intercept for ReadClock {
    fn name(&self) -> &'static str {
        "ReadClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let theirs = context.response().headers().get("date");
        let theirs = theirs.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        let ours = components.time_source().map(|clock| clock.now());
        if let (Some(theirs), Some(ours)) = (theirs, ours) {
            let skew = DateTime::from(ours).secs() - theirs.secs();
            *self.0.skew.lock().unwrap_or_else(PoisonError::into_inner) = Some(skew);
        }
        Ok(())
    }
}
