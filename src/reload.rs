//! What SIGHUP brings: the configuration is read again, and a running daemon follows it as far as it
//! can: listeners, `retry.*`, `linger`, `log.level`. What else was changed is named, and waits for a
//! restart.
//!
//! Either all of it is followed or nothing: what may fail (reading, checking, taking addresses) comes
//! before anything is changed. Connections that are open are never touched: they go on as they began,
//! also where their listener was changed or is gone. Only a listener's limits go for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::buffer::Routes;
use crate::config::{Address, Config, Effective, ListenConfig, Loaded, Problems};
use crate::drain::Listening;
use crate::listener::{self, Bound, Context, Handle, Intakes};
use crate::sender::worker::{Control, Tuning};
use crate::socket::Passed;
use crate::telemetry::figures::Figures;
use crate::telemetry::log;

/// Reads the configuration again.
pub struct Again(Box<dyn Fn() -> Result<Loaded, Problems> + Send>);

impl Again {
    /// By `read`.
    #[must_use]
    pub fn new(read: impl Fn() -> Result<Loaded, Problems> + Send + 'static) -> Self {
        Self(Box::new(read))
    }
}

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Again").finish_non_exhaustive()
    }
}

/// The listeners that serve, and what they may become.
pub(crate) struct Serving {
    /// None once nothing more is taken.
    intakes: Intakes,
    /// With the figures of the first stream.
    context: Context,
    control: Control,
    /// Those of one name: sockets that systemd passed may be several.
    listeners: BTreeMap<String, Vec<Handle>>,
    tasks: TaskTracker,
    /// As it is followed.
    config: Config,
    /// What it is made of; of a key that waits for a restart, the value that is gone by.
    values: Values,
    again: Option<Again>,
}

/// What a new configuration changes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    followed: BTreeSet<String>,
    restart: BTreeSet<String>,
}

impl Changes {
    fn between(before: &Values, after: &Values) -> Self {
        let mut changes = Self::default();
        let is_listener = |values: &Values, name| values.contains_key(&format!("listen.{name}.address"));
        for key in before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)) {
            let listener = key.strip_prefix("listen.").and_then(|key| key.split_once('.'));
            match listener {
                Some((name, _)) if !(is_listener(before, name) && is_listener(after, name)) => {
                    changes.followed.insert(format!("listen.{name}"));
                }
                // The file has its mode from before anybody could connect; a stream has its share of the memory
                // and of the disk from the start.
                Some((_, "mode" | "delivery_stream_name")) => drop(changes.restart.insert(key.clone())),
                Some(_) => drop(changes.followed.insert(key.clone())),
                None if ["linger", "log.level"].contains(&key.as_str())
                    || ["retry.", "route."].iter().any(|table| key.starts_with(table)) =>
                {
                    changes.followed.insert(key.clone());
                }
                None => drop(changes.restart.insert(key.clone())),
            }
        }
        changes
    }
}

/// Values, as TOML, by their keys.
type Values = BTreeMap<String, String>;

fn values(effective: &[Effective]) -> Values {
    effective.iter().map(|effective| (effective.key.clone(), effective.value.clone())).collect()
}

/// Why nothing was changed.
#[derive(Debug)]
struct Refusal(String);

impl Serving {
    pub(crate) fn new(
        intakes: Intakes,
        context: Context,
        control: Control,
        config: Config,
        again: Option<(Vec<Effective>, Again)>,
    ) -> Self {
        let (effective, again) = again.unzip();
        Self {
            intakes,
            context,
            control,
            listeners: BTreeMap::new(),
            tasks: TaskTracker::new(),
            config,
            values: values(&effective.unwrap_or_default()),
            again,
        }
    }

    /// The tasks of listeners: done once all have ended and the tracker is closed.
    pub(crate) fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    /// Lets `bound` serve.
    pub(crate) fn serve(&mut self, bound: Bound) {
        let stream = bound.stream();
        let Some((intake, figures)) = self.intakes.of(stream.as_deref()) else { return };
        let (listener, address) = (bound.name().to_owned(), bound.address());
        tracing::info!(listener, address, "Listening.");
        self.listeners.entry(listener).or_default().push(bound.handle());
        let context = Context { figures: Arc::clone(figures), ..self.context.clone() };
        self.tasks.spawn(bound.serve(intake.clone(), context));
        self.show();
    }

    fn show(&self) {
        let one = |(name, handles): (&String, &Vec<Handle>)| {
            handles.iter().map(|handle| (name.clone(), handle.address().to_owned())).collect::<Vec<_>>()
        };
        self.figures().set_listeners(self.listeners.iter().flat_map(one).collect());
    }

    fn figures(&self) -> &Figures {
        &self.context.figures
    }

