//! From layers to a [`Config`]: names, then values one by one, then what they must be together.
//!
//! Each step reports what it finds and takes it out, so that the next one sees the rest: one run
//! tells a user everything.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use figment::Figment;
use figment::error::Kind;
use figment::value::{Dict, Value};

use super::form::{Form, Maybe, Setting};
use super::layer::{self, Layer};
use super::problem::{Problem, Problems};
use super::schema;
use super::table::{self, Listen, Table};
use super::{
    Acks, Address, AggregateConfig, AggregateMode, Allow, BufferConfig, Compression, Config,
    DeadLetterConfig, Effective, ForwardConfig, ListenConfig, Loaded, LogConfig, MAX_STREAMS, MonitorConfig,
    OtlpConfig, Protocol, RetryConfig, RouteConfig, SHOWN_SECRET, SendConfig, SigningKey, SpoolConfig,
    StampConfig, SyslogFormat, TlsConfig,
};

/// The configuration that `layers`, the later ones stronger, make together; `problems` are
/// those found so far.
pub(super) fn resolve(layers: Vec<Layer>, mut problems: Vec<Problem>) -> Result<Loaded, Problems> {
    let mut figment = Figment::new();
    for mut layer in layers {
        layer::rename_aliases(&mut layer, &mut problems);
        figment = layer.into_iter().fold(figment, Figment::merge);
    }
    let values = match figment.find_value("") {
        Ok(values) => values.into_dict().unwrap_or_default(),
        Err(error) => return Err(Problem::Conflict(error.to_string()).into()),
    };
    let (keys, faulty, warnings) = (table::keys(), BTreeSet::new(), Vec::new());
    let mut resolver = Resolver { figment, values, keys, problems, faulty, warnings };
    resolver.names();
    let table = resolver.values();
    resolver.together(&table);
    if resolver.problems.is_empty() { Ok(resolver.loaded(table)) } else { Err(Problems(resolver.problems)) }
}

struct Resolver {
    figment: Figment,
    /// What the layers say together, less what was found wrong.
    values: Dict,
    /// Every key that there is or will be, with `*` for the name of a listener.
    keys: Vec<String>,
    problems: Vec<Problem>,
    /// Keys whose values were found wrong; their defaults stand in for them, and say nothing.
    faulty: BTreeSet<String>,
    warnings: Vec<String>,
}

/// A value that somebody set.
pub(super) struct Found {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) from: String,
}

impl Found {
    /// The value as one could write it.
    pub(super) fn shown(&self) -> String {
        if schema::is_secret(&self.key) {
            return SHOWN_SECRET.to_owned();
        }
        serde_json::to_string(&self.value).unwrap_or_default()
    }

    /// The problem that the value is not one of `expected`.
    pub(super) fn problem(&self, expected: String) -> Problem {
        Problem::Value { from: self.from.clone(), key: self.key.clone(), value: self.shown(), expected }
    }
}

/// The values that would have been right instead of one that failed with `kind`.
pub(super) fn expected(kind: Kind) -> String {
    if let Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) = kind {
        expected
    } else {
        figment::Error::from(kind).to_string()
    }
}

impl Resolver {
    /// Reports and takes out what is set under names that do not exist.
    fn names(&mut self) {
        for path in leaves(&self.values) {
            let is_key = self.keys.iter().any(|key| matches(key, &path));
            let is_table = self.is_table(&path);
            let empty = find(&self.values, &path).and_then(Value::as_dict).is_some_and(Dict::is_empty);
            if is_key || (is_table && empty) {
                continue;
            }
            let nearest = nearest(&path, self.keys.iter().map(String::as_str));
            let Some(found) = self.take(&path) else { continue };
            self.problems.push(if is_table {
                Problem::NotATable { value: found.shown(), from: found.from, key: found.key }
            } else {
                Problem::UnknownKey { from: found.from, key: found.key, nearest }
            });
            self.take_emptied(&path);
        }
    }

    /// Takes out the unknown tables around `path` that have nothing left in them.
    fn take_emptied(&mut self, path: &[String]) {
        let Some((_, table)) = path.split_last() else { return };
        let emptied = find(&self.values, table).and_then(Value::as_dict).is_some_and(Dict::is_empty);
        if emptied && !self.is_table(table) {
            self.take(table);
            self.take_emptied(table);
        }
    }

