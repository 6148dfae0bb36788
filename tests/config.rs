//! The configuration from outside: layers, problems, and `hydrant check` and `hydrant schema` as
//! processes of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use hydrant::config::{Acks, Address, Config, Loaded, OnFull, Problems, Sources, load};
use proptest::prelude::*;

const STREAM: &str = "delivery_stream_name=s";

/// Loads the file `name` with `text`, variables and assignments.
fn load_all(name: &str, text: &str, variables: &[(&str, &str)], set: &[&str]) -> Result<Loaded, Problems> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, text).unwrap();
    load(&Sources {
        file: Some(path),
        default_file: None,
        environment: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        set: set.iter().map(|&argument| argument.to_owned()).collect(),
    })
}

fn of_file(text: &str) -> Result<Loaded, Problems> {
    load_all("hydrant.toml", text, &[], &[STREAM])
}

fn of_variables(variables: &[(&str, &str)]) -> Result<Loaded, Problems> {
    load_all("hydrant.toml", "", variables, &[STREAM])
}

fn of_set(set: &[&str]) -> Result<Loaded, Problems> {
    load_all("hydrant.toml", "", &[], &[&[STREAM], set].concat())
}

/// Asserts that `loaded` failed with as many problems as `expected` has parts, each part in one.
#[track_caller]
fn assert_problems(loaded: Result<Loaded, Problems>, expected: &[&str]) {
    let text = loaded.expect_err("the configuration is wrong").to_string();
    let lines: Vec<_> = text.lines().collect();
    for part in expected {
        assert!(lines.iter().any(|line| line.contains(part)), "{part:?} is not in:\n{text}");
    }
    assert_eq!(lines.len(), expected.len(), "{text}");
}

// R-C1
#[test]
fn a_later_layer_wins_over_an_earlier_one() {
    let file = "linger = '2s'\nmax_batch_size = 2\nregion = 'eu-west-1'";
    let variables = [("HYDRANT_LINGER", "3s"), ("HYDRANT_MAX_BATCH_SIZE", "3")];
    let set = [STREAM, "linger=4s", "linger=5s"];
    let loaded = load_all("hydrant.toml", file, &variables, &set).unwrap();
    assert_eq!(loaded.config.linger, Duration::from_secs(5));
    assert_eq!(loaded.config.max_batch_size, 3);
    assert_eq!(loaded.config.region.as_deref(), Some("eu-west-1"));
    let layer = |key| loaded.values.iter().find(|value| value.key == key).unwrap().from.as_str();
    assert_eq!(layer("linger"), "--set");
    assert_eq!(layer("max_batch_size"), "HYDRANT_MAX_BATCH_SIZE");
    assert!(layer("region").ends_with("/hydrant.toml"));
    assert_eq!(layer("send.max_in_flight"), "default");
}

// R-C2
#[test]
fn the_file_is_the_named_one_else_that_of_the_environment_else_the_usual_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("delivery_stream_name = '{name}'")).unwrap();
        path
    };
    let stream = |sources: &Sources| load(sources).unwrap().config.delivery_stream_name;
    let mut sources = Sources { default_file: Some(file("usual")), ..Sources::default() };
    assert_eq!(stream(&sources), "usual");
    sources.environment.push(("HYDRANT_CONFIG".into(), file("variable").into()));
    assert_eq!(stream(&sources), "variable");
    sources.file = Some(file("named"));
    assert_eq!(stream(&sources), "named");
}

// R-C2
#[test]
fn only_the_usual_file_may_be_missing() {
    let missing = Some(PathBuf::from("/nonexistent/hydrant.toml"));
    let set = vec![STREAM.to_owned()];
    load(&Sources { default_file: missing.clone(), set: set.clone(), ..Sources::default() }).unwrap();
    let named = load(&Sources { file: missing, set, ..Sources::default() });
    assert_problems(named, &["/nonexistent/hydrant.toml: cannot read the configuration file: No such file"]);
}

#[test]
fn a_file_that_cannot_be_parsed_is_reported_with_line_and_column() {
    let check = |name, text, place| assert_problems(load_all(name, text, &[], &[]), &[place]);
    check("c.toml", "linger = '1s'\n\nregion = = 1\n", "c.toml:3:10: ");
    check("c.toml", "linger = '1s'\nlinger = '2s'\n", "c.toml:2:1: duplicate key");
    check("c.yaml", "linger: 1s\nretry: a: b\n", "c.yaml:2:9: ");
}

