//! What stands for the export in a build without the feature `otlp`: there is none, and what would
//! be done with one can't be called.

use std::sync::Arc;

use super::{NotBuilt, Request};
use crate::config::OtlpConfig;
use crate::telemetry::figures::{Figures, Outcome};

/// What would be exported where.
#[derive(Debug)]
pub enum Plan {}

/// An export under way.
pub enum Export {}

/// Nothing is exported.
///
/// # Errors
///
/// [`NotBuilt`] where the configuration wants an export. What variables want is said: they are
/// often set for every container of a pod at once.
pub fn plan(config: &OtlpConfig, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Plan>, NotBuilt> {
    if config.endpoint.is_some() {
        return Err(NotBuilt);
    }
    if lookup("OTEL_EXPORTER_OTLP_ENDPOINT").is_some_and(|value| !value.is_empty()) {
        tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT is ignored: hydrant was built without its feature otlp.");
    }
    Ok(None)
}

impl Plan {
    /// Starts what is planned.
    #[must_use]
    pub fn start(self, _: &Arc<Figures>, _: &str) -> Option<Export> {
        match self {}
    }
}

impl Export {
    /// Where the flush task would tell of what it did.
    #[must_use]
    pub fn traces(&self) -> Option<Traces> {
        match *self {}
    }

    /// Exports what is left.
    pub fn finish(self) -> std::future::Ready<()> {
        match self {}
    }
}

/// Where the flush task would tell of what it did.
#[derive(Debug, Clone)]
pub enum Traces {}

/// A trace of one answer.
#[derive(Debug)]
pub enum Trace {}

impl Traces {
    /// Begins a trace of `request`.
    #[must_use]
    pub fn begin(&self, _: Request) -> Option<Trace> {
        match *self {}
    }
}

impl Trace {
    /// `records` failed with `code` and go again.
    pub fn retried(&mut self, _: &str, _: usize) {
        match *self {}
    }

    /// `records` failed with `code` and are given up.
    pub fn set_aside(&mut self, _: &str, _: usize) {
        match *self {}
    }

    /// Hands the trace over for export.
    pub fn end(self, _: Outcome, _: Option<&str>) {
        match self {}
    }
}
