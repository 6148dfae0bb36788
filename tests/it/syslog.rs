//! Syslog over connections and datagrams, by programs that speak it: logger(1), rsyslog, Python, OpenSSL.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;

use hydrant::local::Options;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::daemon::{Daemon, Sink, line, number, patiently};

const SYSLOG: &str = "listen.app.protocol=syslog";
const JSON: &str = "listen.app.format=json";

/// A daemon with one listener, called `app`, at `address`, `DIR` in it standing for the daemon's directory.
async fn start(sink: &Sink, address: &str, settings: &[&str]) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("listen.app.address={address}").replace("DIR", directory.path().to_str().unwrap());
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let settings = [&*address, &endpoint, "linger=5ms"].into_iter().chain(settings.iter().copied());
    Daemon::start_in(directory, settings).await
}

async fn port(daemon: &Daemon) -> String {
    let status = daemon.status().await;
    status["listeners"][0]["address"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned()
}

/// Runs a program that has to be there, or says that what it would show is skipped.
async fn run(program: &str, arguments: &[&str], input: &[u8]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("REQUIRE_PEERS").is_none(), "there is no {program}");
            // Not a macro: what those print, the test runner keeps from whoever watches.
            std::io::stderr().write_all(format!("skipped: there is no {program}\n").as_bytes()).unwrap();
            return false;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let output = patiently(program, child.wait_with_output()).await.unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

/// The delivered objects by their messages.
async fn by_message(sink: &Sink) -> BTreeMap<String, Value> {
    let read = |line: &Vec<u8>| {
        let object: Value = serde_json::from_slice(line).unwrap();
        (object["message"].as_str().unwrap().to_owned(), object)
    };
    let lines = sink.lines().await;
    assert!(lines.values().all(|times| *times == 1));
    lines.keys().map(read).collect()
}

// R-Y1, R-Y2
#[tokio::test]
async fn logger_is_understood_over_tcp_however_it_frames() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, "tcp:127.0.0.1:0", &[SYSLOG, JSON]).await;
    let port = port(&daemon).await;
    let to = ["--server", "127.0.0.1", "--tcp", "--port", &*port, "--id=7", "--tag", "app", "-p", "mail.err"];
    let new = ["--rfc5424=notq", "--msgid", "ID1", "--sd-id", "x@1", "--sd-param", "k=\"a \\\"b\\\"\""];
    if !run("logger", &[&to[..], &new, &["by LF"]].concat(), b"").await {
        return;
    }
    run("logger", &[&to[..], &new, &["--octet-count", "by count"]].concat(), b"").await;
    run("logger", &[&to[..], &["--rfc3164", "of old, \"quoted\""]].concat(), b"").await;
    daemon.until_settled(3).await;
    assert!(daemon.stop().await.status.success());
    let messages = by_message(&sink).await;
    for message in ["by LF", "by count"] {
        let object = &messages[message];
        for (key, expected) in [
            ("facility", json!("mail")),
            ("severity", json!("err")),
            ("appname", json!("app")),
            ("procid", json!("7")),
            ("msgid", json!("ID1")),
            ("structured_data", json!({ "x@1": { "k": "a \"b\"" } })),
        ] {
            assert_eq!(object[key], expected, "{object}");
        }
        assert!(object["timestamp"].as_str().unwrap().contains('T') && object["hostname"].is_string());
    }
    let old = &messages["of old, \"quoted\""];
    assert_eq!((&old["appname"], &old["procid"]), (&"app".into(), &"7".into()), "{old}");
    assert!(old["hostname"].is_string() && old["timestamp"].as_str().unwrap().len() == 15, "{old}");
}

/// Writes to `socket` as the program called `logger` and Python's logging do.
async fn log_by_datagrams(socket: &Path) -> bool {
    let socket = socket.to_str().unwrap();
    let script = "import logging, logging.handlers, sys\n\
        handler = logging.handlers.SysLogHandler(sys.argv[1], facility='local3')\n\
        handler.setFormatter(logging.Formatter('app[%(process)d]: %(message)s'))\n\
        logging.getLogger().addHandler(handler)\n\
        logging.warning('two\\nlines')\n";
    run("logger", &["--socket", socket, "--tag", "app", "one"], b"").await
        && run("python3", &["-c", script, socket], b"").await
}

// R-Y2, R-Y3
#[tokio::test]
async fn programs_log_to_a_datagram_socket_as_to_dev_log() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, "unix-dgram:DIR/log", &[SYSLOG, JSON, "listen.app.mode=0666"]).await;
    let socket = daemon.directory.path().join("log");
    if !log_by_datagrams(&socket).await {
        return;
    }
    daemon.until_settled(2).await;
    assert!(daemon.stop().await.status.success());
    assert!(!socket.exists());
    let messages = by_message(&sink).await;
    let one = &messages["one"];
    assert_eq!((&one["appname"], &one["severity"]), (&"app".into(), &"notice".into()), "{one}");
    // Python sends no time.
    let two = &messages["two\nlines"];
    assert!(two["appname"] == "app" && two["procid"].is_string() && two["timestamp"].is_null(), "{two}");
    assert_eq!((&two["facility"], &two["severity"]), (&"local3".into(), &"warning".into()), "{two}");
}

