//! `tls:` listeners and Unix sockets that look at who connects.
//!
//! The certificates below `tls/` are valid until 2126 and prove nothing to anybody: their keys are
//! here, but for the authority's, which nobody has any more.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hydrant::local::Options;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::daemon::{Daemon, Sink, lines, patiently};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls").join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

/// Settings of a listener whose files are called `cert`.
fn settings(cert: &Path, key: &Path) -> Vec<String> {
    vec![
        "listen.app.address=tls:127.0.0.1:0".to_owned(),
        format!("listen.app.cert={}", cert.display()),
        format!("listen.app.key={}", key.display()),
    ]
}

async fn start(sink: &Sink, settings: &[String]) -> Daemon {
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let settings = settings.iter().map(String::as_str);
    let directory = tempfile::tempdir().unwrap();
    Daemon::start_in(directory, ["linger=10ms", &*endpoint].into_iter().chain(settings)).await
}

async fn address(daemon: &Daemon) -> SocketAddr {
    let status = daemon.status().await;
    status["listeners"][0]["address"].as_str().unwrap().strip_prefix("tls:").unwrap().parse().unwrap()
}

/// A session as `who`, if anybody.
async fn connect(to: SocketAddr, who: Option<&str>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut authorities = RootCertStore::empty();
    authorities.add(certificate("authority.pem")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authorities);
    let config = match who {
        None => config.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            config.with_client_auth_cert(vec![certificate(&format!("{name}.pem"))], key).unwrap()
        }
    };
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    patiently("a session", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

// R-I1
#[tokio::test]
async fn records_come_over_tls_and_are_acknowledged_there() {
    let sink = Sink::start(Options::default()).await;
    let mut settings = settings(&file("first.pem"), &file("first.key"));
    settings.push("listen.app.acks=delivered".to_owned());
    let daemon = start(&sink, &settings).await;
    let stream = connect(address(&daemon).await, None).await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let all = lines(20_000, 200);
    let writing = tokio::spawn(async move {
        writer.write_all(&all).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut told = BufReader::new(reader).lines();
    let mut last = String::new();
    while let Some(line) = patiently("told", told.next_line()).await.unwrap_or(None) {
        last = line;
    }
    writing.await.unwrap();
    assert_eq!(last, "20000");
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 20_000 && delivered.values().all(|times| *times == 1));
}

// R-I2
#[tokio::test]
async fn a_producer_without_a_certificate_of_the_authority_is_refused_and_others_are_served() {
    let sink = Sink::start(Options::default()).await;
    let mut settings = settings(&file("first.pem"), &file("first.key"));
    settings.push(format!("listen.app.client_ca={}", file("authority.pem").display()));
    let daemon = start(&sink, &settings).await;
    let to = address(&daemon).await;
    let mut plain = TcpStream::connect(to).await.unwrap();
    plain.write_all(b"no handshake at all\n").await.unwrap();
    for who in [None, Some("stranger")] {
        // The end of the handshake is the client's: it hears of the refusal when it reads.
        if let Ok(mut stream) = connect(to, who).await {
            stream.write_all(b"refused\n").await.ok();
            assert!(patiently("refused", stream.read_u8()).await.is_err());
        }
    }
    let mut stream = connect(to, Some("producer")).await.unwrap();
    stream.write_all(b"admitted\n").await.unwrap();
    stream.shutdown().await.unwrap();
    daemon.until_settled(1).await;
    let ended = daemon.stop().await;
    assert_eq!(ended.said("Connection refused: no TLS session.").len(), 3);
    assert_eq!(sink.delivered().await, b"admitted\n");
}

/// The name that the listener's certificate gives.
async fn name(to: SocketAddr) -> &'static str {
    let stream = connect(to, None).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    ["first", "second"].into_iter().find(|name| certificate(&format!("{name}.pem")) == shown).unwrap()
}

// R-I3
#[tokio::test]
async fn a_changed_certificate_is_used_for_new_connections_and_drops_no_old_one() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let replace = |name: &str| {
        // As whoever renews certificates does: written beside, then moved, one file after the other.
        for (to, from) in [(&cert, format!("{name}.pem")), (&key, format!("{name}.key"))] {
            std::fs::copy(file(&from), to.with_extension("new")).unwrap();
            std::fs::rename(to.with_extension("new"), to).unwrap();
        }
    };
    replace("first");
    let daemon = start(&sink, &settings(&cert, &key)).await;
    let to = address(&daemon).await;
    let mut old = connect(to, None).await.unwrap();
    old.write_all(b"before\n").await.unwrap();
    assert_eq!(name(to).await, "first");

    std::fs::write(&cert, "no certificate").unwrap();
    patiently("said", async {
        while daemon.said(UNUSABLE) == 0 {
            assert_eq!(name(to).await, "first");
        }
    })
    .await;
    replace("second");
    patiently("the second certificate", async { while name(to).await != "second" {} }).await;
    old.write_all(b"after\n").await.unwrap();
    old.shutdown().await.unwrap();
    daemon.until_settled(2).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"before\nafter\n");
}

