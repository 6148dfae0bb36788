//! What this program is when it is started again: the load, the sink, the floor.
//!
//! All three are blocking and single-minded, so that on a machine of few cores they leave the
//! subject as much of it as they can.

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use memchr::memchr_iter;
use rustls::{ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};

use super::process::now;
use super::wire::{DATA, DATA_END, END, OPEN, Protocol, Reply};
use super::{Text, batch_records, wire};

/// Bytes of one read of a request.
const READ_BYTES: usize = 256 * 1024;
/// Requests that the floor has under way, each on a connection of its own: as many as the daemon
/// has by default (`send.max_in_flight`), so that neither sleeps for an answer more than the other.
const IN_FLIGHT: usize = 8;
/// Longest that anything is waited for: only a failure takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that lie further apart than any compressor looks back: more than a record of Firehose's.
const NO_MEMORY: usize = 8 * 1024 * 1024;
/// What messages are made of.
const WORDS: [&str; 24] = [
    "request ",
    "handled ",
    "by ",
    "the ",
    "upstream ",
    "after ",
    "retry ",
    "cache ",
    "miss ",
    "for ",
    "key ",
    "session ",
    "expired ",
    "token ",
    "payload ",
    "accepted ",
    "queue ",
    "drained ",
    "connection ",
    "reset ",
    "timeout ",
    "while ",
    "reading ",
    "response ",
];
/// How often a socket that is not there yet is asked for.
const ASK_EVERY: Duration = Duration::from_micros(50);

/// A `PutRecord` body without its base64.
const SINGLE_FRAME: &[u8] = br#"{"DeliveryStreamName":"bench","Record":{"Data":""}}"#;

#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Role {
    /// Writes records
    #[command(hide = true)]
    Load {
        protocol: Protocol,
        socket: PathBuf,
        size: usize,
        lines: usize,
        connections: usize,
        write: usize,
        text: Text,
    },
    /// Answers as Firehose does and counts the bytes of record data
    #[command(hide = true)]
    Sink {
        #[arg(action = clap::ArgAction::Set)]
        tls: bool,
    },
    /// Reads lines of one size, delivers them, does nothing else
    #[command(hide = true)]
    Floor { socket: PathBuf, size: usize, port: u16 },
}

impl Role {
    /// Plays the role to its end.
    pub(crate) fn play(&self) {
        match self {
            Self::Load { protocol, socket, size, lines, connections, write, text } => {
                load(*protocol, socket, *size, *lines, *connections, *write, *text);
            }
            Self::Sink { tls } => sink(*tls),
            Self::Floor { socket, size, port } => floor(socket, *size, *port).unwrap(),
        }
    }
}

/// A connection to `socket`, as soon as someone listens there.
pub(crate) fn connect(socket: impl AsRef<Path>) -> UnixStream {
    let begin = now();
    loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "no one listens: {error}"),
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Sends one line and waits until it is said to have been received.
pub(crate) fn send_acknowledged(stream: &mut UnixStream, line: &[u8]) {
    stream.write_all(line).unwrap();
    let mut acknowledged = [0; 2];
    stream.read_exact(&mut acknowledged).unwrap();
    assert_eq!(&acknowledged, b"1\n");
}

