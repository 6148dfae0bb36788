//! `forward`: Fluent Forward, which Fluentd, Fluent Bit and Docker's `fluentd` driver speak.
//!
//! Source: <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1>
//!
//! A message is a tag and one entry or many: one (*message mode*), an array of them (*forward*), a string
//! of them (*packed forward*), or the same as gzip. Each entry becomes a record, a line of JSON. A message is a
//! stream of entries here and nothing that is ever whole: each is taken as it comes, and of what is yet
//! unknown only an unfinished entry is held, so that a message may be larger than the daemon's memory.
//!
//! JSON is longer than `MessagePack`, sometimes a hundred times. So a call writes no more than the memory
//! that was reserved for it, and says when it would go on without another read ([`Framed::more`]).
//!
//! Refused: user names and passwords, zstd, and what Fluent Bit sends beside logs.

mod handshake;
mod inflate;
mod json;
mod msgpack;

use bytes::{Buf, Bytes, BytesMut};

pub use handshake::{NONCE_BYTES, SharedKey};

use super::{Delimiter, Framed, Framer, Reply, Skip, Skipped, count, offset};
use handshake::Handshake;
use inflate::{Inflater, Made};
use json::{Added, Stop, Writer};
use msgpack::{Head, Walk};

/// Longest tag.
const MAX_TAG_BYTES: usize = 1024;
/// Longest options of a message.
const MAX_OPTION_BYTES: usize = 16 * 1024;
/// Longest identifier of a chunk, with its head. Producers take 16 to 64 bytes.
const MAX_CHUNK_ID_BYTES: usize = 512;

const NO_PAIR: &str = "an entry is no pair of a time and a record";

/// Memory for records of a call that brings nothing new: the largest tag fits it.
const LEAST_ROOM: usize = 8 * 1024;
/// What an answer takes beside its bytes.
const REPLY_BYTES: usize = 64;
/// Bytes that a call makes out of gzip, after which others have their turn.
const MOST_MADE_BYTES: usize = 1024 * 1024;

/// What a listener's owner may choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Key of a record's time; empty for none.
    pub time_key: String,
    /// Key of its tag; empty for none.
    pub tag_key: String,
    /// Whether messages that ask for an answer get one.
    pub answers: bool,
}

/// Frames one connection.
#[derive(Debug)]
pub struct Forward {
    delimiter: Delimiter,
    /// Most bytes of a record, its delimiter included, and of its entry.
    max_record_bytes: usize,
    added: Added,
    answers: bool,
    state: State,
    message: Message,
    /// The way over an entry that was cut, and how far it has come.
    walk: Option<(Walk, usize)>,
    /// An entry that is not taken.
    skipping: Option<(Walk, Skipped)>,
    /// One that ended between two calls.
    abandoned: Option<Skipped>,
    /// Memory without which nothing goes on; 0 where a read will do.
    wanted: usize,
}

/// What comes next.
#[derive(Debug)]
enum State {
    /// A PING.
    Ping(Handshake),
    /// A message.
    Start,
    /// Entries of one.
    Body(Body),
    /// Its options.
    Options,
    /// Nothing: why.
    Over(&'static str),
}

/// Entries as they come.
#[derive(Debug)]
enum Body {
    /// One, its time and its record not in an array of their own.
    Bare,
    /// So many.
    Listed { left: usize },
    /// In so many bytes.
    Packed { left: usize, inflater: Option<Box<Inflater>>, is_begun: bool },
    /// Given up.
    Skipped { left: usize },
}

/// The message whose entries are read.
#[derive(Debug, Default)]
struct Message {
    /// Its tag as a member of each record.
    tag: Vec<u8>,
    has_options: bool,
    /// Some of its records are not held: its producer is to send it again.
    is_lost: bool,
}

/// What a call makes.
#[derive(Debug, Default)]
struct Turn {
    out: Vec<u8>,
    framed: Framed,
    /// Memory that there is.
    room: usize,
    /// What was taken of it for what stays.
    grown: usize,
    /// What was made out of gzip, in bytes.
    made: usize,
}

impl Turn {
    fn left(&self) -> usize {
        let used = self.out.len() + self.framed.ends.len() * size_of::<u32>() + self.grown;
        self.room.saturating_sub(used)
    }