    fn is_table(&self, path: &[String]) -> bool {
        self.keys.iter().any(|key| is_inside(key, path))
    }

    /// The values in their forms; one that is wrong is reported and its default taken.
    fn values(&mut self) -> Table {
        loop {
            let error = match Value::from(self.values.clone()).deserialize() {
                Ok(table) => return table,
                Err(error) => error,
            };
            match self.take(&error.path) {
                Some(found) => self.fault(found.problem(expected(error.kind)), &found.key),
                None => {
                    self.problems.push(Problem::Conflict(error.to_string()));
                    return Table::default();
                }
            }
        }
    }

    fn fault(&mut self, problem: Problem, key: &str) {
        self.problems.push(problem);
        self.faulty.insert(key.to_owned());
    }

    /// Reports keys of TLS and of users where the address knows neither.
    fn identity(&mut self, name: &str, listener: &Listen) {
        let Some(address) = &listener.address.0 else { return };
        let is_tls = matches!(address, Address::Tls(_));
        let files = [("cert", &listener.cert), ("key", &listener.key), ("client_ca", &listener.client_ca)];
        for (key, file) in files {
            if is_tls && key != "client_ca" {
                self.require(file, &["listen", name, key]);
            } else if !is_tls && file.0.is_some() {
                let rule = format!(
                    "is of no use at `{address}`: take an address `tls:HOST:PORT`, or remove the key"
                );
                self.conflict(&["listen", name, key], &rule);
            }
        }
        for (key, ids) in [("allow_uids", &listener.allow_uids), ("allow_gids", &listener.allow_gids)] {
            if ids.0.is_some() && !matches!(address, Address::Unix(_) | Address::Activated(_)) {
                let rule = "is only known of who connects to a Unix socket: remove the key";
                self.conflict(&["listen", name, key], rule);
            }
        }
    }

