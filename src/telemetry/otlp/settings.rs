//! What is exported where, from the configuration and the standard `OTEL_…` variables: pure.
//!
//! A variable is often set for every container of a pod at once, so what is wrong with one never
//! keeps the daemon from starting: it is said, and ignored as the specification wants
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::telemetry::figures::Signal;

/// Bound on one export, and the time between two exports of metrics, where no variable says
/// otherwise: the specification's.
const TIMEOUT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(60);
/// Most milliseconds that a variable may ask for: a day.
const MOST_MILLISECONDS: u64 = 24 * 60 * 60 * 1000;
/// Most spans that may wait for their export: the SDK makes room for all of them at once.
const MOST_SPANS: usize = 16 * 1024;

/// What is exported where.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Where metrics go; `None` is nowhere.
    pub(super) metrics: Option<Target>,
    /// Time between two exports of metrics.
    pub(super) interval: Duration,
    /// Where traces go; `None` is nowhere.
    pub(super) traces: Option<Target>,
    /// Share of the flushes that are traced; `None` leaves it to `OTEL_TRACES_SAMPLER`.
    pub(super) trace_ratio: Option<f64>,
    /// Most spans that wait for their export; `None` leaves it to `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub(super) queue: Option<usize>,
}

/// One signal's collector. Its headers are secrets: marked as such, and shown to nobody.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// With its path.
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) gzip: bool,
    pub(super) timeout: Duration,
}

impl Target {
    /// The URL without what may be secret: user and query.
    pub(super) fn shown(&self) -> String {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        format!("{}://{host}{}", self.url.scheme_str().unwrap_or_default(), self.url.path())
    }
}

/// What is to be exported, and a sentence for each variable that is ignored. `endpoint` and
/// `trace_ratio` are the configuration's.
///
/// `None` is nothing: no endpoint is configured, or `OTEL_SDK_DISABLED` is set.
pub(super) fn read(
    endpoint: Option<&str>,
    trace_ratio: f64,
    lookup: impl Fn(&str) -> Option<String>,
) -> (Option<Settings>, Vec<String>) {
    let lookup = |name: &str| lookup(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
    let mut reader = Reader { lookup, ignored: Vec::new() };
    if reader.is_disabled() {
        return (None, Vec::new());
    }
    let metrics = reader.target(Signal::Metrics, endpoint);
    let traces = reader.target(Signal::Traces, endpoint);
    if metrics.is_none() && traces.is_none() {
        return (None, reader.ignored);
    }
    let interval = reader.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL);
    let by_variable = traces.is_some() && reader.sampler_is_usable();
    let trace_ratio = (!by_variable).then_some(trace_ratio);
    let queue = reader.queue_is_too_long().then_some(MOST_SPANS);
    (Some(Settings { metrics, interval, traces, trace_ratio, queue }), reader.ignored)
}