    fn follow(&mut self) -> Result<(), Refusal> {
        let Some(again) = &self.again else {
            return Err(Refusal("this daemon was started without one".to_owned()));
        };
        let refused = |error: &dyn std::error::Error| Refusal(error.to_string());
        let Loaded { config, values: effective, .. } = (again.0)().map_err(|error| refused(&error))?;
        config.require_listeners().map_err(|error| refused(&error))?;
        let new = values(&effective);
        let Changes { mut followed, restart } = Changes::between(&self.values, &new);
        followed.extend(self.changed_secrets(&config));
        let routes = self.follow_routes(&config)?;
        self.follow_listeners(&config)?;
        if let Some((router, routes)) = self.intakes.router().zip(routes) {
            router.change(routes);
        }

        self.control.retune(Tuning::of(&config));
        let waits = |key: &String| restart.contains(key);
        let stays = self.values.iter().filter(|(key, _)| waits(key));
        let stays: Values = stays.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.values = new.into_iter().filter(|(key, _)| !waits(key)).chain(stays).collect();
        let list = |keys: BTreeSet<String>| keys.into_iter().collect::<Vec<_>>().join(", ");
        tracing::info!(changed = list(followed), "The configuration was read again.");
        if !restart.is_empty() {
            let keys = list(restart);
            tracing::warn!(keys, "Restart the daemon to follow what was changed in these keys.");
        }
        if config.log.level != self.config.log.level {
            log::set_level(config.log.level);
        }
        (self.config.listen, self.config.log.level) = (config.listen, config.log.level);
        Ok(())
    }

    /// The keys of secrets that `config` changes, which values never show.
    fn changed_secrets(&self, config: &Config) -> BTreeSet<String> {
        let secrets = |listen: &ListenConfig| {
            let signing = listen.signing.as_ref().map(|signing| signing.secret_access_key.clone());
            [("shared_key", listen.forward.shared_key.clone()), ("secret_access_key", signing)]
        };
        let mut changed = BTreeSet::new();
        for (name, listen) in &config.listen {
            let Some(before) = self.config.listen.get(name) else { continue };
            for ((key, before), (_, after)) in secrets(before).into_iter().zip(secrets(listen)) {
                if before != after {
                    changed.insert(format!("listen.{name}.{key}"));
                }
            }
        }
        changed
    }

    /// The routes of `config`.
    fn follow_routes(&self, config: &Config) -> Result<Option<Routes>, Refusal> {
        match (&config.route, self.intakes.router()) {
            (None, None) => Ok(None),
            (Some(route), Some(_)) => {
                let new = |stream| {
                    format!(
                        "`route`: \"{stream}\" is no stream that records went to from the start, and needs a restart"
                    )
                };
                self.intakes.routes(route).map(Some).map_err(|stream| Refusal(new(stream)))
            }
            (Some(_), None) | (None, Some(_)) => {
                Err(Refusal("`route.field`: routing by record begins and ends with a restart".to_owned()))
            }
        }
    }

    /// Takes what new addresses there are; then lets listeners come, change and go.
    fn follow_listeners(&mut self, config: &Config) -> Result<(), Refusal> {
        let mut new = Vec::new();
        let mut changed = Vec::new();
        for (name, listen) in &config.listen {
            let refused = |why: &dyn fmt::Display| Refusal(format!("`listen.{name}.address`: {why}"));
            let before = self.config.listen.get(name).filter(|_| self.listeners.contains_key(name));
            match before {
                Some(before) if before.address == listen.address => {
                    let change = listener::prepare(listen).map_err(|error| refused(&error))?;
                    changed.push((name, change));
                }
                _ if matches!(listen.address, Address::Stdin | Address::Activated(_)) => {
                    return Err(refused(&format!("`{}` is only there from the start", listen.address)));
                }
                _ if self.intakes.of(listen.delivery_stream_name.as_deref()).is_none() => {
                    let stream = listen.delivery_stream_name.as_deref().unwrap_or_default();
                    return Err(Refusal(format!(
                        "`listen.{name}.delivery_stream_name`: \"{stream}\" is no stream that records went to \
                         from the start, and needs a restart"
                    )));
                }
                _ => {
                    let bound = listener::bind(name, listen, &mut Passed::none());
                    new.extend(bound.map_err(|error| refused(&error))?);
                }
            }
        }
        let stays = |name: &str| changed.iter().any(|(other, _)| *other == name);
        let gone: Vec<String> = self.listeners.keys().filter(|name| !stays(name)).cloned().collect();
        for (name, change) in changed {
            for handle in self.listeners.get(name).into_iter().flatten() {
                handle.change(change.clone());
            }
        }
        for name in gone {
            for handle in self.listeners.remove(&name).into_iter().flatten() {
                tracing::info!(listener = name, address = handle.address(), "Listening no more.");
                handle.close();
            }
        }
        for bound in new {
            self.serve(bound);
        }
        self.show();
        Ok(())
    }
}

impl Listening for Serving {
    fn reload(&mut self) {
        if let Err(Refusal(error)) = self.follow() {
            tracing::error!(error, "The changed configuration can't be followed: nothing was changed.");
        }
    }

    fn stop(&mut self) {
        // The flush task ends when the last intake is gone.
        self.intakes.close();
        self.context.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-U3
    #[test]
    fn what_was_changed_is_followed_or_named() {
        let values = |text: &str| {
            let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<Values>()
        };
        let listeners = "listen.a.address=tcp:1 listen.a.acks=off listen.a.mode=0660 listen.c.address=tcp:2";
        let before = values(&format!("linger=1s region=a {listeners} listen.c.mode=0600"));
        let listeners =
            "listen.a.address=tcp:1 listen.a.acks=received listen.a.mode=0600 listen.b.address=tcp:3";
        let after = values(&format!("linger=1s region=b {listeners} listen.b.mode=0660"));
        let Changes { followed, restart } = Changes::between(&before, &after);
        assert_eq!(followed.into_iter().collect::<Vec<_>>(), ["listen.a.acks", "listen.b", "listen.c"]);
        assert_eq!(restart.into_iter().collect::<Vec<_>>(), ["listen.a.mode", "region"]);
    }
}