    /// Takes `bytes` of the room for what stays, if they are there.
    fn grow(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.left();
        if fits {
            self.grown += bytes;
        }
        fits
    }
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// At once.
    On,
    /// After a read.
    Read,
    /// With other memory.
    Room,
}

/// What came of an attempt at an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// It is dealt with, so many bytes long.
    Done(usize),
    /// Its end is not there; so many bytes are of no more use.
    Part(usize),
    /// There is no memory for it.
    NoRoom,
}

impl Forward {
    /// A framer at the start of a message.
    #[must_use]
    pub fn new(delimiter: Delimiter, max_record_bytes: usize, settings: &Settings) -> Self {
        Self {
            delimiter,
            max_record_bytes,
            added: Added::new(&settings.time_key, &settings.tag_key),
            answers: settings.answers,
            state: State::Start,
            message: Message::default(),
            walk: None,
            skipping: None,
            abandoned: None,
            wanted: 0,
        }
    }

    /// The same at the start of a connection whose producer has to know `key`, and what it is told first;
    /// `chance` is nothing that anybody could foresee.
    #[must_use]
    pub fn with_key(self, key: SharedKey, chance: [u8; NONCE_BYTES]) -> (Self, Reply) {
        let handshake = Handshake::new(key, chance);
        let helo = Reply { records: 0, bytes: handshake.helo().into() };
        (Self { state: State::Ping(handshake), ..self }, helo)
    }

    /// Memory with which any entry can be taken.
    fn most_room(&self) -> usize {
        (Inflater::most_growth(self.max_record_bytes) + 64).max(2 * Inflater::NEW_BYTES)
    }