const UNUSABLE: &str = "The changed certificate can't be used: the one before it stays.";

// R-I1
#[tokio::test]
async fn a_listener_whose_files_are_no_certificate_does_not_start() {
    let check = async |cert: PathBuf, key: PathBuf, said: &str| {
        let mut command = crate::daemon::hydrant();
        command.args(["run", "--set", "delivery_stream_name=app", "--set", "admin.address=off"]);
        for setting in settings(&cert, &key) {
            command.args(["--set", &setting]);
        }
        let output = patiently("ended", command.output()).await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(said), "{text}");
    };
    let (first, key) = (file("first.pem"), file("first.key"));
    check(file("none.pem"), key.clone(), "none.pem is no certificate chain in PEM: ").await;
    check(key.clone(), key.clone(), "there is no certificate in it").await;
    check(first.clone(), first.clone(), "first.pem is no private key in PEM: ").await;
    check(first, file("second.key"), "second.key can't be used for TLS: ").await;
}

// R-I4
#[tokio::test]
async fn a_unix_socket_takes_records_of_those_users_and_groups_alone_that_it_names() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let rows = [
        (format!("allow_uids={uid}"), true),
        (format!("allow_gids={gid}"), true),
        (format!("allow_uids={}, {uid}", uid + 1), true),
        (format!("allow_uids={}", uid + 1), false),
        (format!("allow_gids={}", gid + 1), false),
    ];
    for (number, (setting, admitted)) in rows.iter().enumerate() {
        let socket = directory.path().join(format!("{number}.sock"));
        let settings =
            [format!("listen.app.address=unix:{}", socket.display()), format!("listen.app.{setting}")];
        let daemon = start(&sink, &settings).await;
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let record = format!("{setting}\n");
        if *admitted {
            stream.write_all(record.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        // Refused or done, it is closed.
        let closed = patiently("closed", stream.read_u8()).await;
        assert!(closed.is_err());
        if *admitted {
            daemon.until_settled(1).await;
        }
        let refused = daemon.stop().await.said("Connection refused: its user may not write here.").len();
        assert_eq!(refused, usize::from(!admitted), "{setting}");
    }
    let delivered = sink.lines().await;
    assert_eq!(delivered.len(), rows.iter().filter(|(_, admitted)| *admitted).count());
}

// R-I5
#[tokio::test]
async fn producers_that_never_finish_their_handshake_keep_nobody_waiting() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(&sink, &settings(&file("first.pem"), &file("first.key"))).await;
    let to = address(&daemon).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(to).await.unwrap());
    }
    let mut stream = connect(to, None).await.unwrap();
    stream.write_all(b"served\n").await.unwrap();
    stream.shutdown().await.unwrap();
    daemon.until_settled(1).await;
    // Their time runs out; the daemon's does too if they hold up its end.
    let mut byte = [0; 1];
    let ended = tokio::time::timeout(Duration::from_secs(60), silent[0].read(&mut byte)).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert!(daemon.stop().await.status.success());
}

// R-F3
#[tokio::test]
async fn a_chunk_is_answered_over_tls() {
    let sink = Sink::start(Options::default()).await;
    let mut settings = settings(&file("first.pem"), &file("first.key"));
    settings.push("listen.app.protocol=forward".to_owned());
    let daemon = start(&sink, &settings).await;
    let mut stream = connect(address(&daemon).await, None).await.unwrap();
    // ["t", 1, {"a": 2}, {"chunk": "id"}], once more and without an entry.
    let messages = b"\x94\xa1t\x01\x81\xa1a\x02\x81\xa5chunk\xa2id\x93\xa1t\x90\x81\xa5chunk\xa2no";
    stream.write_all(messages).await.unwrap();
    let mut told = [0; 16];
    patiently("answers", stream.read_exact(&mut told)).await.unwrap();
    assert_eq!(&told, b"\x81\xa3ack\xa2id\x81\xa3ack\xa2no");
    daemon.until_settled(1).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"{\"a\":2,\"time\":\"1970-01-01T00:00:01Z\",\"tag\":\"t\"}\n");
}