fn ready(word: impl std::fmt::Display) {
    println!("{word}");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Writes `lines` records of `size` bytes, each write to the next of the connections in turn.
fn load(
    protocol: Protocol,
    socket: &Path,
    size: usize,
    lines: usize,
    connections: usize,
    write: usize,
    text: Text,
) {
    let mut random = fastrand::Rng::with_seed(7);
    let line = || match text {
        Text::Random => {
            let text = std::iter::repeat_with(|| random.u8(b' '..=b'~')).take(size - 1);
            text.chain([b'\n']).collect::<Vec<u8>>()
        }
        Text::Json => logged(size, &mut random),
    };
    let whole = protocol.records_a_write(size, write);
    // What comes again must do so further off than a compressor looks back.
    let writes = if text == Text::Json { (NO_MEMORY / (whole * size)).max(1) } else { 1 };
    let all: Vec<u8> = std::iter::repeat_with(line).take(whole * writes).flatten().collect();
    let blocks: Vec<_> = all.chunks(whole * size).map(|lines| protocol.write(lines, size)).collect();
    let last = lines % whole;
    let last = protocol.write(&all[..last * size], size);
    let streams: Vec<UnixStream> = (0..connections).map(|_| connect(socket)).collect();
    let mut streams: Vec<_> = streams.into_iter().map(BufReader::new).collect();
    ready("ready");
    let mut left = lines;
    for (number, block) in (0..).zip(blocks.iter().cycle()) {
        let stream = &mut streams[number % connections];
        let block = if left < whole { &last } else { block };
        stream.get_mut().write_all(block).unwrap();
        pass_reply(protocol, stream).unwrap();
        left -= left.min(whole);
        if left == 0 {
            break;
        }
    }
}

/// Reads what the daemon says to a write.
fn pass_reply(protocol: Protocol, stream: &mut BufReader<UnixStream>) -> io::Result<()> {
    match protocol.reply() {
        Reply::None => Ok(()),
        Reply::Bytes(bytes) => {
            let mut reply = vec![0; bytes.len()];
            stream.read_exact(&mut reply)?;
            assert_eq!(reply, bytes);
            Ok(())
        }
        Reply::Http => pass_answer(stream),
    }
}

/// A line of `size` bytes, at least 150, as a service might log it.
fn logged(size: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let level = random.choice(["info", "info", "info", "warn", "error"]).unwrap();
    let path = random.choice(["/cart", "/checkout", "/search", "/login", "/items", "/users"]).unwrap();
    let status = random.choice([200, 200, 200, 204, 302, 404, 500]).unwrap();
    let (time, item, took, user) =
        (random.u32(..1_000_000), random.u32(..50_000), random.u32(1..900), random.u32(..50_000));
    let request = random.u64(..);
    let mut line = format!(
        "{{\"time\":1764{time:09},\"level\":\"{level}\",\"path\":\"{path}/{item}\",\"status\":{status},\
         \"took_ms\":{took},\"user\":{user},\"request\":\"{request:016x}\",\"message\":\""
    );
    while line.len() < size {
        line.push_str(random.choice(WORDS).unwrap());
    }
    line.truncate(size - 3);
    line.push_str("\"}\n");
    line.into_bytes()
}

fn sink(tls: bool) {
    let config = tls.then(|| Arc::new(wire::server()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let bytes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&bytes);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (counted, config) = (Arc::clone(&counted), config.clone());
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || match config {
                None => answer(stream, &counted),
                Some(config) => {
                    let session = ServerConnection::new(config).map_err(io::Error::other)?;
                    answer(StreamOwned::new(session, stream), &counted)
                }
            });
        }
    });
    ready(port);
    println!("{}", bytes.load(Ordering::SeqCst));
}

/// Takes requests and answers each with what Firehose would, all records delivered, and counts the
/// bytes of record data. A connection that breaks is the subject's business: what was not answered is
/// not counted.
fn answer(stream: impl Read + Write, counted: &AtomicUsize) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(READ_BYTES, stream);
    let (mut known, mut answer) = (None, Vec::new());
    while let Some(head) = Head::read(&mut reader)? {
        if !head.is_put {
            // The daemon's monitoring, which is to do without.
            head.read_body(&mut reader, |_| {})?;
            reader.get_mut().write_all(DENIED)?;
            continue;
        }
        // Base64 and the names around it have no braces: one opens the body and one each record. It has
        // no equal signs either but those that pad a record.
        let (mut braces, mut padding) = (0, 0);
        head.read_body(&mut reader, |bytes| {
            braces += memchr_iter(b'{', bytes).count();
            padding += memchr_iter(b'=', bytes).count();
        })?;
        let shape = (head.is_batch, braces - 1);
        let frame = if head.is_batch { frame_bytes(shape.1) } else { SINGLE_FRAME.len() };
        let data = (head.length - frame) / 4 * 3 - padding;
        if known.replace(shape) != Some(shape) {
            answer = response(shape.0, shape.1);
        }
        reader.get_mut().write_all(&answer)?;
        counted.fetch_add(data, Ordering::SeqCst);
    }
    Ok(())
}

