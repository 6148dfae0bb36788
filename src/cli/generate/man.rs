//! hydrant(1): commands and options as the command line declares them, and what it cannot know.

use clap::{Arg, Command, CommandFactory};
use roff::{Inline, Roff, bold, italic, roman};

use super::super::{Cli, DONE, FAILED, USAGE};

const DESCRIPTION: [&str; 3] = [
    "hydrant runs beside an application. The application writes records, one a line, to a Unix socket, \
     a TCP port or a pipe; hydrant batches them into PutRecordBatch calls of Amazon Data Firehose, sends \
     again exactly what failed, holds producers back while the stream is in trouble, and accounts for \
     every record.",
    "Settings come, the later ones stronger, from a file, from variables of the environment and from \
     --set. \"hydrant schema --toml\" prints every key with its default, unit and range; \"hydrant check\" \
     says what is set, and where.",
    "Region and credentials are found as every AWS tool finds them. All that the role needs is \
     firehose:PutRecordBatch for the stream.",
];

/// Where hydrant finds and leaves what, as it is by default and in the package.
const FILES: [(&str, &str); 7] = [
    ("/etc/hydrant/hydrant.toml", "The configuration, if it exists and no other file is named."),
    ("/etc/default/hydrant", "Variables of the environment for the service of systemd."),
    ("/run/hydrant.sock", "The socket that systemd holds, for root and the group hydrant-producers."),
    ("/run/hydrant/app.sock", "Where \"hydrant send\" looks for a running hydrant."),
    ("/var/lib/hydrant/dead-letters", "Records that could not be delivered, as the service keeps them."),
    ("~/.aws/config", "Profiles: regions and roles."),
    ("~/.aws/credentials", "Profiles: keys."),
];

/// Variables that hydrant itself reads, or the AWS SDK for it and that users set most.
const ENVIRONMENT: [(&str, &str); 19] = [
    (
        "HYDRANT_…",
        "One setting: upper case, with two underscores for a dot, as in HYDRANT_RETRY__MAX_DELAY=10s.",
    ),
    ("HYDRANT_CONFIG", "The configuration file, where --config names none."),
    ("AWS_REGION", "The region, where `region` is not set."),
    ("AWS_PROFILE", "The profile of ~/.aws/config that is used."),
    ("AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN", "Credentials."),
    ("AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE", "The files of profiles, if they are elsewhere."),
    ("AWS_EC2_METADATA_DISABLED", "\"true\" keeps from asking the EC2 instance for credentials."),
    (
        "AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_FIREHOSE, AWS_ENDPOINT_URL_CLOUDWATCH, AWS_ENDPOINT_URL_STS",
        "Other endpoints than AWS's, where `endpoint_url` is not set.",
    ),
    ("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY", "Proxies on the way to AWS; lower case does as well."),
    ("OTEL_SDK_DISABLED", "\"true\" switches the export to OpenTelemetry off."),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "The collector, where `otlp.endpoint` is not set.",
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_COMPRESSION, OTEL_EXPORTER_OTLP_TIMEOUT, \
         OTEL_EXPORTER_OTLP_PROTOCOL",
        "How to send to it; each also with METRICS or TRACES after OTLP, for one of them.",
    ),
    ("OTEL_METRICS_EXPORTER, OTEL_TRACES_EXPORTER", "\"none\" switches one of them off."),
    ("OTEL_METRIC_EXPORT_INTERVAL", "Milliseconds between exports of metrics."),
    ("OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG", "Which flushes are traced."),
    ("OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES", "What the daemon is called there."),
    ("OTEL_BSP_…", "How traces are batched."),
    ("NO_COLOR", "Set to anything, \"hydrant top\" has no colours."),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES",
        "What systemd tells a service.",
    ),
];

/// Signals to `hydrant run`.
const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "Read what the sockets hold, deliver everything within `shutdown.drain`, exit. A second one: exit \
         at once, with what is left in the dead-letter store, or counted and said.",
    ),
    ("SIGHUP", "Read the configuration again, and follow what can change without a restart."),
    ("SIGUSR1", "Send what is held now, without waiting for `linger`."),
];