// R-Y3
#[tokio::test]
async fn what_the_kernel_took_is_delivered_and_senders_are_told_of_the_end() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, "unix-dgram:DIR/log", &[SYSLOG]).await;
    let socket = daemon.directory.path().join("log");
    let sending = std::thread::spawn(move || {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&socket).unwrap();
        for number in 0.. {
            if let Err(error) = sender.send(&line(number, 300)) {
                return (number, error.kind());
            }
        }
        unreachable!("the loop has no end")
    });
    daemon.until("some", |status| number(status, "/ledger/received/records") > 2000).await;
    assert!(daemon.stop().await.status.success());
    let (sent, error) = sending.join().unwrap();
    assert!(matches!(error, ErrorKind::BrokenPipe | ErrorKind::ConnectionRefused), "{error}");
    let delivered = sink.lines().await;
    assert_eq!((delivered.len(), delivered.values().sum::<usize>()), (sent, sent));
}

// R-Y3
#[tokio::test]
async fn a_full_buffer_makes_senders_of_datagrams_wait() {
    let sink = Sink::start(Options::default()).await;
    let settings = [SYSLOG, "buffer.memory=4MiB", "send.max_in_flight=1"];
    let daemon = start(&sink, "unix-dgram:DIR/log", &settings).await;
    let socket = daemon.directory.path().join("log");
    const DATAGRAMS: usize = 400;
    const BYTES: usize = 60_000;
    let sending = tokio::task::spawn_blocking(move || {
        let sender = UnixDatagram::unbound().unwrap();
        for number in 0..DATAGRAMS {
            sender.send_to(&line(number, BYTES), &socket).unwrap();
        }
    });
    patiently("sent", sending).await.unwrap();
    let status = daemon.until_settled(DATAGRAMS as u64).await;
    assert!(number(&status, "/buffer/reserved_bytes") < 4 << 20, "{status:#}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.lines().await.len(), DATAGRAMS);
}

// R-Y3
#[tokio::test]
async fn a_datagram_that_is_too_long_is_rejected_alone_and_an_empty_one_is_none() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, "unix-dgram:DIR/log", &[SYSLOG, "listen.app.max_record_bytes=10000"]).await;
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect(daemon.directory.path().join("log")).unwrap();
    for datagram in [&line(0, 5000), &[][..], &line(1, 50_000), &[0], &line(2, 5000)] {
        sender.send(datagram).unwrap();
    }
    let status = daemon.until_settled(2).await;
    assert_eq!(number(&status, "/ledger/rejected/too_long/records"), 1, "{status:#}");
    assert!(daemon.stop().await.status.success());
    let expected = [line(0, 5000), line(2, 5000)].concat();
    assert_eq!(sink.delivered().await, expected);
}

// R-Y3
#[tokio::test]
async fn many_lines_of_one_datagram_are_taken_whole_and_one_that_is_too_long_is_rejected_whole() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["listen.app.max_record_bytes=1000", "buffer.memory=1MiB"];
    let daemon = start(&sink, "unix-dgram:DIR/log", &settings).await;
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect(daemon.directory.path().join("log")).unwrap();
    let lines_of =
        |from: usize, to: usize| (from..to).flat_map(|number| line(number, 100)).collect::<Vec<u8>>();
    // Longer than a record may be; no line of it is.
    sender.send(&lines_of(0, 500)).unwrap();
    // Longer than the buffer could carry as a record.
    sender.send(&lines_of(500, 2500)).unwrap();
    sender.send(&lines_of(2500, 2510)).unwrap();
    let status = daemon.until_settled(510).await;
    let rejected = &status["ledger"]["rejected"]["too_long"];
    assert_eq!((number(rejected, "/records"), number(rejected, "/bytes")), (1, 200_000), "{status:#}");
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!((delivered.len(), delivered.values().sum::<usize>()), (510, 510));
}

// R-Y3
#[tokio::test]
async fn lines_come_as_datagrams_too() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, "unix-dgram:DIR/log", &[]).await;
    let sender = UnixDatagram::unbound().unwrap();
    let socket = daemon.directory.path().join("log");
    for datagram in ["one", "two\nthree\n"] {
        sender.send_to(datagram.as_bytes(), &socket).unwrap();
    }
    daemon.until_settled(3).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"one\ntwo\nthree\n");
}