    fn step(&mut self, bytes: &[u8], at: &mut usize, turn: &mut Turn) -> Result<Step, &'static str> {
        let data = bytes.get(*at..).unwrap_or_default();
        match &mut self.state {
            State::Over(why) => Err(*why),
            State::Ping(handshake) => {
                let Some(answer) = handshake.answer(data)? else { return Ok(Step::Read) };
                *at += answer.end;
                turn.framed.replies.push(Reply { records: 0, bytes: answer.pong.into() });
                if !answer.is_known {
                    return Err("its shared key is not the listener's");
                }
                self.state = State::Start;
                Ok(Step::On)
            }
            State::Start => self.start(data, at, turn),
            State::Options => self.options(data, at, turn),
            State::Body(_) => self.body(data, at, turn),
        }
    }

    /// The tag, and how the entries come.
    fn start(&mut self, data: &[u8], at: &mut usize, turn: &mut Turn) -> Result<Step, &'static str> {
        let (parts, tag_at) = match msgpack::head(data, 0)? {
            None => return Ok(Step::Read),
            // A heartbeat.
            Some((Head::Nil, end)) => {
                *at += end;
                return Ok(Step::On);
            }
            Some((Head::Array(parts @ 2..=4), end)) => (parts, end),
            Some(_) => return Err("a message is no array of two to four"),
        };
        match msgpack::head(data, tag_at)? {
            None => return Ok(Step::Read),
            Some((Head::Str(length) | Head::Bin(length), _)) if length <= MAX_TAG_BYTES => {}
            Some((Head::Str(_) | Head::Bin(_), _)) => return Err("a tag is longer than 1024 bytes"),
            Some(_) => return Err("a tag is no string"),
        }
        let Some((tag, entries_at)) = msgpack::text(data, tag_at) else { return Ok(Step::Read) };
        let Some((entries, behind)) = msgpack::head(data, entries_at)? else { return Ok(Step::Read) };
        let (body, end, rest) = match entries {
            Head::Array(left) => (Body::Listed { left }, behind, parts - 2),
            Head::Str(left) | Head::Bin(left) => {
                (Body::Packed { left, inflater: None, is_begun: false }, behind, parts - 2)
            }
            Head::Int(_) | Head::Uint(_) | Head::Float(_) | Head::Double(_) | Head::Ext(..) if parts > 2 => {
                (Body::Bare, entries_at, parts - 3)
            }
            Head::Nil
            | Head::Bool(_)
            | Head::Int(_)
            | Head::Uint(_)
            | Head::Float(_)
            | Head::Double(_)
            | Head::Ext(..)
            | Head::Map(_) => return Err("a message has no entries"),
        };
        if rest > 1 {
            return Err("a message has more parts than the protocol knows");
        }
        let tag = self.added.tag(tag);
        if !turn.grow(tag.capacity()) {
            return Ok(Step::Room);
        }
        self.message = Message { tag, has_options: rest == 1, is_lost: false };
        self.state = State::Body(body);
        *at += end;
        Ok(Step::On)
    }

    fn body(&mut self, data: &[u8], at: &mut usize, turn: &mut Turn) -> Result<Step, &'static str> {
        let State::Body(mut body) = std::mem::replace(&mut self.state, State::Start) else {
            return Ok(Step::On);
        };
        let step = match &mut body {
            Body::Bare => match self.entry(data, true, turn)? {
                Entry::Done(length) => {
                    *at += length;
                    return Ok(self.end_of_entries());
                }
                entry @ (Entry::Part(_) | Entry::NoRoom) => Self::after(entry, at),
            },
            Body::Listed { left: 0 }
            | Body::Packed { left: 0, inflater: None, .. }
            | Body::Skipped { left: 0 } => {
                if self.is_within_entry() {
                    return Err("a chunk ends within an entry");
                }
                return Ok(self.end_of_entries());
            }
            Body::Listed { left } => {
                let entry = self.entry(data, false, turn)?;
                *left -= usize::from(matches!(entry, Entry::Done(_)));
                Self::after(entry, at)
            }
            Body::Skipped { left } => {
                let passed = data.len().min(*left);
                (*left, *at) = (*left - passed, *at + passed);
                if *left == 0 { Step::On } else { Step::Read }
            }
            Body::Packed { left, inflater: Some(inflater), .. } => {
                let data = data.get(..*left).unwrap_or(data);
                let (step, used) = self.compressed(inflater, data, *left == data.len(), turn)?;
                (*left, *at) = (*left - used, *at + used);
                match step {
                    Some(step) => step,
                    None if self.is_within_entry() => return Err("a chunk ends within an entry"),
                    None => return Ok(self.end_of_entries()),
                }
            }
            Body::Packed { inflater, is_begun: is_begun @ false, .. } => match data.first() {
                None => Step::Read,
                // No entry begins so, and what a chunk is is said behind it.
                Some(0x1f) if !turn.grow(Inflater::NEW_BYTES) => Step::Room,
                Some(first) => {
                    match first {
                        0x1f => *inflater = Some(Box::new(Inflater::new())),
                        0x28 => return Err("a chunk is compressed with something else than gzip"),
                        _ => {}
                    }
                    *is_begun = true;
                    Step::On
                }
            },
            Body::Packed { left, .. } => {
                let data = data.get(..*left).unwrap_or(data);
                let is_whole = data.len() == *left;
                let entry = self.entry(data, false, turn)?;
                if is_whole && matches!(entry, Entry::Part(_)) {
                    return Err("a chunk ends within an entry");
                }
                if let Entry::Done(length) | Entry::Part(length) = entry {
                    *left -= length;
                }
                Self::after(entry, at)
            }
        };
        self.state = State::Body(body);
        Ok(step)
    }

    /// An entry out of gzip, or some way towards one; returns how many bytes of `data` are used up. There is
    /// no step any more at the end, which can only be where `data` is all that is left, `is_whole`.
    fn compressed(
        &mut self,
        inflater: &mut Inflater,
        data: &[u8],
        is_whole: bool,
        turn: &mut Turn,
    ) -> Result<(Option<Step>, usize), &'static str> {
        match self.entry(inflater.made(), false, turn)? {
            Entry::Done(length) => {
                inflater.take(length);
                return Ok((Some(Step::On), 0));
            }
            Entry::NoRoom => return Ok((Some(Step::Room), 0)),
            Entry::Part(length) => inflater.take(length),
        }
        if is_whole && data.is_empty() && inflater.is_between_members() {
            return Ok((None, 0));
        }
        if turn.made >= MOST_MADE_BYTES {
            return Ok((Some(Step::Room), 0));
        }
        let (held, made) = (inflater.held(), inflater.made().len());
        match inflater.make(data, turn.left(), self.max_record_bytes)? {
            Made::Needs(_) => Ok((Some(Step::Room), 0)),
            Made::Some { used, cost } => {
                turn.grown += inflater.held().saturating_sub(held);
                turn.made += cost;
                let is_stuck = used == 0 && inflater.made().len() == made;
                match (is_stuck, is_whole) {
                    (false, _) => Ok((Some(Step::On), used)),
                    (true, false) => Ok((Some(Step::Read), 0)),
                    (true, true) => Err("a chunk ends within its gzip"),
                }
            }
        }
    }

    fn after(entry: Entry, at: &mut usize) -> Step {
        match entry {
            Entry::Done(length) => {
                *at += length;
                Step::On
            }
            Entry::Part(length) => {
                *at += length;
                Step::Read
            }
            Entry::NoRoom => Step::Room,
        }
    }

    fn end_of_entries(&mut self) -> Step {
        self.state = if self.message.has_options { State::Options } else { State::Start };
        Step::On
    }

    fn is_within_entry(&self) -> bool {
        self.walk.is_some() || self.skipping.is_some()
    }

    /// The entry at the front of `data`.
    fn entry(&mut self, data: &[u8], bare: bool, turn: &mut Turn) -> Result<Entry, &'static str> {
        if self.skipping.is_some() {
            return self.skip(data, &mut turn.framed.skipped);
        }
        if data.is_empty() {
            return Ok(Entry::Part(0));
        }
        if let Some((walk, walked)) = &mut self.walk {
            // The writer has not seen all of its head.
            if !bare && msgpack::head(data, 0)?.is_some_and(|(head, _)| head != Head::Array(2)) {
                return Err(NO_PAIR);
            }
            *walked = walk.advance(data, *walked)?;
            if count(*walked).saturating_add(walk.least()) > count(self.max_record_bytes) {
                return self.pass(Skip::TooLong, bare, data, turn);
            }
            if !walk.is_done() {
                return Ok(Entry::Part(0));
            }
        }
        let start = turn.out.len();
        if turn.out.capacity() == 0 {
            // What is not written to is no memory yet.
            turn.out.reserve_exact(turn.room);
        }
        let room = start + turn.left().saturating_sub(size_of::<u32>());
        let most = start + self.max_record_bytes;
        let mut writer = Writer { input: data, at: 0, out: &mut turn.out, limit: room.min(most) };
        let written = writer.entry(bare, &self.added, &self.message.tag).and_then(|()| {
            let end = writer.at;
            let record = writer.out.get(start..).unwrap_or_default();
            let delimiter = self.delimiter.after(record);
            writer.put(delimiter).map(|()| end)
        });
        match written {
            Ok(length) if length <= self.max_record_bytes => {
                self.walk = None;
                turn.framed.ends.push(offset(turn.out.len()));
                return Ok(Entry::Done(length));
            }
            Ok(_) | Err(_) => turn.out.truncate(start),
        }
        match written {
            Err(Stop::Full) if room < most => Ok(Entry::NoRoom),
            Ok(_) | Err(Stop::Full) => self.pass(Skip::TooLong, bare, data, turn),
            Err(Stop::Malformed) => self.pass(Skip::Malformed, bare, data, turn),
            Err(Stop::Broken(what)) => Err(what),
            Err(Stop::Short) => {
                let mut walk = Walk::over(if bare { 2 } else { 1 });
                let walked = walk.advance(data, 0)?;
                if count(walked).saturating_add(walk.least()) > count(self.max_record_bytes) {
                    return self.pass(Skip::TooLong, bare, data, turn);
                }
                self.walk = Some((walk, walked));
                Ok(Entry::Part(0))
            }
        }
    }

    /// Does not take the entry at the front of `data`.
    fn pass(&mut self, why: Skip, bare: bool, data: &[u8], turn: &mut Turn) -> Result<Entry, &'static str> {
        self.walk = None;
        self.skipping = Some((Walk::over(if bare { 2 } else { 1 }), Skipped { bytes: 0, why }));
        self.skip(data, &mut turn.framed.skipped)
    }

    fn skip(&mut self, data: &[u8], report: &mut Vec<Skipped>) -> Result<Entry, &'static str> {
        let Some((walk, skipped)) = &mut self.skipping else { return Ok(Entry::Part(0)) };
        let passed = walk.advance(data, 0)?;
        skipped.bytes += count(passed);
        if !walk.is_done() {
            return Ok(Entry::Part(passed));
        }
        // So that the reason does not depend on how much of it was seen at once.
        if skipped.why == Skip::Malformed && skipped.bytes > count(self.max_record_bytes) {
            skipped.why = Skip::TooLong;
        }
        report.push(*skipped);
        self.skipping = None;
        Ok(Entry::Done(passed))
    }

    /// What a message says of itself: of that, only whether it wants an answer.
    fn options(&mut self, data: &[u8], at: &mut usize, turn: &mut Turn) -> Result<Step, &'static str> {
        let mut walk = Walk::over(1);
        let end = walk.advance(data, 0)?;
        if count(end).saturating_add(walk.least()) > count(MAX_OPTION_BYTES) {
            return Err("the options of a message are longer than 16 KiB");
        }
        if !walk.is_done() {
            return Ok(Step::Read);
        }
        let (mut at_key, members) = match msgpack::head(data, 0)? {
            Some((Head::Map(members), at)) => (at, members),
            Some((Head::Nil, at)) => (at, 0),
            _ => return Err("the options of a message are no map"),
        };
        let mut chunk = None;
        for _ in 0..members {
            let Some((_, at_value)) = msgpack::value(data, at_key)? else { break };
            let Some((value, next)) = msgpack::value(data, at_value)? else { break };
            if msgpack::text(data, at_key).is_some_and(|(key, _)| key == b"chunk") {
                chunk = Some(value);
            }
            at_key = next;
        }
        if let Some(id) = chunk.filter(|_| self.answers && !self.message.is_lost) {
            if id.len() > MAX_CHUNK_ID_BYTES || msgpack::text(id, 0).is_none() {
                return Err("the name of a chunk is no string of at most 512 bytes");
            }
            let reply = [b"\x81\xa3ack", id].concat();
            if !turn.grow(reply.len() + REPLY_BYTES) {
                return Ok(Step::Room);
            }
            turn.framed.replies.push(Reply { records: turn.framed.ends.len(), bytes: reply.into() });
        }
        *at += end;
        self.message = Message::default();
        self.state = State::Start;
        Ok(Step::On)
    }
}