/// What the exit codes mean.
const EXIT_STATUS: [(u8, &str); 3] = [
    (DONE, "Done; of \"hydrant run\": stopped with nothing left."),
    (FAILED, "Failed while running, or records were left at the end."),
    (USAGE, "Wrong usage or configuration; systemd does not start the service again."),
];

/// The page in roff's man macros.
#[must_use]
pub fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let version = format!("hydrant {}", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::new();
    // No date: the same version makes the same page.
    page.control("TH", ["HYDRANT", "1", "\"\"", version.as_str(), "User Commands"]);
    page.control("SH", ["NAME"]);
    page.text([roman("hydrant - get an application's records into Amazon Data Firehose")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("hydrant"), roman(" "), italic("COMMAND"), roman(" ["), italic("OPTION"), roman("]…")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in DESCRIPTION {
        page.control("PP", []);
        page.text([roman(paragraph)]);
    }
    page.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands_mut() {
        describe(&mut page, command);
    }
    section(&mut page, "EXIT STATUS", EXIT_STATUS.map(|(code, meaning)| (code.to_string(), meaning)));
    section(&mut page, "SIGNALS", SIGNALS);
    section(&mut page, "ENVIRONMENT", ENVIRONMENT);
    section(&mut page, "FILES", FILES);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("systemd.socket"), roman("(5), "), bold("aws"), roman("(1)")]);
    page.render()
}

/// One command: how it is called, what it does, its arguments and what else its help says.
fn describe(page: &mut Roff, command: &mut Command) {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    page.control("SS", [usage]);
    let about = command.get_long_about().or_else(|| command.get_about());
    page.text([roman(format!("{}.", about.map(ToString::to_string).unwrap_or_default()))]);
    for argument in command.get_arguments().filter(|argument| is_own(argument)) {
        entry(page, head(argument), &explanation(argument));
    }
    if let Some(more) = command.get_after_help() {
        page.control("PP", []);
        verbatim(page, &more.to_string());
    }
    for command in command.get_subcommands_mut() {
        describe(page, command);
    }
}

/// Whether the argument is the command's own, and not one that every command has.
fn is_own(argument: &Arg) -> bool {
    !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version")
}

/// The argument as it is written.
fn head(argument: &Arg) -> Vec<Inline> {
    let names = argument.get_value_names().unwrap_or_default().join(" ");
    let takes_value = argument.get_action().takes_values();
    let mut head = Vec::new();
    if let Some(short) = argument.get_short() {
        head.extend([bold(format!("-{short}")), roman(", ")]);
    }
    match argument.get_long() {
        Some(long) if takes_value => head.extend([bold(format!("--{long}")), roman(" "), italic(names)]),
        Some(long) => head.push(bold(format!("--{long}"))),
        None => head.push(italic(names)),
    }
    head
}

/// What the argument is for, its default and what can be chosen.
fn explanation(argument: &Arg) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let mut text = help.map(ToString::to_string).unwrap_or_default();
    let values: Vec<_> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if argument.get_action().takes_values() && !values.is_empty() {
        text += &format!(": {}", values.join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        text += &format!(" [default: {}]", defaults.join(" "));
    }
    text
}

/// A section of terms and what they mean.
fn section<T: Into<String>>(
    page: &mut Roff,
    title: &str,
    entries: impl IntoIterator<Item = (T, &'static str)>,
) {
    page.control("SH", [title]);
    for (term, meaning) in entries {
        entry(page, vec![bold(term)], meaning);
    }
}

fn entry(page: &mut Roff, head: Vec<Inline>, text: &str) {
    page.control("TP", []);
    page.text(head);
    page.text([roman(text)]);
}

/// `text` with its lines and blanks as they are.
fn verbatim(page: &mut Roff, text: &str) {
    page.control("nf", []);
    for line in text.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}