    /// Reports keys of Fluent Forward where another protocol is spoken.
    fn forward(&mut self, name: &str, listener: &Listen) {
        let defaults = Listen::default();
        let keys = [
            ("time_key", listener.time_key.0 != defaults.time_key.0),
            ("tag_key", listener.tag_key.0 != defaults.tag_key.0),
            ("shared_key", listener.shared_key.0.is_some()),
        ];
        let protocol = listener.protocol.0;
        for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set && protocol != Protocol::Forward) {
            let rule = format!(
                "is of no use with the protocol \"{}\": take \"forward\" for `listen.{name}.protocol`, or \
                 remove the key",
                protocol.name()
            );
            self.conflict(&["listen", name, key], &rule);
        }
        let at_stdin = listener.address.0 == Some(Address::Stdin) && protocol == Protocol::Forward;
        if at_stdin && listener.shared_key.0.is_some() {
            let nobody = "can't be asked for at `stdin:`, where nobody could answer: remove the key";
            self.conflict(&["listen", name, "shared_key"], nobody);
        }
    }

    /// Reports keys of signatures where they mean nothing, and addresses that need them.
    fn signing(&mut self, name: &str, listener: &Listen) {
        let keys = [
            ("access_key_id", listener.access_key_id.0.is_some()),
            ("secret_access_key", listener.secret_access_key.0.is_some()),
        ];
        if listener.protocol.0 != Protocol::Firehose {
            for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
                let rule = "is of no use without `protocol = \"firehose\"`: remove the key";
                self.conflict(&["listen", name, key], rule);
            }
            return;
        }
        if listener.access_key_id.0.is_some() || listener.secret_access_key.0.is_some() {
            self.require(&listener.access_key_id, &["listen", name, "access_key_id"]);
            self.require(&listener.secret_access_key, &["listen", name, "secret_access_key"]);
        } else if let Some(address) = &listener.address.0
            && address.tcp().is_some_and(|address| !address.ip().is_loopback())
            && keys.iter().all(|(key, _)| !self.faulty.contains(&format!("listen.{name}.{key}")))
        {
            let rule = format!(
                "is `{address}`, where anybody could put records: set `listen.{name}.access_key_id` and \
                 `listen.{name}.secret_access_key`, or take a loopback address"
            );
            self.conflict(&["listen", name, "address"], &rule);
        }
    }

    /// Reports what syslog and datagrams have no way to do.
    fn syslog(&mut self, name: &str, listener: &Listen) {
        let (protocol, acks) = (listener.protocol.0, listener.acks.0.unwrap_or(Acks::Off));
        let is_datagrams = matches!(listener.address.0, Some(Address::UnixDatagram(_)));
        if is_datagrams && !matches!(protocol, Protocol::Syslog | Protocol::Lines) {
            let rule = "must be \"syslog\" or \"lines\" for datagrams";
            self.conflict(&["listen", name, "protocol"], rule);
        }
        if acks != Acks::Off && (is_datagrams || protocol == Protocol::Syslog) {
            let rule = "must be \"off\": neither syslog nor a datagram has a way to acknowledge";
            self.conflict(&["listen", name, "acks"], rule);
        }
        if listener.format.0 != SyslogFormat::Raw && protocol != Protocol::Syslog {
            let rule = "is only known of messages of syslog: set `protocol = \"syslog\"`, or remove the key";
            self.conflict(&["listen", name, "format"], rule);
        }
    }

    /// Reports streams that there is no room for.
    fn streams(&mut self, table: &Table) {
        let own = table.listen.values().filter_map(|listener| listener.delivery_stream_name.0.as_ref());
        let route = &table.route;
        if route.field.0.is_empty() {
            for (key, is_set) in
                [("streams", route.streams.0.is_some()), ("otherwise", route.otherwise.0.is_some())]
            {
                if is_set {
                    let rule = "changes nothing without `route.field`, the member that decides: set that";
                    self.conflict(&["route", key], rule);
                }
            }
        }
        let routed = route.streams.0.iter().flatten().map(|(_, stream)| stream).chain(&route.otherwise.0);
        let streams: BTreeSet<_> = own.chain(&table.delivery_stream_name.0).chain(routed).collect();
        let count = streams.len();
        if count > MAX_STREAMS {
            let rule = format!("must not name more than {MAX_STREAMS} delivery streams; they name {count}");
            self.conflict(&[if !route.field.0.is_empty() { "route" } else { "listen" }], &rule);
        }
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let disk = table.buffer.directory.0.as_ref().map(|_| ("disk", table.buffer.disk.0, count, 4));
        // What is still to be routed or stamped is held as if it were of a stream of its own.
        let is_moved = !route.field.0.is_empty() || !table.stamp.field.0.is_empty();
        let shares = count + u64::from(is_moved);
        for (key, bytes, shares, least) in
            [("memory", table.buffer.memory.0, shares, 1)].into_iter().chain(disk)
        {
            if bytes < shares * (least << 20) {
                let rule = format!(
                    "is divided into {shares} shares for {count} delivery streams, of which each needs {least} MiB: \
                     take at least {} MiB",
                    shares * least
                );
                self.conflict(&["buffer", key], &rule);
            }
        }
    }

    /// Reports what is wrong although each value is right.
    fn together(&mut self, table: &Table) {
        for (name, listener) in &table.listen {
            if !is_listener_name(name) {
                let name_rule = "must have a name of 1 to 32 lower-case letters, digits, `_` and `-`";
                self.conflict(&["listen", name], name_rule);
            }
            let acks = listener.acks.0.unwrap_or(Acks::Off);
            if listener.address.0 == Some(Address::Stdin) && acks != Acks::Off {
                let at_stdin = "must be \"off\" for `stdin:`, where nobody could read the acks";
                self.conflict(&["listen", name, "acks"], at_stdin);
            }
            if listener.address.0 == Some(Address::Stdin) && listener.protocol.0.has_requests() {
                let rule = format!(
                    "is \"{}\", which answers its producers: take a socket for `address`",
                    listener.protocol.0.name()
                );
                self.conflict(&["listen", name, "protocol"], &rule);
            }
            if acks == Acks::Durable && table.buffer.directory.0.is_none() {
                let needs =
                    "is \"durable\", which needs a spool: set `buffer.directory`, or take \"received\"";
                self.conflict(&["listen", name, "acks"], needs);
            }
            self.require(&listener.address, &["listen", name, "address"]);
            self.identity(name, listener);
            self.forward(name, listener);
            self.signing(name, listener);
            self.syslog(name, listener);
        }
        self.require(&table.delivery_stream_name, &["delivery_stream_name"]);
        self.streams(table);

        let judged = |key: &str| !self.faulty.contains(key);
        let admin = table.admin.address.0.iter().filter(|_| judged("admin.address"));
        let admin = admin.map(|address| (vec!["admin", "address"], address));
        let bound = table.listen.iter().filter_map(|(name, listener)| {
            Some((vec!["listen", name, "address"], listener.address.0.as_ref()?))
        });
        let mut taken = BTreeMap::new();
        for (key, address) in admin.chain(bound).collect::<Vec<_>>() {
            // Port 0 is another port each time.
            let tcp = address.tcp();
            let shareable = tcp.is_some_and(|address| address.port() == 0);
            let place = tcp.map_or_else(|| address.to_string(), |address| format!("tcp:{address}"));
            if let Some(other) = taken.insert(place, key.clone()).filter(|_| !shareable) {
                let (other, layer) = (other.join("."), self.layer_of(&other));
                self.conflict(&key, &format!("must not be \"{address}\", which is `{other}` ({layer})"));
            }
        }

        for key in ["disk", "sync"] {
            if table.buffer.directory.0.is_none()
                && let Some(found) = self.found(&["buffer", key])
            {
                let Found { key, from, .. } = found;
                self.warnings.push(format!(
                    "{from}: `{key}` changes nothing without `buffer.directory`: records are held in memory only"
                ));
            }
        }

        self.compression(table);

        if table.monitor.publish_namespace.0.is_some() && table.monitor.interval.0.is_none() {
            let needs = "publishes at every `monitor.interval`, which is off: set that, or leave this out";
            self.conflict(&["monitor", "publish_namespace"], needs);
        }

        let (base, max) = (table.retry.base_delay.0, table.retry.max_delay.0);
        let judged = |key: &str| !self.faulty.contains(key);
        if base > max && judged("retry.base_delay") && judged("retry.max_delay") {
            let (base, max) = (humantime::format_duration(base), humantime::format_duration(max));
            let layer = self.layer_of(&["retry", "max_delay"]);
            let at_most =
                format!("is {base}, but must be at most `retry.max_delay`, which is {max} ({layer})");
            self.conflict(&["retry", "base_delay"], &at_most);
        }
    }

    /// Reports what does not go together with compression.
    fn compression(&mut self, table: &Table) {
        let aggregate = &table.aggregate;
        let (key, level) = (["aggregate", "compression"], ["aggregate", "compression_level"]);
        let Some(algorithm) = aggregate.compression.0 else {
            if aggregate.compression_level.0.is_some() && !self.faulty.contains(&key.join(".")) {
                let from = self.layer_of(&level);
                self.warnings.push(format!(
                    "{from}: `aggregate.compression_level` changes nothing without `aggregate.compression`: \
                     records are sent as they are"
                ));
            }
            return;
        };
        if aggregate.mode.0 == AggregateMode::Off {
            let needs = format!(
                "is \"{}\", which needs packing, as a record by itself hardly gets smaller: take \"auto\" \
                 or \"on\" for `aggregate.mode` ({})",
                algorithm.name(),
                self.layer_of(&["aggregate", "mode"])
            );
            self.conflict(&key, &needs);
        }
        if table.delimiter.0.is_empty() {
            let needs = format!(
                "is \"{}\", which needs packing, and so a `delimiter` ({})",
                algorithm.name(),
                self.layer_of(&["delimiter"])
            );
            self.conflict(&key, &needs);
        }
        let highest = algorithm.highest_level();
        if let Some(given) = aggregate.compression_level.0.filter(|given| *given > u64::from(highest)) {
            let at_most = format!("is {given}, but must be 1 to {highest} for \"{}\"", algorithm.name());
            self.conflict(&level, &at_most);
        }
    }

    /// Reports that the setting of `key` is missing, unless a wrong one was reported.
    fn require<F: Form>(&mut self, setting: &Setting<Maybe<F>>, key: &[&str]) {
        let key = key.join(".");
        if setting.0.is_none() && !self.faulty.contains(&key) {
            self.problems.push(Problem::Missing { variable: layer::variable(&key), key });
        }
    }

    /// Reports that `key`, of which `must_be` goes on to say what it must be, does not fit the rest.
    fn conflict(&mut self, key: &[&str], must_be: &str) {
        let from = self.layer_of(key);
        self.problems.push(Problem::Conflict(format!("{from}: `{}` {must_be}", key.join("."))));
    }

    fn loaded(self, table: Table) -> Loaded {
        let settings = serde_json::to_value(&table).unwrap_or_default();
        let values = schema::flatten(&settings)
            .into_iter()
            .map(|(key, value)| {
                let path: Vec<_> = key.split('.').collect();
                Effective { from: self.layer_of(&path), value: value.to_string(), key }
            })
            .collect();
        Loaded { config: config(table), warnings: self.warnings, values }
    }

    /// Where `key`, or the first key in the table of that name, was set.
    fn layer_of(&self, key: &[&str]) -> String {
        self.found(key).map_or_else(|| "default".to_owned(), |found| found.from)
    }

    fn found<S: Borrow<str>>(&self, path: &[S]) -> Option<Found> {
        let value = find(&self.values, path)?.clone();
        // A table has no tag of its own; it is where its first value is.
        let tagged = value.as_dict().and_then(|inner| inner.values().next()).unwrap_or(&value);
        let from = self
            .figment
            .get_metadata(tagged.tag())
            .map_or_else(String::new, |source| source.name.to_string());
        Some(Found { key: path.join("."), value, from })
    }

    fn take(&mut self, path: &[String]) -> Option<Found> {
        let found = self.found(path)?;
        let (last, tables) = path.split_last()?;
        let mut inner = &mut self.values;
        for name in tables {
            inner = match inner.get_mut(name)? {
                Value::Dict(_, inner) => inner,
                Value::String(..)
                | Value::Char(..)
                | Value::Bool(..)
                | Value::Num(..)
                | Value::Empty(..)
                | Value::Array(..) => return None,
            };
        }
        inner.remove(last)?;
        Some(found)
    }
}

