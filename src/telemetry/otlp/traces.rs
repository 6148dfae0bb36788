//! A trace of a flush: from the read of its oldest record to the verdicts on all of them.
//!
//! It is made when the answer is there, of what the flush task knows by then, and only if the
//! sampler wants it. Ids, sampling, limits and batching are the SDK's, and so are their variables;
//! the exporter is ours, over the same client as that of metrics. No record is ever part of it.
//!
//! ```text
//! flush                         read of the oldest record ──────────────────▶ verdicts
//! ├ batch                       read of the oldest record ─▶ sent
//! └ Firehose.PutRecordBatch                                  sent ─▶ answered
//! ```
//!
//! The call is described by the conventions for AWS SDKs
//! (<https://opentelemetry.io/docs/specs/semconv/cloud-providers/aws-sdk/>); for what they have no
//! attribute there is one below `hydrant.`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, StringValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData,
    SpanExporter,
};
use prost::Message;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Request;
use super::client::Client;
use crate::telemetry::figures::{Outcome, label};
use crate::telemetry::{now, wall_clock};

/// Where the flush task tells of what it did.
#[derive(Debug, Clone)]
pub struct Traces {
    tracer: SdkTracer,
    stream: StringValue,
}

/// A trace that is being made, of one answer.
#[derive(Debug)]
pub struct Trace {
    tracer: SdkTracer,
    root: Span,
    clock: Clock,
    request: Request,
    /// Records that go again.
    retried: Failed,
    /// Records that are given up.
    set_aside: Failed,
}

/// Numbers of records by the code of their failure.
#[derive(Debug, Default)]
struct Failed(Vec<(String, usize)>);

impl Failed {
    fn add(&mut self, code: &str, records: usize) {
        let code = label(code);
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, sum)) => *sum += records,
            None => self.0.push((code.into_owned(), records)),
        }
    }

    fn tell(self, span: &mut Span, event: &'static str, at: SystemTime) {
        for (code, records) in self.0 {
            let attributes =
                vec![KeyValue::new("error.type", code), KeyValue::new("hydrant.records", count(records))];
            span.add_event_with_timestamp(event, at, attributes);
        }
    }
}

/// The wall clock beside the other one, at one moment: within a trace times keep their order.
#[derive(Debug, Clone, Copy)]
struct Clock {
    wall: SystemTime,
    at: Instant,
}

impl Clock {
    fn look() -> Self {
        Self { wall: wall_clock(), at: now() }
    }

    fn wall(self, at: Instant) -> SystemTime {
        let ago = self.at.saturating_duration_since(at);
        self.wall.checked_sub(ago).unwrap_or(self.wall) + at.saturating_duration_since(self.at)
    }
}

impl Traces {
    /// Begins a trace of `request`, if the sampler wants one.
    #[must_use]
    pub fn begin(&self, request: Request) -> Option<Trace> {
        let clock = Clock::look();
        let builder = SpanBuilder::from_name("flush")
            .with_kind(SpanKind::Internal)
            .with_start_time(clock.wall(request.oldest));
        let mut root = self.tracer.build_with_context(builder, &Context::new());
        if !root.is_recording() {
            return None;
        }
        root.set_attribute(KeyValue::new("hydrant.delivery_stream", self.stream.clone()));
        Some(Trace {
            tracer: self.tracer.clone(),
            root,
            clock,
            request,
            retried: Failed::default(),
            set_aside: Failed::default(),
        })
    }
}

impl Trace {
    /// `records` failed with `code` and go again.
    pub fn retried(&mut self, code: &str, records: usize) {
        self.retried.add(code, records);
    }

    /// `records` failed with `code` and are given up.
    pub fn set_aside(&mut self, code: &str, records: usize) {
        self.set_aside.add(code, records);
    }

    /// Hands the trace over for export. `code` is that of the failure, where there was one.
    pub fn end(mut self, outcome: Outcome, code: Option<&str>) {
        let end = self.clock.wall(now());
        let error = code.map(|code| label(code).into_owned());
        let context = Context::new().with_remote_span_context(self.root.span_context().clone());
        self.batch(&context);
        self.call(&context, outcome, error.as_deref());
        let Request { records, bytes, delivered, attempt, .. } = self.request;
        self.root.set_attributes([
            KeyValue::new("hydrant.records", count(records)),
            KeyValue::new("hydrant.bytes", count(bytes)),
            KeyValue::new("hydrant.delivered", count(delivered)),
            KeyValue::new("hydrant.attempt", i64::from(attempt)),
            KeyValue::new("hydrant.outcome", outcome.label()),
        ]);
        self.retried.tell(&mut self.root, "retry", end);
        self.set_aside.tell(&mut self.root, "dead_letter", end);
        fail(&mut self.root, outcome, error.as_deref());
        self.root.end_with_timestamp(end);
    }

