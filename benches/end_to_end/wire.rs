//! What goes over the wire: records in each protocol, and what the daemon says to them.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::batch_records;

/// Bytes of records that producers of Fluent Forward and of HTTP send at a time.
const MESSAGE_BYTES: usize = 256 * 1024;
/// What Fluent Forward's answers name a message by, as long as Fluent Bit's names.
const CHUNK: &[u8] = b"0123456789abcdefghijkl==";

/// The parts of a `PutRecordBatch` body around the records' base64, commas apart.
pub(crate) const OPEN: &[u8] = br#"{"DeliveryStreamName":"bench","Records":["#;
pub(crate) const DATA: &[u8] = br#"{"Data":""#;
pub(crate) const DATA_END: &[u8] = br#""}"#;
pub(crate) const END: &[u8] = b"]}";

/// What the load speaks. Its records are of one size whatever it is, their LF included, which
/// the daemon adds where it is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// Records, each followed by LF
    Lines,
    /// Lengths and records
    Frames,
    /// Messages behind their length, taken as they are
    Syslog,
    /// `PackedForward` of maps with one member, which become JSON
    Forward,
    /// The same, each message answered before the next is sent
    ForwardAcks,
    /// POST requests of lines
    Http,
    /// `PutRecordBatch` requests, full ones
    Firehose,
}

/// What the daemon says to one write.
pub(crate) enum Reply {
    None,
    Bytes(Vec<u8>),
    Http,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lines => "lines",
            Self::Frames => "frames",
            Self::Syslog => "syslog",
            Self::Forward => "forward",
            Self::ForwardAcks => "forward-acks",
            Self::Http => "http",
            Self::Firehose => "firehose",
        })
    }
}

impl Protocol {
    /// What the listener is set to.
    pub(crate) fn settings(self) -> Vec<String> {
        match self {
            Self::Lines => Vec::new(),
            // Records are to be as long as they were sent.
            Self::Forward | Self::ForwardAcks => {
                ["protocol=forward", "time_key=", "tag_key="].map(|key| format!("listen.app.{key}")).into()
            }
            Self::Frames | Self::Syslog | Self::Http | Self::Firehose => {
                vec![format!("listen.app.protocol={self}")]
            }
        }
    }

    /// Records of one write, for which `write` bytes are asked where the protocol leaves that open.
    pub(crate) fn records_a_write(self, size: usize, write: usize) -> usize {
        match self {
            Self::Lines | Self::Frames | Self::Syslog => (write / size).max(1),
            Self::Forward | Self::ForwardAcks | Self::Http => (MESSAGE_BYTES / size).max(1),
            Self::Firehose => batch_records(size),
        }
    }

    /// One write, of records that say what `lines` of `size` bytes say; nothing of nothing.
    pub(crate) fn write(self, lines: &[u8], size: usize) -> Vec<u8> {
        if lines.is_empty() {
            return Vec::new();
        }
        let lines_of = lines.chunks_exact(size);
        let texts = lines_of.clone().map(|line| &line[..size - 1]);
        match self {
            Self::Lines => lines.to_vec(),
            Self::Frames => texts.flat_map(|text| [&length(text)[..], text].concat()).collect(),
            Self::Syslog => {
                let frame = |text: &[u8]| [format!("{} <14>", text.len()).as_bytes(), &text[4..]].concat();
                texts.flat_map(frame).collect()
            }
            Self::Forward | Self::ForwardAcks => {
                let entries: Vec<u8> = texts.flat_map(entry).collect();
                let mut message = [b"\x93\xa3app\xc6", &length(&entries)[..], &entries].concat();
                let asks = self == Self::ForwardAcks;
                let options = if asks { [b"\x81\xa5chunk\xb8", CHUNK].concat() } else { b"\x80".to_vec() };
                message.extend(options);
                message
            }
            Self::Http => request("content-type: application/x-ndjson", lines),
            Self::Firehose => {
                let mut body = OPEN.to_vec();
                for (index, line) in lines_of.enumerate() {
                    body.extend_from_slice(if index > 0 { b"," } else { b"" });
                    body.extend_from_slice(DATA);
                    base64_simd::STANDARD.encode_append(line, &mut body);
                    body.extend_from_slice(DATA_END);
                }
                body.extend_from_slice(END);
                request("x-amz-target: Firehose_20150804.PutRecordBatch", &body)
            }
        }
    }

    /// What the daemon says to it.
    pub(crate) fn reply(self) -> Reply {
        match self {
            Self::Lines | Self::Frames | Self::Syslog | Self::Forward => Reply::None,
            Self::ForwardAcks => Reply::Bytes([b"\x81\xa3ack\xb8", CHUNK].concat()),
            Self::Http | Self::Firehose => Reply::Http,
        }
    }
}

/// `[time, {"message": …}]`, of which JSON becomes that is as long as `text`.
fn entry(text: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| if matches!(byte, b'"' | b'\\') { b'-' } else { *byte };
    let said: Vec<u8> = text[br#"{"message":""}"#.len()..].iter().map(plain).collect();
    let mut entry = b"\x92\xce\x69\x28\xd0\x00\x81\xa7message\xdb".to_vec();
    entry.extend(length(&said));
    entry.extend(said);
    entry
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_be_bytes()
}

fn request(header: &str, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    let length = body.len();
    write!(request, "POST / HTTP/1.1\r\nhost: bench\r\ncontent-length: {length}\r\n{header}\r\n\r\n")
        .unwrap();
    request.extend_from_slice(body);
    request
}

/// How a sink with TLS proves itself, by the tests' certificates.
pub(crate) fn server() -> ServerConfig {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls");
    let certificate = CertificateDer::from_pem_file(files.join("first.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.join("first.key")).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}
