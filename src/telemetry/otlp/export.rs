//! The tasks of the export: metrics at their pace, traces as they come, both once more at the end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use prost::Message;
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::NotBuilt;
use super::client::Client;
use super::metrics::{self, Span};
use super::settings::{self, Settings, Target};
use super::traces::{Exporter, Provider, Traces};
use crate::config::OtlpConfig;
use crate::firehose::{Outbound, proxy};
use crate::telemetry::families::families;
use crate::telemetry::figures::{Figures, Signal};
use crate::telemetry::{now, wall_clock};

/// Time for the last export.
const LAST: Duration = Duration::from_secs(1);

/// What is to be exported where.
#[derive(Debug)]
pub struct Plan(Settings);

/// What is to be exported by `config` and the `OTEL_…` variables that `lookup` finds; `None` is
/// nothing. Says which variables are ignored.
///
/// # Errors
///
/// [`NotBuilt`], in a build without the feature `otlp` only.
pub fn plan(config: &OtlpConfig, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Plan>, NotBuilt> {
    let (settings, ignored) = settings::read(config.endpoint.as_deref(), config.trace_ratio, lookup);
    for problem in ignored {
        tracing::warn!(problem, "A variable of OpenTelemetry is ignored.");
    }
    Ok(settings.map(Plan))
}

/// An export under way.
pub struct Export {
    metrics: Option<Arc<Metrics>>,
    traces: Option<(Provider, Traces)>,
    tasks: TaskTracker,
    /// Ends the regular exports of metrics.
    pace: CancellationToken,
    /// Ends every export wherever it is.
    cut: CancellationToken,
}

/// The export of metrics.
struct Metrics {
    client: Client,
    figures: Arc<Figures>,
    resource: Resource,
    scope: InstrumentationScope,
    start: SystemTime,
}

impl Plan {
    /// Starts what is planned, for the figures and flushes of the daemon that delivers to
    /// `stream`. Must be called within a tokio runtime. `None` where the proxy for it can't be
    /// used, which is said.
    #[must_use]
    pub fn start(self, figures: &Arc<Figures>, stream: &str) -> Option<Export> {
        let outbound = match proxy::from_environment(|name| std::env::var(name).ok()) {
            Ok(proxies) => Arc::new(Outbound::new(proxies)),
            Err(error) => {
                tracing::warn!(%error, "Nothing is exported to a collector.");
                return None;
            }
        };
        let Settings { metrics, interval, traces, trace_ratio, queue } = self.0;
        say(metrics.as_ref(), traces.as_ref());
        let resource = resource(stream);
        let scope = InstrumentationScope::builder("hydrant").with_version(env!("CARGO_PKG_VERSION")).build();
        let client = |signal, target| Client::new(signal, target, Arc::clone(&outbound), Arc::clone(figures));
        let (tasks, pace, cut) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let traces = traces.map(|target| {
            let exporter = Exporter {
                client: Arc::new(client(Signal::Traces, target)),
                runtime: Handle::current(),
                tasks: tasks.clone(),
                cut: cut.clone(),
                resource: ResourceAttributesWithSchema::from(&resource),
            };
            let provider = Provider::start(exporter, trace_ratio, queue, resource.clone());
            let traces = provider.traces(scope.clone(), stream);
            (provider, traces)
        });
        let metrics = metrics.map(|target| {
            let metrics = Arc::new(Metrics {
                client: client(Signal::Metrics, target),
                figures: Arc::clone(figures),
                resource,
                scope,
                start: wall_clock() - now().saturating_duration_since(figures.started()),
            });
            let (paced, pace) = (Arc::clone(&metrics), pace.clone());
            tasks.spawn(async move { pace.run_until_cancelled(paced.export_every(interval)).await });
            metrics
        });
        Some(Export { metrics, traces, tasks, pace, cut })
    }
}

impl Export {
    /// Where the flush task tells of what it did, if traces are exported.
    #[must_use]
    pub fn traces(&self) -> Option<Traces> {
        self.traces.as_ref().map(|(_, traces)| traces.clone())
    }

    /// Exports the figures as they are at the end, and the traces that are left, for a second at
    /// most.
    pub async fn finish(self) {
        let Self { metrics, traces, tasks, pace, cut } = self;
        pace.cancel();
        let figures = async {
            if let Some(metrics) = metrics {
                metrics.export().await;
            }
        };
        let spans = async {
            if let Some((provider, _)) = traces {
                // It waits for the SDK's thread, which waits for this one.
                drop(tokio::task::spawn_blocking(move || provider.finish(LAST)).await);
            }
        };
        if tokio::time::timeout(LAST, futures_util::future::join(figures, spans)).await.is_err() {
            tracing::warn!("The collector did not take the last export in time.");
        }
        cut.cancel();
        tasks.close();
        tasks.wait().await;
    }
}

impl Metrics {
    async fn export_every(&self, interval: Duration) {
        let mut pace = tokio::time::interval_at(tokio::time::Instant::from_std(now()) + interval, interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            self.export().await;
        }
    }

    async fn export(&self) {
        let resource = opentelemetry_proto::tonic::resource::v1::Resource {
            attributes: ResourceAttributesWithSchema::from(&self.resource).attributes.0,
            ..Default::default()
        };
        let span = Span { start: self.start, end: wall_clock() };
        let scope = (&self.scope, None).into();
        let request = metrics::request(families(&self.figures, now()), resource, scope, span);
        // How it ended is said and counted where it ends; the next export has all that this one had.
        drop(self.client.export(request.encode_to_vec()).await);
    }
}

fn say(metrics: Option<&Target>, traces: Option<&Target>) {
    let shown = |target: Option<&Target>| target.map_or_else(|| "off".to_owned(), Target::shown);
    tracing::info!(metrics = shown(metrics), traces = shown(traces), "Exporting to a collector.");
}

/// Who exports. What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say wins.
fn resource(stream: &str) -> Resource {
    let host = host_name();
    let pid = std::process::id();
    let ours = [
        KeyValue::new("service.name", "hydrant"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", format!("{host}-{pid}")),
        KeyValue::new("host.name", host),
        KeyValue::new("process.pid", i64::from(pid)),
        KeyValue::new("hydrant.delivery_stream", stream.to_owned()),
    ];
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(ours)
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(name.map(|name| KeyValue::new("service.name", name)))
        .build()
}

/// The kernel's name of this machine, or container.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unknown".to_owned(),
        name => name.to_owned(),
    }
}