struct Reader<L> {
    /// The value of a variable, not empty.
    lookup: L,
    ignored: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// By the specification, only `true` in any case is true.
    fn is_disabled(&self) -> bool {
        (self.lookup)("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Where `signal` goes. Its own variable is for it alone and wins over `otlp.endpoint`, which
    /// wins over the variable for all signals.
    fn target(&mut self, signal: Signal, configured: Option<&str>) -> Option<Target> {
        if self.is_for_nobody(signal) {
            return None;
        }
        let url = match self.own_url(signal) {
            Some(url) => url,
            None => match configured {
                Some(url) => below(url, signal)?,
                None => self.shared_url(signal)?,
            },
        };
        self.ignore_protocol(signal);
        Some(Target {
            url,
            headers: self.headers(signal),
            gzip: self.is_gzip(signal),
            timeout: self.timeout(signal),
        })
    }

    fn is_for_nobody(&mut self, signal: Signal) -> bool {
        let name = match signal {
            Signal::Metrics => "OTEL_METRICS_EXPORTER",
            Signal::Traces => "OTEL_TRACES_EXPORTER",
        };
        let Some(value) = (self.lookup)(name) else { return false };
        let mut exporters = value.split(',').map(str::trim);
        if value == "none" || exporters.clone().any(|exporter| exporter == "otlp") {
            return value == "none";
        }
        if let Some(other) = exporters.find(|exporter| *exporter != "none") {
            self.ignore(name, &format!("is `{other}`, which hydrant does not have; it has otlp and none"));
        }
        false
    }

    fn own_url(&mut self, signal: Signal) -> Option<Uri> {
        let name = own(signal, "ENDPOINT");
        let value = (self.lookup)(&name)?;
        let url = url(&value);
        if url.is_none() {
            self.ignore(&name, NO_URL);
        }
        url
    }

    fn shared_url(&mut self, signal: Signal) -> Option<Uri> {
        let value = (self.lookup)(&shared("ENDPOINT"))?;
        let url = below(&value, signal);
        if url.is_none() {
            self.ignore(&shared("ENDPOINT"), NO_URL);
        }
        url
    }

    fn ignore_protocol(&mut self, signal: Signal) {
        if let Some((name, value)) = self.find(signal, "PROTOCOL")
            && value != "http/protobuf"
        {
            self.ignore(&name, &format!("is `{value}`, but hydrant speaks http/protobuf and does so"));
        }
    }

    fn is_gzip(&mut self, signal: Signal) -> bool {
        let Some((name, value)) = self.find(signal, "COMPRESSION") else { return false };
        if !["gzip", "none"].contains(&value.as_str()) {
            self.ignore(&name, &format!("is `{value}`, but must be gzip or none"));
        }
        value == "gzip"
    }

    fn timeout(&mut self, signal: Signal) -> Duration {
        let name = self.find(signal, "TIMEOUT").map_or_else(|| shared("TIMEOUT"), |(name, _)| name);
        self.milliseconds(&name, TIMEOUT)
    }

    fn milliseconds(&mut self, name: &str, default: Duration) -> Duration {
        let Some(value) = (self.lookup)(name) else { return default };
        match value.parse() {
            Ok(milliseconds @ 1..=MOST_MILLISECONDS) => Duration::from_millis(milliseconds),
            Ok(_) | Err(_) => {
                self.ignore(name, &format!("is not a number of milliseconds from 1 to {MOST_MILLISECONDS}"));
                default
            }
        }
    }

    /// `name=value` pairs between commas, the values percent-encoded, as in W3C Baggage
    /// (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/#specifying-headers-via-environment-variables>).
    fn headers(&mut self, signal: Signal) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some((name, pairs)) = self.find(signal, "HEADERS") else { return headers };
        for (number, pair) in pairs.split(',').map(str::trim).enumerate() {
            match header(pair) {
                Some((name, value)) => drop(headers.insert(name, value)),
                None if pair.is_empty() => {}
                // Not the pair itself: it may be most of a secret.
                None => self.ignore(&name, &format!("has a pair that is no header: number {}", number + 1)),
            }
        }
        headers
    }

    /// Whether the SDK can make a sampler of the variables. It would trace everything for what it
    /// does not understand.
    fn sampler_is_usable(&mut self) -> bool {
        let Some(sampler) = (self.lookup)("OTEL_TRACES_SAMPLER") else { return false };
        match sampler.as_str() {
            "always_on" | "always_off" | "parentbased_always_on" | "parentbased_always_off" => true,
            "traceidratio" | "parentbased_traceidratio" => {
                let share = (self.lookup)("OTEL_TRACES_SAMPLER_ARG").map_or(Ok(1.0), |value| value.parse());
                let usable = share.is_ok_and(|share: f64| (0.0..=1.0).contains(&share));
                if !usable {
                    self.ignore("OTEL_TRACES_SAMPLER_ARG", "is not a number from 0 to 1");
                }
                usable
            }
            other => {
                self.ignore("OTEL_TRACES_SAMPLER", &format!("is `{other}`, which is no sampler"));
                false
            }
        }
    }

    fn queue_is_too_long(&mut self) -> bool {
        let name = "OTEL_BSP_MAX_QUEUE_SIZE";
        let size = (self.lookup)(name).and_then(|value| value.parse::<usize>().ok());
        let too_long = size.is_some_and(|size| size > MOST_SPANS);
        if too_long {
            self.ignore(name, &format!("is above {MOST_SPANS}, which is used"));
        }
        too_long
    }

    /// The signal's own variable, or the one for all signals, with its name.
    fn find(&self, signal: Signal, what: &str) -> Option<(String, String)> {
        let find = |name: String| (self.lookup)(&name).map(|value| (name, value));
        find(own(signal, what)).or_else(|| find(shared(what)))
    }

    fn ignore(&mut self, variable: &str, why: &str) {
        let sentence = format!("{variable} {why}");
        if !self.ignored.contains(&sentence) {
            self.ignored.push(sentence);
        }
    }
}

const NO_URL: &str = "is not a URL that begins with http:// or https://";

fn own(signal: Signal, what: &str) -> String {
    match signal {
        Signal::Metrics => format!("OTEL_EXPORTER_OTLP_METRICS_{what}"),
        Signal::Traces => format!("OTEL_EXPORTER_OTLP_TRACES_{what}"),
    }
}

fn shared(what: &str) -> String {
    format!("OTEL_EXPORTER_OTLP_{what}")
}

fn url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    (matches!(uri.scheme_str(), Some("http" | "https")) && has_host).then_some(uri)
}