impl Framer for Forward {
    fn frame(&mut self, buffer: &mut BytesMut, seen: usize) -> Framed {
        let mut turn = Turn { room: self.overhead(buffer.len() - seen), ..Turn::default() };
        self.wanted = 0;
        turn.framed.skipped.extend(self.abandoned.take());
        let mut at = 0;
        let step = loop {
            match self.step(buffer, &mut at, &mut turn) {
                Ok(Step::On) => {}
                step => break step,
            }
        };
        buffer.advance(at);
        let is_ahead = at > 0 || turn.made > 0 || turn.left() < turn.room;
        match step {
            Ok(Step::Room) => {
                let (wanted, most) = if is_ahead {
                    (2 * buffer.len() + LEAST_ROOM, turn.room)
                } else {
                    (2 * turn.room, self.most_room())
                };
                self.wanted = wanted.min(most);
                turn.framed.more = true;
            }
            Ok(_) => {}
            Err(why) => {
                turn.framed.broken = Some(why);
                self.state = State::Over(why);
                *buffer = BytesMut::new();
            }
        }
        // No larger than its records, so that whoever holds them knows what they take.
        turn.out.shrink_to_fit();
        Framed { records: Bytes::from(turn.out), ..turn.framed }
    }

    /// What was not said to its end is no record.
    fn finish(&mut self, buffer: &mut BytesMut) -> Framed {
        let mut framed = Framed::default();
        framed.skipped.extend(self.abandoned.take());
        let rest = buffer.split();
        let begun = match &self.state {
            State::Body(Body::Packed { inflater: Some(inflater), .. }) => inflater.made().len(),
            State::Over(_) | State::Body(Body::Skipped { .. }) => 0,
            State::Ping(_) | State::Start | State::Body(_) | State::Options => rest.len(),
        };
        let skipping = self.skipping.take().map(|(_, skipped)| skipped);
        let is_entry = matches!(self.state, State::Body(_));
        let bytes = skipping.map_or(0, |skipped| skipped.bytes) + count(begun);
        // So that the reason does not depend on how much of it was seen at once.
        let why = match skipping.map(|skipped| skipped.why) {
            Some(why @ (Skip::Unfinished | Skip::NoRoom)) => why,
            _ if is_entry && bytes > count(self.max_record_bytes) => Skip::TooLong,
            _ => Skip::Incomplete,
        };
        if skipping.is_some() || begun > 0 {
            framed.skipped.push(Skipped { bytes, why });
        }
        self.state = State::Over("it has ended");
        framed
    }