    /// The time that the records spent in buffer and batcher.
    fn batch(&self, parent: &Context) {
        let Request { oldest, sent, records, bytes, .. } = self.request;
        let builder = SpanBuilder::from_name("batch")
            .with_kind(SpanKind::Internal)
            .with_start_time(self.clock.wall(oldest))
            .with_attributes([
                KeyValue::new("hydrant.records", count(records)),
                KeyValue::new("hydrant.bytes", count(bytes)),
            ]);
        let mut span = self.tracer.build_with_context(builder, parent);
        span.end_with_timestamp(self.clock.wall(sent));
    }

    /// The call, from outside.
    fn call(&self, parent: &Context, outcome: Outcome, error: Option<&str>) {
        let Request { operation, sent, answered, failed_put_count, .. } = self.request;
        let method = operation.name();
        let builder = SpanBuilder::from_name(format!("Firehose.{method}"))
            .with_kind(SpanKind::Client)
            .with_start_time(self.clock.wall(sent))
            .with_attributes([
                KeyValue::new("rpc.system", "aws-api"),
                KeyValue::new("rpc.service", "Firehose"),
                KeyValue::new("rpc.method", method),
                KeyValue::new("hydrant.outcome", outcome.label()),
            ]);
        let mut span = self.tracer.build_with_context(builder, parent);
        if let Some(failed) = failed_put_count {
            span.set_attribute(KeyValue::new("hydrant.failed_put_count", count(failed)));
        }
        fail(&mut span, outcome, error);
        span.end_with_timestamp(self.clock.wall(answered));
    }
}

/// A span whose records were not all taken has failed. One that has not has no status, by
/// <https://opentelemetry.io/docs/specs/semconv/general/recording-errors/>.
fn fail(span: &mut Span, outcome: Outcome, error: Option<&str>) {
    if let (Some(error), true) = (error, outcome != Outcome::Ok) {
        span.set_attribute(KeyValue::new("error.type", error.to_owned()));
        span.set_status(Status::error(error.to_owned()));
    }
}

/// The SDK's part: it lives until the daemon ends.
pub(super) struct Provider {
    provider: SdkTracerProvider,
}

impl Provider {
    /// Starts the SDK's thread, which gathers spans and hands them over now and then. What is
    /// `None` is left to the SDK's variables.
    pub(super) fn start(
        exporter: Exporter,
        ratio: Option<f64>,
        queue: Option<usize>,
        resource: Resource,
    ) -> Self {
        let mut batches = BatchConfigBuilder::default();
        if let Some(queue) = queue {
            batches = batches.with_max_queue_size(queue);
        }
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        let mut builder = SdkTracerProvider::builder().with_resource(resource).with_span_processor(processor);
        if let Some(ratio) = ratio {
            builder = builder.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))));
        }
        Self { provider: builder.build() }
    }

    pub(super) fn traces(&self, scope: InstrumentationScope, stream: &str) -> Traces {
        let tracer = self.provider.tracer_with_scope(scope);
        Traces { tracer, stream: stream.to_owned().into() }
    }

    /// Exports what there is, for at most `limit`. Blocks, so not for the daemon's own thread.
    pub(super) fn finish(self, limit: Duration) {
        // How the export ended is said where it ends; that the time is over, nobody can help.
        drop(self.provider.shutdown_with_timeout(limit));
    }
}

/// Brings spans from the SDK's thread to the daemon's, where the client works.
#[derive(Debug)]
pub(super) struct Exporter {
    pub(super) client: Arc<Client>,
    pub(super) runtime: Handle,
    pub(super) tasks: TaskTracker,
    /// Ends an export wherever it is.
    pub(super) cut: CancellationToken,
    pub(super) resource: ResourceAttributesWithSchema,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let (client, cut) = (Arc::clone(&self.client), self.cut.clone());
        let export = async move { cut.run_until_cancelled(client.export(body)).await };
        match self.tasks.spawn_on(export, &self.runtime).await {
            Ok(Some(result)) => result.map_err(OTelSdkError::InternalFailure),
            Ok(None) | Err(_) => Err(OTelSdkError::AlreadyShutdown),
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
