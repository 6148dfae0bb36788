//! Where listeners hand over what they read: one buffer a delivery stream, and one that goes by record.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::buffer::{Intake, Router, Routes, Shares, Stamps};
use crate::config::{Config, RouteConfig};
use crate::telemetry::figures::Figures;

/// Where listeners hand over what they read.
#[derive(Debug)]
pub struct Intakes {
    /// By delivery stream, each with its figures.
    streams: BTreeMap<String, (Intake, Arc<Figures>)>,
    /// Of listeners without a stream of their own: that of the first stream, or one that goes by record.
    common: Option<(Intake, Arc<Figures>)>,
    router: Option<Arc<Router>>,
}

impl Intakes {
    /// Over the intakes of all streams of `config`. Where records are routed or stamped, a task in `tasks` lives until
    /// `closed` is cancelled.
    #[must_use]
    pub fn new(
        streams: BTreeMap<String, (Intake, Arc<Figures>)>,
        config: &Config,
        stamps: Option<Arc<Stamps>>,
        tasks: &TaskTracker,
        closed: &CancellationToken,
    ) -> Self {
        let first = streams.get(&config.delivery_stream_name).cloned();
        let is_moved = config.route.is_some() || stamps.is_some();
        let others = |streams: &BTreeMap<String, (Intake, Arc<Figures>)>| {
            let others = streams.iter().filter(|(name, _)| **name != config.delivery_stream_name);
            others.map(|(name, (intake, _))| (name.clone(), intake.clone())).collect()
        };
        let Some((_, figures)) = first.as_ref().filter(|_| is_moved) else {
            let common = first.map(|(intake, figures)| (intake.knowing(others(&streams)), figures));
            return Self { streams, common, router: None };
        };
        let intakes: Vec<Intake> = streams.values().map(|(intake, _)| intake.clone()).collect();
        let router = |routes| Arc::new(Router::new(intakes.clone(), routes, stamps.clone()));
        let position = streams.keys().position(|stream| *stream == config.delivery_stream_name);
        let all_to_first = Routes::to(position.unwrap_or_default());
        // Every name of a route is a stream's, and every stream has an intake.
        let routes =
            config.route.as_ref().and_then(|route| routes(route, &streams).ok()).unwrap_or(all_to_first);
        let router_of_records = router(routes);
        let budget = Budget::new(Shares::of(config.memory_of_each(), false).records);
        let (on_full, ledger) = (config.buffer.on_full, figures.shared_ledger());
        let intake = Intake::routed(budget, on_full, ledger, Arc::clone(&router_of_records));
        let refusals: Vec<_> = intakes.iter().map(|intake| intake.refuses().clone()).collect();
        let (refuses, closed) = (intake.refuses().clone(), closed.clone());
        tasks.spawn(async move {
            let any = futures_util::future::select_all(refusals.iter().map(|it| Box::pin(it.cancelled())));
            tokio::select! {
                _ = any => refuses.cancel(),
                () = closed.cancelled() => {}
            }
        });
        let router_of_routes = config.route.as_ref().map(|_| router_of_records);
        if stamps.is_none() {
            let common = Some((intake.knowing(others(&streams)), Arc::clone(figures)));
            return Self { streams, common, router: router_of_routes };
        }
        // Stamped on their way, they are read into the same share.
        let stamped = |(index, (name, (_, figures))): (usize, (&String, &(Intake, Arc<Figures>)))| {
            let intake = intake.by(router(Routes::to(index)), figures.shared_ledger());
            (name.clone(), (intake, Arc::clone(figures)))
        };
        let streams = streams.iter().enumerate().map(stamped).collect();
        let common = Some((intake.knowing(others(&streams)), Arc::clone(figures)));
        Self { streams, common, router: router_of_routes }
    }

    /// Where a listener hands over that has this stream of its own, or none.
    #[must_use]
    pub fn of(&self, stream: Option<&str>) -> Option<&(Intake, Arc<Figures>)> {
        match stream {
            Some(stream) => self.streams.get(stream),
            None => self.common.as_ref(),
        }
    }

    /// Lets go of them: the flush tasks end when the last ones are gone.
    pub fn close(&mut self) {
        *self = Self { streams: BTreeMap::new(), common: None, router: None };
    }

    /// What goes by record, if anything does.
    #[must_use]
    pub fn router(&self) -> Option<&Arc<Router>> {
        self.router.as_ref()
    }

    /// `route` over the streams that there are.
    ///
    /// # Errors
    ///
    /// The name of one that there is not.
    pub fn routes(&self, route: &RouteConfig) -> Result<Routes, String> {
        routes(route, &self.streams)
    }
}

/// `route` over `streams`, by their order; the error is the name of one that is not among them.
fn routes<T>(route: &RouteConfig, streams: &BTreeMap<String, T>) -> Result<Routes, String> {
    let index = |name: &String| streams.keys().position(|stream| stream == name).ok_or_else(|| name.clone());
    let rules = route.streams.iter().map(|(value, stream)| Ok((value.as_str(), index(stream)?)));
    let rules = rules.collect::<Result<Vec<_>, String>>()?;
    Ok(Routes::new(&route.field, rules, index(&route.otherwise)?))
}
