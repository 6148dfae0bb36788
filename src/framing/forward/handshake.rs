//! HELO, PING, PONG: both sides prove that they know the key without saying it.
//!
//! Source: <https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1#authentication>

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha512};

use super::msgpack::{Head, head, put_str, text};

/// Longest PING that is read.
const MAX_PING_BYTES: usize = 4096;

/// What the daemon calls itself. Fluentd refuses a server that has the client's own name, so it is not the
/// host's, which a sidecar and its producer share.
const NAME: &[u8] = b"hydrant";

/// Bytes of chance in a nonce.
pub const NONCE_BYTES: usize = 16;

/// A key that producers and the listener share.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedKey(Bytes);

impl SharedKey {
    /// The key made of `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// Says nothing of the key.
impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(…)")
    }
}

/// The handshake of one connection.
#[derive(Debug, Clone)]
pub(super) struct Handshake {
    key: SharedKey,
    /// In hexadecimal digits, since some clients take it for text.
    nonce: [u8; NONCE_BYTES * 2],
}

/// What came of a PING.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Where it ends.
    pub(super) end: usize,
    pub(super) pong: Vec<u8>,
    pub(super) is_known: bool,
}

impl Handshake {
    pub(super) fn new(key: SharedKey, chance: [u8; NONCE_BYTES]) -> Self {
        let mut nonce = [0; NONCE_BYTES * 2];
        nonce.copy_from_slice(hex::encode(chance).as_bytes());
        Self { key, nonce }
    }

    /// What the connection begins with.
    pub(super) fn helo(&self) -> Vec<u8> {
        let mut helo = vec![0x92];
        put_str(&mut helo, b"HELO");
        helo.push(0x83);
        put_str(&mut helo, b"nonce");
        // Fluentd sends bytes here, and there are clients that take nothing else.
        helo.extend([0xc4, 32]);
        helo.extend(self.nonce);
        put_str(&mut helo, b"auth");
        // Of bytes some clients would ask for a user, empty or not.
        put_str(&mut helo, b"");
        put_str(&mut helo, b"keepalive");
        helo.push(0xc3);
        helo
    }

    /// Answers the PING at the front of `bytes`; none while it is not whole.
    ///
    /// # Errors
    ///
    /// What is there in place of one.
    pub(super) fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, &'static str> {
        const NO_PING: &str = "its first message is no PING, and this listener asks for a shared key";
        let there = bytes.get(..MAX_PING_BYTES).unwrap_or(bytes);
        let (first, mut at) = match head(there, 0)? {
            None => return Ok(None),
            Some((Head::Array(6), at)) => (there, at),
            Some(_) => return Err(NO_PING),
        };
        let mut parts = [&[][..]; 6];
        for part in &mut parts {
            match head(first, at)? {
                Some((Head::Str(length) | Head::Bin(length), behind))
                    if behind + length <= MAX_PING_BYTES => {}
                // No user is asked for, so what stands there is the client's affair.
                Some((Head::Nil, behind)) => {
                    at = behind;
                    continue;
                }
                Some(_) => return Err(NO_PING),
                None if bytes.len() >= MAX_PING_BYTES => return Err(NO_PING),
                None => return Ok(None),
            }
            let Some((found, behind)) = text(first, at) else { return Ok(None) };
            (*part, at) = (found, behind);
        }
        let [ping, host, salt, digest, ..] = parts;
        if ping != b"PING" {
            return Err(NO_PING);
        }
        let is_known = is_same(&self.digest(salt, host), digest);
        let mut pong = vec![0x95];
        put_str(&mut pong, b"PONG");
        pong.push(if is_known { 0xc3 } else { 0xc2 });
        if is_known {
            put_str(&mut pong, b"");
            put_str(&mut pong, NAME);
            put_str(&mut pong, &self.digest(salt, NAME));
        } else {
            put_str(&mut pong, b"shared_key mismatch");
            put_str(&mut pong, b"");
            put_str(&mut pong, b"");
        }
        Ok(Some(Answer { end: at, pong, is_known }))
    }

    fn digest(&self, salt: &[u8], host: &[u8]) -> Vec<u8> {
        let mut hash = Sha512::new();
        for part in [salt, host, &self.nonce, &self.key.0] {
            hash.update(part);
        }
        hex::encode(hash.finalize()).into()
    }
}

/// Whether two digests are the same, in a time that does not tell where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).fold(0, |differ, (one, other)| differ | (one ^ other)) == 0
}

/// What a client does with HELO.
#[cfg(test)]
pub(super) mod client {
    use super::*;

    /// The PING of a client called `host` that holds `key` and was told `helo`.
    pub(crate) fn ping(helo: &[u8], key: &[u8], host: &[u8]) -> Vec<u8> {
        let nonce = helo.windows(7).position(|part| part == b"\xa5nonce\xc4").unwrap() + 8;
        let mut hash = Sha512::new();
        for part in [&b"salt"[..], host, &helo[nonce..nonce + 32], key] {
            hash.update(part);
        }
        let mut ping = vec![0x96];
        for part in [&b"PING"[..], host, b"salt", hex::encode(hash.finalize()).as_bytes(), b"", b""] {
            put_str(&mut ping, part);
        }
        ping
    }
}