fn find<'a, S: Borrow<str>>(values: &'a Dict, path: &[S]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = values.get(first.borrow())?;
    if rest.is_empty() { Some(value) } else { find(value.as_dict()?, rest) }
}

/// Paths of everything that is not a table, and of the tables that are empty.
fn leaves(values: &Dict) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (name, value) in values {
        match value.as_dict().filter(|inner| !inner.is_empty()) {
            None => paths.push(vec![name.clone()]),
            Some(inner) => paths.extend(leaves(inner).into_iter().map(|mut path| {
                path.insert(0, name.clone());
                path
            })),
        }
    }
    paths
}

fn matches(pattern: &str, path: &[String]) -> bool {
    pattern.split('.').count() == path.len() && agrees(pattern, path)
}

/// Whether `pattern` is a key inside the table at `path`.
fn is_inside(pattern: &str, path: &[String]) -> bool {
    pattern.split('.').count() > path.len() && agrees(pattern, path)
}

fn agrees(pattern: &str, path: &[String]) -> bool {
    pattern.split('.').zip(path).all(|(part, name)| part == "*" || part == name)
}

/// The key of `patterns` most like the unknown key at `path`, if at most one letter in three
/// differs. The right name in the wrong table is closer than any misspelling.
fn nearest<'a>(path: &[String], patterns: impl Iterator<Item = &'a str>) -> Option<String> {
    let key = path.join(".").to_ascii_lowercase();
    let listener = path.get(1).filter(|_| key.starts_with("listen.")).map_or("NAME", String::as_str);
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let known = known.to_ascii_lowercase();
        let whole = strsim::normalized_damerau_levenshtein(&key, &known);
        if last(&key) == last(&known) { 1.0 + whole } else { whole }
    };
    patterns
        .map(|pattern| pattern.replace('*', listener))
        .map(|known| (likeness(&known), known))
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .filter(|(likeness, _)| *likeness >= 2.0 / 3.0)
        .map(|(_, known)| known)
}