// R-Y4
#[tokio::test]
async fn rsyslog_forwards_with_octet_counting() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, "tcp:127.0.0.1:0", &[SYSLOG, JSON]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let configuration = format!(
        "module(load=\"imfile\")\n\
         global(workDirectory=\"{}\")\n\
         input(type=\"imfile\" file=\"{}\" tag=\"app\" severity=\"info\" facility=\"local5\")\n\
         action(type=\"omfwd\" target=\"127.0.0.1\" port=\"{}\" protocol=\"tcp\" TCP_Framing=\"octet-counted\" \
         template=\"RSYSLOG_SyslogProtocol23Format\")\n",
        directory.path().display(),
        path("in.log"),
        port(&daemon).await,
    );
    std::fs::write(path("conf"), configuration).unwrap();
    let lines: String = (0..500).map(|number| format!("message {number} of \"rsyslog\"\n")).collect();
    std::fs::write(path("in.log"), lines).unwrap();
    let rsyslogd = Some("/usr/sbin/rsyslogd").filter(|it| Path::new(it).exists());
    let Some(rsyslogd) = rsyslogd else {
        run("rsyslogd", &[], b"").await;
        return;
    };
    let mut command = Command::new(rsyslogd);
    command.args(["-n", "-f", &path("conf"), "-i", &path("pid")]).kill_on_drop(true);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    daemon.until("all", |status| number(status, "/ledger/delivered/records") >= 500).await;
    child.kill().await.unwrap();
    assert!(daemon.stop().await.status.success());
    let messages = by_message(&sink).await;
    for number in 0..500 {
        let object = messages.values().find(|object| {
            object["message"].as_str().unwrap().trim() == format!("message {number} of \"rsyslog\"")
        });
        let object = object.unwrap_or_else(|| panic!("no {number}"));
        assert_eq!((&object["appname"], &object["facility"]), (&"app".into(), &"local5".into()), "{object}");
    }
}

// R-Y4
#[tokio::test]
async fn openssl_sends_messages_over_tls() {
    let sink = Sink::start(Options::default()).await;
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls");
    let file = |name: &str| files.join(name).display().to_string();
    let (cert, key) =
        (format!("listen.app.cert={}", file("first.pem")), format!("listen.app.key={}", file("first.key")));
    let daemon = start(&sink, "tls:127.0.0.1:0", &[SYSLOG, &cert, &key]).await;
    let to = format!("127.0.0.1:{}", port(&daemon).await);
    let authority = file("authority.pem");
    let mut input = Vec::new();
    for number in 0..1000 {
        let message = format!("<13>1 - - app - - - message\n{number}");
        input.extend_from_slice(format!("{} {message}", message.len()).as_bytes());
    }
    let arguments = [
        "s_client",
        "-quiet",
        "-no_ign_eof",
        "-verify_return_error",
        "-CAfile",
        &authority,
        "-servername",
        "localhost",
        "-connect",
        &to,
    ];
    if run("openssl", &arguments, &input).await {
        daemon.until_settled(1000).await;
    }
    assert!(daemon.stop().await.status.success());
}

// R-Y1
#[tokio::test]
async fn a_claim_of_gigabytes_holds_no_memory_and_harms_nobody_else() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, "tcp:127.0.0.1:0", &[SYSLOG, JSON, "buffer.memory=8MiB"]).await;
    let mut liar = daemon.connect_tcp("app").await;
    liar.write_all(b"4294967295 ").await.unwrap();
    liar.write_all(&vec![7; 16 << 20]).await.unwrap();
    // Every byte of this is six in JSON.
    let mut other = daemon.connect_tcp("app").await;
    for _ in 0..200 {
        other.write_all(&[&[1; 20_000][..], b"\n"].concat()).await.unwrap();
    }
    other.shutdown().await.unwrap();
    let status = daemon.until_settled(200).await;
    assert_eq!(number(&status, "/ledger/rejected/too_long/records"), 1, "{status:#}");
    drop(liar);
    assert!(daemon.stop().await.status.success());
}

// R-Y5
#[tokio::test]
async fn a_datagram_socket_follows_a_changed_format_and_goes_with_its_listener() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("hydrant.toml"), directory.path().join("log"));
    let write = |more: &str| {
        let log = format!("[listen.log]\naddress = 'unix-dgram:{}'\nprotocol = 'syslog'\n", socket.display());
        let other = format!("[listen.o]\naddress = 'unix:{}'\n", directory.path().join("other").display());
        let endpoint = sink.local.url();
        let text = if more == "gone" { other } else { format!("{other}{log}{more}") };
        std::fs::write(&file, format!("endpoint_url = '{endpoint}'\nlinger = '5ms'\n{text}")).unwrap();
    };
    write("");
    let mut command = crate::daemon::hydrant();
    command.env("HYDRANT_CONFIG", &file);
    let mut daemon = Daemon::run(command, tempfile::tempdir().unwrap(), []).await;
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect(&socket).unwrap();
    sender.send(b"<13>before").unwrap();
    daemon.until_settled(1).await;
    write("format = 'json'\n");
    daemon.signal("HUP");
    daemon.until_said("The configuration was read again.").await;
    sender.send(b"<13>after").unwrap();
    daemon.until_settled(2).await;
    write("gone");
    daemon.signal("HUP");
    daemon.until_said("Listening no more.").await;
    patiently("gone", async {
        while socket.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(sender.send(b"<13>too late").is_err());
    assert!(daemon.stop().await.status.success());
    let after = br#"{"facility":"user","severity":"notice","message":"after"}"#;
    assert_eq!(sink.delivered().await, [&b"<13>before\n"[..], after, b"\n"].concat());
}