    fn abandon(&mut self, buffer: &mut BytesMut, why: Skip) {
        const SLOW: &str = "it said half a message and no more, while memory was short";
        self.message.is_lost = true;
        self.wanted = 0;
        match &mut self.state {
            State::Body(Body::Packed { left, inflater: Some(inflater), .. }) => {
                // Nothing of the rest can be read without what is given up.
                let skipped = self.skipping.take().map(|(_, skipped)| skipped);
                let skipped = skipped.unwrap_or(Skipped { bytes: 0, why });
                self.abandoned =
                    Some(Skipped { bytes: skipped.bytes + count(inflater.made().len()), ..skipped });
                self.walk = None;
                self.state = State::Body(Body::Skipped { left: *left });
            }
            State::Body(Body::Skipped { .. }) => {}
            State::Body(body) => {
                if buffer.is_empty() || self.skipping.is_some() {
                    return;
                }
                let bare = matches!(body, Body::Bare);
                let most = match body {
                    Body::Packed { left, .. } => *left,
                    Body::Bare | Body::Listed { .. } | Body::Skipped { .. } => usize::MAX,
                };
                let data = buffer.get(..most).unwrap_or(buffer);
                self.walk = None;
                self.skipping = Some((Walk::over(if bare { 2 } else { 1 }), Skipped { bytes: 0, why }));
                let mut report = Vec::new();
                let result = self.skip(data, &mut report);
                self.abandoned = report.pop();
                let passed = match result {
                    Ok(Entry::Done(passed) | Entry::Part(passed)) => passed,
                    Ok(Entry::NoRoom) => 0,
                    Err(why) => {
                        self.state = State::Over(why);
                        buffer.len()
                    }
                };
                let is_done = matches!(result, Ok(Entry::Done(_)));
                match &mut self.state {
                    State::Body(Body::Packed { left, .. }) => *left -= passed,
                    State::Body(Body::Listed { left }) => *left -= usize::from(is_done),
                    State::Body(Body::Bare) if is_done => drop(self.end_of_entries()),
                    State::Ping(_) | State::Start | State::Body(_) | State::Options | State::Over(_) => {}
                }
                *buffer = BytesMut::from(buffer.get(passed..).unwrap_or_default());
            }
            State::Ping(_) | State::Start | State::Options => {
                if !buffer.is_empty() {
                    self.state = State::Over(SLOW);
                    *buffer = BytesMut::new();
                }
            }
            State::Over(_) => *buffer = BytesMut::new(),
        }
    }

    fn overhead(&self, bytes: usize) -> usize {
        self.wanted.max(2 * bytes + LEAST_ROOM)
    }

    fn held(&self) -> usize {
        let inflater = match &self.state {
            State::Body(Body::Packed { inflater: Some(inflater), .. }) => inflater.held(),
            State::Ping(_) | State::Start | State::Body(_) | State::Options | State::Over(_) => 0,
        };
        self.message.tag.capacity() + inflater
    }

    fn is_apart(&self) -> bool {
        true
    }

    fn dropped(&mut self) {
        self.message.is_lost = true;
    }
}

#[cfg(test)]
mod tests;