fn is_listener_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    (1..=32).contains(&name.len()) && name.chars().all(allowed)
}

/// The types that the other rooms see. The table has no gaps left but optional ones.
fn config(table: Table) -> Config {
    let stream = table.delivery_stream_name.0.unwrap_or_default();
    Config {
        delivery_stream_name: stream.clone(),
        region: table.region.0,
        endpoint_url: table.endpoint_url.0,
        max_batch_size: size(table.max_batch_size),
        max_batch_size_bytes: size(table.max_batch_size_bytes),
        linger: table.linger.0,
        delimiter: table.delimiter.0.into(),
        listen: table
            .listen
            .into_iter()
            .filter_map(|(name, listener)| {
                let spooled = table.buffer.directory.0.is_some();
                Some((name, listen_config(listener, spooled)?))
            })
            .collect(),
        route: (!table.route.field.0.is_empty()).then(|| RouteConfig {
            field: table.route.field.0,
            streams: table.route.streams.0.unwrap_or_default(),
            otherwise: table.route.otherwise.0.unwrap_or(stream),
        }),
        stamp: (!table.stamp.field.0.is_empty()).then(|| StampConfig {
            field: table.stamp.field.0,
            daemon: Some(table.stamp.daemon.0).filter(|daemon| !daemon.is_empty()),
        }),
        buffer: BufferConfig {
            memory: size(table.buffer.memory),
            on_full: table.buffer.on_full.0,
            spool: table.buffer.directory.0.map(|directory| SpoolConfig {
                directory,
                limit_bytes: table.buffer.disk.0,
                sync: table.buffer.sync.0,
            }),
        },
        aggregate: AggregateConfig {
            mode: table.aggregate.mode.0,
            max_record: size(table.aggregate.max_record),
            max_lines: table.aggregate.max_lines.0.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX)),
            compression: table.aggregate.compression.0.map(|algorithm| Compression {
                algorithm,
                level: table
                    .aggregate
                    .compression_level
                    .0
                    .and_then(|level| u32::try_from(level).ok())
                    .unwrap_or(algorithm.default_level()),
            }),
        },
        retry: RetryConfig {
            max_retries: u32::try_from(table.retry.max_retries.0).unwrap_or(u32::MAX),
            base_delay: table.retry.base_delay.0,
            max_delay: table.retry.max_delay.0,
            jitter: table.retry.jitter.0,
            give_up_after: table.retry.give_up_after.0,
        },
        send: SendConfig {
            max_in_flight: size(table.send.max_in_flight),
            attempt_timeout: table.send.attempt_timeout.0,
            connect_timeout: table.send.connect_timeout.0,
            read_timeout: table.send.read_timeout.0,
            fast_body: table.send.fast_body.0,
        },
        dead_letter: DeadLetterConfig {
            directory: table.dead_letter.directory.0,
            max_bytes: table.dead_letter.max_bytes.0,
        },
        monitor: MonitorConfig {
            interval: table.monitor.interval.0,
            publish_namespace: table.monitor.publish_namespace.0,
            endpoint_url: table.monitor.endpoint_url.0,
        },
        otlp: OtlpConfig { endpoint: table.otlp.endpoint.0, trace_ratio: table.otlp.trace_ratio.0 },
        admin: table.admin.address.0,
        log: LogConfig { level: table.log.level.0, format: table.log.format.0 },
        shutdown_drain: table.shutdown.drain.0,
    }
}