// R-C2
#[test]
fn yaml_and_toml_say_the_same() {
    let toml =
        "linger = '2s'\n[listen.app]\naddress = 'tcp:0'\nmode = '0600'\nacks = 'off'\n[retry]\njitter = 0.5";
    let yaml = "
linger: 2s
listen:
  app:
    address: tcp:0
    mode: '0600'
    acks: off
retry:
  jitter: 0.5
# Without values these are null, which is not set.
region:
buffer:
";
    let show = |loaded: Result<Loaded, Problems>| format!("{:?}", loaded.unwrap().config);
    let from_toml = show(of_file(toml));
    assert_eq!(from_toml, show(load_all("c.yaml", yaml, &[], &[STREAM])));
    assert_eq!(from_toml, show(load_all("c.YML", yaml, &[], &[STREAM])));
}

#[test]
fn an_empty_file_says_nothing() {
    for name in ["c.toml", "c.yaml"] {
        load_all(name, "", &[], &[STREAM]).unwrap();
    }
}

#[test]
fn text_from_the_environment_is_what_the_key_needs() {
    let variables = [
        ("HYDRANT_MAX_BATCH_SIZE", "100"),
        ("HYDRANT_RETRY__JITTER", "0.5"),
        ("HYDRANT_SEND__FAST_BODY", "false"),
        ("HYDRANT_BUFFER__MEMORY", "1.5 MiB"),
        ("HYDRANT_BUFFER__ON_FULL", "drop-oldest"),
        ("HYDRANT_DELIMITER", r#""\t""#),
        ("HYDRANT_LISTEN__APP__ADDRESS", "unix:/run/app.sock"),
        ("HYDRANT_LISTEN__APP__MODE", "0600"),
        ("HYDRANT_LISTEN__APP__IDLE_TIMEOUT", "1m 30s"),
        ("HYDRANT_REGION", ""),
    ];
    let config = of_variables(&variables).unwrap().config;
    assert_eq!(config.max_batch_size, 100);
    assert!((config.retry.jitter - 0.5).abs() < f64::EPSILON);
    assert!(!config.send.fast_body);
    assert_eq!((config.buffer.memory, config.buffer.on_full), (3 << 19, OnFull::DropOldest));
    assert_eq!(&config.delimiter[..], b"\t");
    assert_eq!(config.region, None);
    let app = &config.listen["app"];
    assert_eq!(app.address, Address::Unix("/run/app.sock".into()));
    assert_eq!((app.mode, app.idle_timeout), (0o600, Some(Duration::from_secs(90))));
}

#[test]
fn a_stream_keeps_a_name_that_looks_like_a_number() {
    let check = |name: &str| {
        let loaded = load_all("c.toml", "", &[("HYDRANT_DELIVERY_STREAM_NAME", name)], &[]).unwrap();
        assert_eq!(loaded.config.delivery_stream_name, name);
    };
    check("2026");
    check("007");
    check("1e5");
    check("true");
}

// R-C5
#[test]
fn aliases_work_in_every_layer() {
    let check = |text: &str, variables: &[(&str, &str)], set: &[&str]| {
        let Config { delivery_stream_name, max_batch_size, max_batch_size_bytes, .. } =
            load_all("c.toml", text, variables, set).unwrap().config;
        assert_eq!((delivery_stream_name.as_str(), max_batch_size, max_batch_size_bytes), ("a", 7, 1 << 20));
    };
    check("deliveryStreamName = 'a'\nmaxBatchSize = 7\nmaxBatchSizeBytes = '1MiB'", &[], &[]);
    check("", &[], &["deliveryStreamName=a", "maxBatchSize=7", "maxBatchSizeBytes=1MiB"]);
    let variables = [
        ("HYDRANT_DELIVERYSTREAMNAME", "a"),
        ("HYDRANT_MAXBATCHSIZE", "7"),
        ("HYDRANT_MAXBATCHSIZEBYTES", "1MiB"),
    ];
    check("", &variables, &[]);
}

// R-C5
#[test]
fn two_spellings_of_a_key_clash_within_one_layer_only() {
    let clash = "`max_batch_size` and its alias `maxBatchSize` are both set, keep one of them";
    assert_problems(of_file("max_batch_size = 1\nmaxBatchSize = 1"), &[clash]);
    assert_problems(of_set(&["max_batch_size=1", "maxBatchSize=1"]), &[clash]);
    let variables = [("HYDRANT_MAX_BATCH_SIZE", "1"), ("HYDRANT_MAXBATCHSIZE", "1")];
    assert_problems(of_variables(&variables), &["HYDRANT_MAX_BATCH_SIZE and HYDRANT_MAXBATCHSIZE: "]);
    let later_wins = |file, argument| {
        let loaded = load_all("c.toml", file, &[], &[STREAM, argument]).unwrap();
        assert_eq!(loaded.config.max_batch_size, 2);
    };
    later_wins("max_batch_size = 1", "maxBatchSize=2");
    later_wins("maxBatchSize = 1", "max_batch_size=2");
}

// R-C3
#[test]
fn an_unknown_key_suggests_the_nearest_one() {
    let check = |key: &str, suggestion: &str| {
        let expected = format!("--set: unknown key `{key}`; {suggestion}");
        assert_problems(of_set(&["listen.app.address=tcp:0", &format!("{key}=1")]), &[&expected]);
    };
    check("max_batch_sise", "did you mean `max_batch_size`?");
    check("MaxBatchSize", "did you mean `max_batch_size`?");
    check("retry.max_retrys", "did you mean `retry.max_retries`?");
    check("retri.max_delay", "did you mean `retry.max_delay`?");
    check("max_in_flight", "did you mean `send.max_in_flight`?");
    check("retry.linger", "did you mean `linger`?");
    check("delivery_stream", "did you mean `delivery_stream_name`?");
    check("listen.app.adress", "did you mean `listen.app.address`?");
    check("xyzzy", "`hydrant schema` lists the keys");
    check("no.such.thing", "`hydrant schema` lists the keys");
    check("listen.app.no.such.thing", "`hydrant schema` lists the keys");
    let variable = [("HYDRANT_RETRY_MAX_DELAY", "10s")];
    let expected = "HYDRANT_RETRY_MAX_DELAY: unknown key `retry_max_delay`; did you mean `retry.max_delay`?";
    assert_problems(of_variables(&variable), &[expected]);
}

// R-C6
#[test]
fn what_kubernetes_sets_for_a_service_called_hydrant_is_no_key() {
    let variables = [
        ("HYDRANT_SERVICE_HOST", "10.0.0.1"),
        ("HYDRANT_SERVICE_PORT", "9464"),
        ("HYDRANT_SERVICE_PORT_METRICS", "9464"),
        ("HYDRANT_PORT", "tcp://10.0.0.1:9464"),
        ("HYDRANT_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ("HYDRANT_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("HYDRANT_METRICS_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
        ("HYDRANTS_LINGER", "somebody else's"),
    ];
    of_variables(&variables).unwrap();
}

#[test]
fn what_is_no_assignment_is_reported() {
    let check = |argument: &str| {
        assert_problems(of_set(&[argument]), &[&format!("--set {argument}: must be KEY=VALUE")]);
    };
    check("linger");
    check("=1");
    check("retry..jitter=1");
    assert_problems(of_variables(&[("HYDRANT_", "1")]), &["HYDRANT_: must be a key"]);
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf8_is_reported() {
    use std::os::unix::ffi::OsStringExt;
    let environment = vec![("HYDRANT_LINGER".into(), OsString::from_vec(vec![0xff]))];
    let loaded = load(&Sources { environment, set: vec![STREAM.to_owned()], ..Sources::default() });
    assert_problems(loaded, &["HYDRANT_LINGER: must be a key such as"]);
}

#[test]
fn a_value_where_a_table_is_needed_is_reported() {
    assert_problems(of_set(&["retry=5"]), &["--set: `retry` is \"5\", but must be a table of keys"]);
    assert_problems(of_set(&["listen.app=5"]), &["--set: `listen.app` is \"5\", but must be a table"]);
    assert_problems(of_file("[[listen]]\naddress = 'tcp:0'"), &["`listen` is [{"]);
}

// R-C4
#[test]
fn a_value_out_of_range_is_reported_with_the_range() {
    let check = |assignment: &str, expected: &str| {
        let (key, value) = assignment.split_once('=').unwrap();
        let expected = format!("--set: `{key}` is \"{value}\", but must be {expected}");
        assert_problems(of_set(&["listen.app.address=tcp:0", assignment]), &[&expected]);
    };
    let duration =
        |bounds: &str| format!("a duration with its unit, such as \"250ms\" or \"1m 30s\", {bounds}");
    let size = |bounds: &str| format!("a size such as \"4MiB\", or bytes, {bounds}");
    check("delivery_stream_name=a/b", "1 to 64 letters, digits, `_`, `.` and `-`");
    check("region=Ireland", "the name of an AWS region");
    check("endpoint_url=localhost", "a URL");
    check("max_batch_size=0", "a whole number from 1 to 500");
    check("max_batch_size=501", "a whole number from 1 to 500");
    check("max_batch_size_bytes=5MiB", &size("from 1B to 4MiB"));
    check("linger=5", &duration("from 0s to 1h"));
    check("linger=61m", &duration("from 0s to 1h"));
    check("delimiter=12345678901234567", "at most 16 bytes");
    check("buffer.memory=1023KiB", &size("from 1MiB to 2GiB"));
    check("buffer.memory=3GiB", &size("from 1MiB to 2GiB"));
    check("buffer.directory=~/spool", "the path of a directory");
    check("buffer.disk=3MiB", &size("from 4MiB to 1TiB"));
    check("buffer.sync=never", "\"always\" or \"os\"");
    check("buffer.on_full=drop", "\"block\", \"drop-newest\" or \"drop-oldest\"");
    check("retry.max_retries=101", "a whole number from 0 to 100");
    check("retry.base_delay=0s", &duration("from 1ms to 1h"));
    check("retry.jitter=1.1", "a number from 0 to 1");
    check("retry.give_up_after=0s", "\"never\" or a duration");
    check("send.max_in_flight=65", "a whole number from 1 to 64");
    check("send.attempt_timeout=0s", &duration("from 1ms to 10m"));
    check("send.connect_timeout=11m", &duration("from 1ms to 10m"));
    check("send.read_timeout=11m", &duration("from 1ms to 10m"));
    check("send.fast_body=yes", "true or false");
    check("dead_letter.directory=~/dead", "the path of a directory");
    check("dead_letter.max_bytes=1", &size("from 1MiB to 1TiB"));
    check("admin.address=stdin:", "`unix:PATH`");
    check("log.level=loud", "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"");
    check("log.format=xml", "\"auto\", \"text\" or \"json\"");
    check("shutdown.drain=2h", &duration("from 0s to 1h"));
    check("listen.app.address=tcp:example.com:9000", "`unix:PATH`");
    check("listen.app.protocol=line", "\"lines\"");
    check("listen.app.mode=1777", "permission bits in octal");
    check("listen.app.max_record_bytes=1024001", &size("from 1B to 1000KiB"));
    check("listen.app.max_bytes_per_second=1023", &(size("from 1KiB to 1TiB") + "; empty for none"));
    check("listen.app.max_connections=0", "a whole number from 1 to 65536");
    check("listen.app.idle_timeout=5", "\"never\" or a duration");
    check("listen.app.acks=yes", "\"off\", \"received\", \"durable\" or \"delivered\"");
}

// R-C9
#[test]
fn what_has_no_default_is_required() {
    let stream = "`delivery_stream_name` is required: set it in the file, in the environment as HYDRANT_DELIVERY_STREAM_NAME,";
    assert_problems(load_all("c.toml", "", &[], &[]), &[stream]);
    assert_problems(load_all("c.toml", "delivery_stream_name = ''", &[], &[]), &[stream]);
    let address = "`listen.app.address` is required: set it in the file, in the environment as HYDRANT_LISTEN__APP__ADDRESS,";
    assert_problems(of_file("[listen.app]"), &[address]);
}

// R-C9
#[test]
fn a_listener_is_required_by_those_who_ask_for_one() {
    let problem = of_set(&[]).unwrap().config.require_listeners().unwrap_err().to_string();
    assert!(problem.starts_with("`listen.NAME.address` is required"), "{problem}");
    of_set(&["listen.app.address=tcp:0"]).unwrap().config.require_listeners().unwrap();
}

// R-C7
#[test]
fn what_syslog_and_datagrams_have_no_way_to_do_is_refused() {
    let check = |assignments: &[&str], expected: &str| {
        assert_problems(of_set(assignments), &[&format!("--set: {expected}")]);
    };
    let datagrams = "listen.app.address=unix-dgram:/run/log";
    let acks = "listen.app.acks=received";
    check(
        &[datagrams, "listen.app.protocol=frames"],
        "`listen.app.protocol` must be \"syslog\" or \"lines\"",
    );
    check(&[datagrams, acks], "`listen.app.acks` must be \"off\": neither syslog nor a datagram");
    check(
        &["listen.app.address=tcp:1", "listen.app.protocol=syslog", acks],
        "`listen.app.acks` must be \"off\"",
    );
    check(
        &["listen.app.address=tcp:1", "listen.app.format=json"],
        "`listen.app.format` is only known of messages of",
    );
    check(&[datagrams, "listen.app.allow_uids=0"], "`listen.app.allow_uids` is only known of who connects");
    let file = "[listen.log]\naddress = 'unix-dgram:/run/log'\nprotocol = 'syslog'\nformat = 'json'";
    let log = of_file(file).unwrap().config.listen["log"].clone();
    assert_eq!((log.address.to_string(), log.protocol.name()), ("unix-dgram:/run/log".to_owned(), "syslog"));
}

// R-C7
#[test]
fn streams_that_there_is_no_room_for_are_refused() {
    let listeners = |count: usize| {
        let one =
            |number| format!("[listen.l{number}]\naddress = 'tcp:0'\ndelivery_stream_name = 's{number}'\n");
        (0..count).map(one).collect::<String>()
    };
    let config = of_file(&listeners(15)).unwrap().config;
    assert_eq!((config.streams().len(), config.streams()[0]), (16, "s"));
    assert_problems(
        of_file(&listeners(16)),
        &["`listen` must not name more than 16 delivery streams; they name 17"],
    );
    assert_problems(
        of_file(&format!("buffer.memory = '3MiB'\n{}", listeners(3))),
        &[
            "`buffer.memory` is divided into 4 shares for 4 delivery streams, of which each needs 1 MiB: take at least 4 MiB",
        ],
    );
    let routed = "[route]\nfield = 'tag'\nstreams = ['a.*=one', 'a=b=two']\notherwise = 'one'\nlisten.a.address = 'tcp:0'";
    let routed = routed.replace("listen.a.address", "[listen.a]\naddress");
    let config = of_file(&routed).unwrap().config;
    assert_eq!(config.streams(), ["s", "one", "two"]);
    assert_eq!(config.memory_of_each(), (32 << 20) / 4);
    let rules = config.route.unwrap().streams;
    assert_eq!(rules, [("a.*".to_owned(), "one".to_owned()), ("a=b".to_owned(), "two".to_owned())]);
    for wrong in ["'a'", "['a']", "['=b']", "['a=']", "['a=b', 'a=c']", "['a=b', 7]", "[]", "7", "['a=b c']"]
    {
        assert_problems(
            of_file(&format!("[route]\nfield = 'x'\nstreams = {wrong}\n[listen.a]\naddress = 'tcp:0'")),
            &["`route.streams`"],
        );
    }
    assert_problems(
        of_file("route.streams = 'a=b'\nroute.otherwise = 'c'\nlisten.a.address = 'tcp:0'"),
        &[
            "`route.streams` changes nothing without `route.field`",
            "`route.otherwise` changes nothing without `route.field`",
        ],
    );
    let from_text = of_set(&["listen.a.address=tcp:0", "route.field=x", "route.streams=a=b, c*=d"]).unwrap();
    assert_eq!(from_text.config.streams(), ["s", "b", "d"]);
    assert_problems(
        of_file(&format!("[buffer]\ndirectory = '/spool'\ndisk = '15MiB'\n{}", listeners(3))),
        &[
            "`buffer.disk` is divided into 4 shares for 4 delivery streams, of which each needs 4 MiB: take at least 16 MiB",
        ],
    );
}

// R-C8
#[test]
fn values_that_do_not_go_together_are_reported() {
    let check = |file: &str, expected: &str| assert_problems(of_file(file), &[expected]);
    check(
        "[retry]\nbase_delay = '1m'",
        "hydrant.toml: `retry.base_delay` is 1m, but must be at most `retry.max_delay`, which is 30s (default)",
    );
    check(
        "[listen]\na.address = 'tcp:9000'\nb.address = 'tcp:localhost:9000'",
        "hydrant.toml: `listen.b.address` must not be \"tcp:127.0.0.1:9000\", which is `listen.a.address` (",
    );
    check(
        "listen.a.address = 'tcp:9464'",
        "`listen.a.address` must not be \"tcp:127.0.0.1:9464\", which is `admin",
    );
    check(
        "[listen]\na.address = 'stdin:'\nb.address = 'stdin:'",
        "`listen.b.address` must not be \"stdin:\"",
    );
    check(
        "listen.a = { address = 'stdin:', acks = 'received' }",
        "hydrant.toml: `listen.a.acks` must be \"off\"",
    );
    check(
        "listen.A.address = 'tcp:0'",
        "hydrant.toml: `listen.A` must have a name of 1 to 32 lower-case letters",
    );
    check("listen.'a.b'.address = 'tcp:0'", "hydrant.toml: `listen.a.b` must have a name");
    of_file("[listen]\na.address = 'tcp:0'\nb.address = 'tcp:0'").unwrap();
}

#[test]
fn a_fault_is_not_reported_twice_through_the_default_that_stands_in() {
    let check = |file: &str, expected: &str| assert_problems(of_file(file), &[expected]);
    check("[retry]\nbase_delay = '1m'\nmax_delay = 'soon'", "`retry.max_delay` is \"soon\"");
    check("admin.address = 'on'\nlisten.a.address = 'tcp:9464'", "`admin.address` is \"on\"");
    check("listen.a.address = 'nowhere'", "`listen.a.address` is \"nowhere\"");
    check("listen.a.address = 'unix-dgram:'", "`listen.a.address` is \"unix-dgram:\"");
    assert_problems(
        load_all("c.toml", "delivery_stream_name = '/'", &[], &[]),
        &["`delivery_stream_name` is \"/\""],
    );
}

// R-C7
#[test]
fn what_there_is_not_is_refused_in_so_many_words() {
    let check = |assignment: &str, expected: &str| {
        assert_problems(of_set(&["listen.app.address=tcp:0", assignment]), &[&format!("--set: {expected}")]);
    };
    check("aggregate.mode=always", "`aggregate.mode` is \"always\", but must be \"auto\", \"on\" or \"off\"");
    check("aggregate.mod=off", "unknown key `aggregate.mod`; did you mean `aggregate.mode`?");
    check("listen.app.protocol=gelf", "`listen.app.protocol` is \"gelf\", but must be \"lines\", \"frames\"");
}

// R-H1
#[test]
fn requests_are_answered_as_safe_as_the_daemon_makes_records_unless_it_is_told_otherwise() {
    let check = |settings: &[&str], expected: Acks| {
        let settings = [&["listen.app.address=tcp:0"], settings].concat();
        assert_eq!(of_set(&settings).unwrap().config.listen["app"].acks, expected, "{settings:?}");
    };
    check(&[], Acks::Off);
    check(&["listen.app.protocol=http"], Acks::Received);
    check(&["listen.app.protocol=http", "buffer.directory=/spool"], Acks::Durable);
    check(&["listen.app.protocol=http", "buffer.directory=/spool", "listen.app.acks=off"], Acks::Off);
    assert_problems(
        of_set(&["listen.app.address=stdin:", "listen.app.protocol=http"]),
        &["--set: `listen.app.protocol` is \"http\", which answers its producers"],
    );
}

// R-C7
#[test]
fn keys_of_tls_and_of_users_are_refused_where_they_mean_nothing() {
    let check = |assignments: &[&str], expected: &str| {
        assert_problems(of_set(assignments), &[&format!("--set: {expected}")]);
    };
    let plain = "listen.app.address=tcp:1";
    check(&[plain, "listen.app.cert=x"], "`listen.app.cert` is of no use at `tcp:127.0.0.1:1`");
    check(
        &[plain, "listen.app.allow_uids=0"],
        "`listen.app.allow_uids` is only known of who connects to a Unix",
    );
    check(
        &["listen.app.address=unix:x", "listen.app.allow_gids=0,app"],
        "`listen.app.allow_gids` is \"0,app\", but must be a list of numbers such as [0, 1000]",
    );
    let file = "[listen.app]\naddress = 'unix:x'\nallow_uids = [0, 1000]";
    let config = of_file(file).unwrap().config;
    assert_eq!(config.listen["app"].allow.uids.as_deref(), Some(&[0, 1000][..]));
    assert_problems(of_file("listen.app.address = 'tls:1'"), &["`listen.app.cert`", "`listen.app.key`"]);
}

// R-F8
#[test]
fn keys_of_forward_are_refused_elsewhere_and_its_acks_follow_the_spool() {
    let check = |assignments: &[&str], expected: &str| {
        let all: Vec<_> = ["listen.app.address=tcp:0"].iter().chain(assignments).copied().collect();
        assert_problems(of_set(&all), &[&format!("--set: {expected}")]);
    };
    let needs = "is of no use with the protocol \"lines\": take \"forward\" for `listen.app.protocol`";
    check(&["listen.app.tag_key=x"], &format!("`listen.app.tag_key` {needs}"));
    check(&["listen.app.time_key="], &format!("`listen.app.time_key` {needs}"));
    check(&["listen.app.shared_key=opensesame"], &format!("`listen.app.shared_key` {needs}"));
    let frames = ["listen.app.protocol=frames", "listen.app.shared_key=x"];
    check(&frames, "`listen.app.shared_key` is of no use with the protocol \"frames\"");
    let forward = "listen.app.protocol=forward";
    let long = format!("listen.app.tag_key={}", "x".repeat(65));
    check(&[forward, &long], &format!("`listen.app.tag_key` is \"{}\", but must be", "x".repeat(65)));
    let acks = |assignments: &[&str]| {
        let all: Vec<_> = ["listen.app.address=tcp:0", forward].iter().chain(assignments).copied().collect();
        of_set(&all).unwrap().config.listen["app"].acks
    };
    assert_eq!(acks(&[]), Acks::Received);
    assert_eq!(acks(&["buffer.directory=/spool"]), Acks::Durable);
    assert_eq!(acks(&["buffer.directory=/spool", "listen.app.acks=off"]), Acks::Off);
    assert_eq!(acks(&["listen.app.address=stdin:"]), Acks::Off);
    assert_eq!(of_set(&["listen.app.address=tcp:0"]).unwrap().config.listen["app"].acks, Acks::Off);
    check(
        &["listen.app.address=stdin:", forward, "listen.app.shared_key=x"],
        "`listen.app.shared_key` can't be asked for at `stdin:`",
    );
}

// R-F7
#[test]
fn a_shared_key_is_never_shown() {
    let settings = ["listen.app.address=tcp:0", "listen.app.protocol=forward"];
    let with = |key: &str| of_set(&[&settings[..], &[key]].concat());
    let loaded = with("listen.app.shared_key=opensesame").unwrap();
    assert!(!format!("{loaded:?}").contains("opensesame"));
    let shown = loaded.values.iter().find(|value| value.key == "listen.app.shared_key").unwrap();
    assert_eq!(shown.value, "\"(secret)\"");
    let long = "opensesame".repeat(200);
    let problems = with(&format!("listen.app.shared_key={long}")).unwrap_err().to_string();
    let number = of_file("[listen.app]\naddress='tcp:0'\nprotocol='forward'\nshared_key=31337").unwrap_err();
    for problems in [problems, number.to_string()] {
        assert!(problems.contains("`listen.app.shared_key` is (secret), but must be text"), "{problems}");
        assert!(!problems.contains("opensesame") && !problems.contains("31337"), "{problems}");
    }
}

// R-C8
#[test]
fn what_watches_is_checked_like_the_rest() {
    let check = |assignments: &[&str], expected: &str| {
        let all: Vec<_> = ["listen.app.address=tcp:0"].iter().chain(assignments).copied().collect();
        assert_problems(of_set(&all), &[&format!("--set: {expected}")]);
    };
    check(
        &["monitor.interval=60"],
        "`monitor.interval` is \"60\", but must be `0s` for never, or a duration",
    );
    check(
        &["monitor.publish_namespace=AWS/Firehose"],
        "`monitor.publish_namespace` is \"AWS/Firehose\", but must be 1 to 255 letters",
    );
    check(
        &["monitor.publish_namespace=apps", "monitor.interval=0s"],
        "`monitor.publish_namespace` publishes at every `monitor.interval`, which is off",
    );
    check(&["otlp.endpoint=collector:4318"], "`otlp.endpoint` is \"collector:4318\", but must be a URL");
    let config = of_set(&["monitor.interval=0", "otlp.trace_ratio=1"]).unwrap().config;
    assert_eq!((config.monitor.interval, config.otlp.trace_ratio), (None, 1.0));
}

// R-A8
#[test]
fn compression_is_of_packed_records_and_of_levels_that_the_format_has() {
    let refused = |assignments: &[&str], expected: &str| {
        let problems = of_set(&[&["listen.app.address=tcp:0"], assignments].concat());
        assert_problems(problems, &[&format!("--set: {expected}")]);
    };
    let gzip = "aggregate.compression=gzip";
    refused(&[gzip, "aggregate.mode=off"], "`aggregate.compression` is \"gzip\", which needs packing");
    refused(
        &[gzip, "delimiter="],
        "`aggregate.compression` is \"gzip\", which needs packing, and so a `delimiter`",
    );
    refused(
        &[gzip, "aggregate.compression_level=10"],
        "`aggregate.compression_level` is 10, but must be 1 to 9 for \"gzip\"",
    );
    refused(
        &["aggregate.compression=zstd", "aggregate.compression_level=20"],
        "`aggregate.compression_level` is \"20\", but must be a whole number from 1 to 19",
    );
    refused(
        &["aggregate.compression=lzma"],
        "`aggregate.compression` is \"lzma\", but must be \"none\", \"gzip\" or \"zstd\"",
    );
    let level =
        |assignments: &[&str]| of_set(assignments).unwrap().config.aggregate.compression.unwrap().level;
    assert_eq!((level(&[gzip]), level(&["aggregate.compression=zstd"])), (2, 1));
    assert_eq!(level(&["aggregate.compression=zstd", "aggregate.compression_level=19"]), 19);
    assert_eq!(of_set(&["aggregate.compression=none"]).unwrap().warnings, [""; 0]);
    let warnings = of_set(&["aggregate.compression_level=3"]).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("changes nothing without"), "{warnings:?}");
}

// R-C8
#[test]
fn what_asks_for_a_spool_needs_its_directory() {
    let durable = ["listen.app.address=tcp:0", "listen.app.acks=durable"];
    assert_problems(
        of_set(&durable),
        &[
            "--set: `listen.app.acks` is \"durable\", which needs a spool: set `buffer.directory`, or take \"received\"",
        ],
    );
    for assignment in ["buffer.disk=4GiB", "buffer.sync=os"] {
        let key = assignment.split_once('=').unwrap().0;
        let expected = format!(
            "--set: `{key}` changes nothing without `buffer.directory`: records are held in memory only"
        );
        assert_eq!(of_set(&[assignment]).unwrap().warnings, [expected]);
    }
    let with_one = ["buffer.directory=/var/lib/hydrant/spool", "buffer.disk=4GiB", "buffer.sync=os"];
    let loaded = of_set(&[&with_one[..], &durable[..]].concat()).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let spool = loaded.config.buffer.spool.unwrap();
    assert_eq!(spool.directory.to_str(), Some("/var/lib/hydrant/spool"));
    assert_eq!((spool.limit_bytes, spool.sync), (4 << 30, hydrant::config::BufferSync::Os));
}

/// Assignments that are each wrong in one way and do not hide one another.
const FAULTS: [&str; 14] = [
    "max_batch_size=501",
    "max_batch_size_bytes=0",
    "linger=1",
    "lingr=1s",
    "retry.jitter=2",
    "retry.max_retries=many",
    "send.attempt_timeout=0s",
    "buffer.memory=1",
    "buffer.disk=1MiB",
    "listen.a.address=nowhere",
    "listen.b.mode=9",
    "log.format=xml",
    "otlp.endpoint=x",
    "no.such.key=1",
];

proptest! {
    // R-C4
    #[test]
    fn every_one_of_many_faults_is_reported(
        faults in prop::sample::subsequence(&FAULTS, 1..=FAULTS.len()),
        from_environment in prop::collection::vec(any::<bool>(), FAULTS.len()),
    ) {
        let set = vec![STREAM.to_owned(), "listen.b.address=tcp:0".to_owned()];
        let mut sources = Sources { set, ..Sources::default() };
        for (fault, from_environment) in faults.iter().zip(from_environment) {
            let (key, value) = fault.split_once('=').unwrap();
            if from_environment {
                let name = format!("HYDRANT_{}", key.to_uppercase().replace('.', "__"));
                sources.environment.push((name.into(), value.into()));
            } else {
                sources.set.push((*fault).to_owned());
            }
        }
        let problems = load(&sources).expect_err("the configuration is wrong");
        for fault in &faults {
            let key = fault.split_once('=').unwrap().0;
            let names_key = |problem: &&hydrant::config::Problem| {
                let text = problem.to_string();
                text.contains(&format!(": `{key}`")) || text.contains(&format!(": unknown key `{key}`"))
            };
            prop_assert_eq!(problems.iter().filter(names_key).count(), 1, "{} in\n{}", key, problems);
        }
        prop_assert_eq!(problems.iter().count(), faults.len(), "{}", problems);
    }

    #[test]
    fn no_file_makes_loading_panic(text in "[a-z_.\\[\\]='\"0-9\n#: -]{0,200}") {
        load_all("c.toml", &text, &[], &[]).ok();
        load_all("c.yaml", &text, &[], &[]).ok();
    }
}

/// Runs `hydrant` with `arguments` and only `variables` in its environment.
fn hydrant(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn check_prints_each_value_with_its_layer_and_ok() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml");
    let arguments = ["check", "--set", "linger=250ms", "--set", "buffer.disk=1GiB"];
    let output = hydrant(&arguments, &[("HYDRANT_CONFIG", file), ("HYDRANT_RETRY__MAX_DELAY", "10s")]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let check = |line: &str| assert!(stdout.lines().any(|printed| printed == line), "{line}\n{stdout}");
    check("linger = \"250ms\"  # --set");
    check("retry.max_delay = \"10s\"  # HYDRANT_RETRY__MAX_DELAY");
    check("max_batch_size = 500  # default");
    check(&format!("listen.app.address = \"unix:/run/hydrant/app.sock\"  # {file}"));
    check("listen.app.mode = \"0660\"  # default");
    assert!(stdout.ends_with("\nok\n"), "{stdout}");
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("warning: --set: `buffer.disk` changes nothing"), "{stderr}");
}

// R-C10
#[test]
fn what_check_prints_is_a_file_that_says_the_same() {
    let values = |file: &str| {
        let output = hydrant(&["check", "--config", file, "--set", r#"delimiter="\t\"""#], &[]);
        let values = text(&output.stdout).strip_suffix("ok\n").expect("the file is right");
        values
            .lines()
            .map(|line| line.rsplit_once("  # ").unwrap().0.to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let reference = values(concat!(env!("CARGO_MANIFEST_DIR"), "/config/hydrant.toml"));
    let directory = tempfile::tempdir().unwrap();
    let printed = directory.path().join("printed.toml");
    fs::write(&printed, &reference).unwrap();
    assert_eq!(values(printed.to_str().unwrap()), reference);
}

// R-C4
#[test]
fn check_exits_2_with_a_line_for_each_problem() {
    let output = hydrant(&["check", "--set", "linger=5", "--set", "lingr=5"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    let lines: Vec<_> = text(&output.stderr).lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("error: ")), "{lines:?}");
}

#[test]
fn schema_prints_json_schema_or_the_reference_file() {
    let schema: serde_json::Value = serde_json::from_slice(&hydrant(&["schema"], &[]).stdout).unwrap();
    assert_eq!(schema["properties"]["max_batch_size"]["maximum"], 500);
    assert_eq!(schema["properties"]["linger"]["default"], "1s");
    assert_eq!(schema["properties"]["buffer"]["properties"]["on_full"]["enum"][1], "drop-newest");
    let reference = include_str!("../config/hydrant.toml");
    assert_eq!(text(&hydrant(&["schema", "--toml"], &[]).stdout), reference);
}

#[test]
fn help_has_an_example() {
    for command in ["check", "schema"] {
        let help = hydrant(&[command, "--help"], &[]);
        assert!(text(&help.stdout).contains(&format!("\n  hydrant {command}")), "{command}");
    }
}