/// What of a batch's body is no base64.
fn frame_bytes(records: usize) -> usize {
    OPEN.len() + records * (DATA.len() + DATA_END.len()) + records - 1 + END.len()
}

/// What Firehose answers, head and body. Its RecordIds are 224 characters long.
fn response(is_batch: bool, records: usize) -> Vec<u8> {
    let id = format!(r#""RecordId":"{}""#, "Ab3/".repeat(56));
    let body = if is_batch {
        let entries = vec![format!("{{{id}}}"); records].join(",");
        format!(r#"{{"Encrypted":false,"FailedPutCount":0,"RequestResponses":[{entries}]}}"#)
    } else {
        format!(r#"{{"Encrypted":false,{id}}}"#)
    };
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What is answered to whatever puts no records.
const DENIED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/x-amz-json-1.1\r\n\
    content-length: 34\r\n\r\n{\"__type\":\"AccessDeniedException\"}";

/// What must be known of a request or an answer to read its body.
struct Head {
    length: usize,
    is_put: bool,
    is_batch: bool,
}

impl Head {
    /// The next head, `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let (mut head, mut line) = (Self { length: 0, is_put: false, is_batch: false }, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let Some((name, value)) = line.split_once(": ") else {
                if line == "\r\n" {
                    return Ok(Some(head));
                }
                continue;
            };
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.trim().parse().map_err(io::Error::other)?;
            } else if name.eq_ignore_ascii_case("x-amz-target") {
                head.is_batch = value.trim().ends_with(".PutRecordBatch");
                head.is_put = head.is_batch || value.trim().ends_with(".PutRecord");
            }
        }
    }

    /// Shows the body to `see`, part by part.
    fn read_body(&self, reader: &mut impl BufRead, mut see: impl FnMut(&[u8])) -> io::Result<()> {
        let mut left = self.length;
        while left > 0 {
            let bytes = reader.fill_buf()?;
            let bytes = &bytes[..bytes.len().min(left)];
            if bytes.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            see(bytes);
            let seen = bytes.len();
            left -= seen;
            reader.consume(seen);
        }
        Ok(())
    }
}

/// The work that no sender of single records can leave out: the copies in and out of the kernel,
/// the answers' included, base64 and SHA-256. It knows the lines' size and looks for no ends,
/// keeps no account and signs nothing.
fn floor(socket: &Path, size: usize, port: u16) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let sink = |_| {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        Ok((stream.try_clone()?, BufReader::with_capacity(READ_BYTES, stream)))
    };
    let mut sinks = (0..IN_FLIGHT).map(sink).collect::<io::Result<Vec<_>>>()?;
    let (mut lines, _) = listener.accept()?;
    let records = batch_records(size);
    let mut data = vec![0; records * size];
    let mut request = Vec::new();
    let length = frame_bytes(records) + records * size.div_ceil(3) * 4;
    let mut sent = 0;
    loop {
        match lines.read_exact(&mut data) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        request.clear();
        write!(
            request,
            "POST / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: {length}\r\n\
             x-amz-target: Firehose_20150804.PutRecordBatch\r\n\r\n"
        )?;
        let head = request.len();
        request.extend_from_slice(OPEN);
        for (index, record) in data.chunks_exact(size).enumerate() {
            if index > 0 {
                request.push(b',');
            }
            request.extend_from_slice(DATA);
            base64_simd::STANDARD.encode_append(record, &mut request);
            request.extend_from_slice(DATA_END);
        }
        request.extend_from_slice(END);
        assert_eq!(request.len() - head, length);
        black_box(Sha256::digest(&request[head..]));
        let (sink, answers) = &mut sinks[sent % IN_FLIGHT];
        if sent >= IN_FLIGHT {
            pass_answer(answers)?;
        }
        sink.write_all(&request)?;
        sent += 1;
    }
    sinks[..sent.min(IN_FLIGHT)].iter_mut().try_for_each(|(_, answers)| pass_answer(answers))
}

fn pass_answer(answers: &mut impl BufRead) -> io::Result<()> {
    let answer = Head::read(answers)?.ok_or(ErrorKind::UnexpectedEof)?;
    answer.read_body(answers, |bytes| {
        black_box(bytes);
    })
}