/// The signal's path below `base`.
fn below(base: &str, signal: Signal) -> Option<Uri> {
    let base = url(base)?;
    let path = format!("{}/v1/{}", base.path().trim_end_matches('/'), signal.label());
    let authority = base.authority()?.as_str();
    Uri::builder().scheme(base.scheme_str()?).authority(authority).path_and_query(path).build().ok()
}

fn header(pair: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = pair.split_once('=')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    // These say what the body is, which is not for others to say.
    if [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST].contains(&name) {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&percent_decoded(value.trim())).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// `text` with each `%XX` as the byte that it stands for; anything else stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let encoded = after.first_chunk().filter(|_| *first == b'%').and_then(|digits: &[u8; 2]| {
            let digits = std::str::from_utf8(digits).ok()?;
            digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
            u8::from_str_radix(digits, 16).ok()
        });
        bytes.push(encoded.unwrap_or(*first));
        rest = if encoded.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(endpoint: Option<&str>, variables: &[(&str, &str)]) -> (Option<Settings>, Vec<String>) {
        read(endpoint, 0.01, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    /// The URLs of metrics and traces.
    fn urls(endpoint: Option<&str>, variables: &[(&str, &str)]) -> [Option<String>; 2] {
        let settings = of(endpoint, variables).0;
        let (metrics, traces) = settings.map_or((None, None), |settings| (settings.metrics, settings.traces));
        [metrics, traces].map(|target| target.map(|target| target.url.to_string()))
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_with_the_sdk_disabled() {
        assert!(of(None, &[]).0.is_none());
        assert!(of(None, &[("OTEL_SERVICE_NAME", "x"), ("OTEL_TRACES_SAMPLER", "always_on")]).0.is_none());
        assert!(of(Some(""), &[]).0.is_none());
        assert!(of(Some("http://c:4318"), &[("OTEL_SDK_DISABLED", "True")]).0.is_none());
        assert!(of(Some("http://c:4318"), &[("OTEL_SDK_DISABLED", "no")]).0.is_some());
    }

    #[test]
    fn the_nearest_endpoint_wins_and_only_a_shared_one_gets_a_path() {
        let check = |endpoint, variables: &[_], metrics: Option<&str>, traces: Option<&str>| {
            let expected = [metrics, traces].map(|url| url.map(str::to_owned));
            assert_eq!(urls(endpoint, variables), expected, "{endpoint:?} {variables:?}");
        };
        let configured = Some("http://c:4318");
        check(configured, &[], Some("http://c:4318/v1/metrics"), Some("http://c:4318/v1/traces"));
        check(Some("https://c/a/"), &[], Some("https://c/a/v1/metrics"), Some("https://c/a/v1/traces"));
        let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://g:1");
        check(None, &[general], Some("http://g:1/v1/metrics"), Some("http://g:1/v1/traces"));
        check(configured, &[general], Some("http://c:4318/v1/metrics"), Some("http://c:4318/v1/traces"));
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:2/x?y");
        check(configured, &[general, traces], Some("http://c:4318/v1/metrics"), Some("http://t:2/x?y"));
        check(None, &[traces], None, Some("http://t:2/x?y"));
        check(None, &[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://m:3")], Some("http://m:3/"), None);
    }

    #[test]
    fn a_signal_is_left_out_on_request() {
        let configured = Some("http://c:4318");
        let [metrics, traces] = urls(configured, &[("OTEL_TRACES_EXPORTER", "none")]);
        assert!(metrics.is_some() && traces.is_none());
        let [metrics, traces] = urls(configured, &[("OTEL_METRICS_EXPORTER", "none")]);
        assert!(metrics.is_none() && traces.is_some());
        assert!(urls(configured, &[("OTEL_METRICS_EXPORTER", "console, otlp")])[0].is_some());
    }

    #[test]
    fn what_can_not_be_used_is_said_and_ignored() {
        let configured = Some("http://c:4318");
        let check = |endpoint, variables: &[_], said: &[&str]| {
            assert_eq!(of(endpoint, variables).1, said, "{variables:?}");
        };
        check(configured, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], &[]);
        let grpc = "OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`, but hydrant speaks http/protobuf and does so";
        check(configured, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], &[grpc]);
        let zstd = "OTEL_EXPORTER_OTLP_COMPRESSION is `zstd`, but must be gzip or none";
        check(configured, &[("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")], &[zstd]);
        let url = "OTEL_EXPORTER_OTLP_ENDPOINT is not a URL that begins with http:// or https://";
        check(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317")], &[url]);
        let exporter =
            "OTEL_METRICS_EXPORTER is `prometheus`, which hydrant does not have; it has otlp and none";
        check(configured, &[("OTEL_METRICS_EXPORTER", "prometheus")], &[exporter]);
        let interval = "OTEL_METRIC_EXPORT_INTERVAL is not a number of milliseconds from 1 to 86400000";
        for value in ["1m", "0", "-1", "18446744073709551615"] {
            check(configured, &[("OTEL_METRIC_EXPORT_INTERVAL", value)], &[interval]);
        }
        let queue = "OTEL_BSP_MAX_QUEUE_SIZE is above 16384, which is used";
        check(configured, &[("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999")], &[queue]);
        check(configured, &[("OTEL_BSP_MAX_QUEUE_SIZE", "16384")], &[]);
        let sampler = "OTEL_TRACES_SAMPLER is `often`, which is no sampler";
        check(configured, &[("OTEL_TRACES_SAMPLER", "often")], &[sampler]);
        let share = "OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1";
        let ratio = ("OTEL_TRACES_SAMPLER", "traceidratio");
        check(configured, &[ratio, ("OTEL_TRACES_SAMPLER_ARG", "7")], &[share]);
    }

    #[test]
    fn the_share_of_traces_is_the_configured_one_unless_a_variable_says_a_sampler() {
        let ratio = |variables: &[_]| of(Some("http://c"), variables).0.unwrap().trace_ratio;
        assert_eq!(ratio(&[]), Some(0.01));
        assert_eq!(ratio(&[("OTEL_TRACES_SAMPLER", "always_on")]), None);
        assert_eq!(ratio(&[("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")]), None);
        assert_eq!(ratio(&[("OTEL_TRACES_SAMPLER", "xray")]), Some(0.01));
    }

    #[test]
    fn headers_are_decoded_and_secret_and_a_signals_own_come_alone() {
        let all = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret, x-team = a%3Db%,");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=k,content-type=text,no");
        let (settings, ignored) = of(Some("http://c"), &[all, own]);
        let settings = settings.unwrap();
        let metrics = settings.metrics.as_ref().unwrap();
        assert_eq!(
            [&metrics.headers["authorization"], &metrics.headers["x-team"]],
            ["Bearer s3cret", "a=b%"]
        );
        let traces = settings.traces.as_ref().unwrap();
        assert_eq!(traces.headers.len(), 1);
        assert_eq!(traces.headers["x-key"], "k");
        assert_eq!(ignored.len(), 2, "{ignored:?}");
        let shown = format!("{settings:?} {ignored:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        let variable = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://user:s3cret@c:1/v1/traces?key=s3cret");
        let target = of(None, &[variable]).0.unwrap().traces.unwrap();
        assert_eq!(target.shown(), "https://c:1/v1/traces");
    }

    #[test]
    fn compression_and_timeout_are_a_signals_own_or_everybodys() {
        let settings = of(
            Some("http://c"),
            &[
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
                ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "500"),
                ("OTEL_METRIC_EXPORT_INTERVAL", "1000"),
            ],
        );
        let Settings { metrics, interval, traces, .. } = settings.0.unwrap();
        let (metrics, traces) = (metrics.unwrap(), traces.unwrap());
        assert_eq!((metrics.gzip, traces.gzip), (true, false));
        assert_eq!([metrics.timeout, traces.timeout, interval], [500, 250, 1000].map(Duration::from_millis));
    }
}