fn listen_config(listener: Listen, spooled: bool) -> Option<ListenConfig> {
    let address = listener.address.0?;
    // Nobody could read them there.
    let acks = if address == Address::Stdin { Acks::Off } else { listener.protocol.0.acks(spooled) };
    Some(ListenConfig {
        address,
        delivery_stream_name: listener.delivery_stream_name.0,
        protocol: listener.protocol.0,
        format: listener.format.0,
        mode: listener.mode.0,
        max_record_bytes: size(listener.max_record_bytes),
        max_connections: size(listener.max_connections),
        max_bytes_per_second: listener.max_bytes_per_second.0.and_then(NonZeroU64::new),
        idle_timeout: listener.idle_timeout.0,
        acks: listener.acks.0.unwrap_or(acks),
        allow: Allow { uids: listener.allow_uids.0, gids: listener.allow_gids.0 },
        tls: match (listener.cert.0, listener.key.0) {
            (Some(cert), Some(key)) => Some(TlsConfig { cert, key, client_ca: listener.client_ca.0 }),
            _ => None,
        },
        forward: ForwardConfig {
            time_key: listener.time_key.0,
            tag_key: listener.tag_key.0,
            shared_key: listener.shared_key.0,
        },
        signing: match (listener.access_key_id.0, listener.secret_access_key.0) {
            (Some(access_key_id), Some(secret_access_key)) => {
                Some(SigningKey { access_key_id, secret_access_key })
            }
            _ => None,
        },
    })
}

/// A number that its form bounds well below `usize::MAX` of any platform with sockets.
fn size<F: Form<Value = u64>>(setting: Setting<F>) -> usize {
    usize::try_from(setting.0).unwrap_or(usize::MAX)
}
