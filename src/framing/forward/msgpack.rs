//! MessagePack as far as finding values goes: what stands at the front of one, and where it ends.
//!
//! Source: <https://github.com/msgpack/msgpack/blob/master/spec.md>

/// What stands at the front of a value. Of text, bytes and extensions as many bytes follow, of an array
/// as many values, of a map twice as many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Head {
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f32),
    Double(f64),
    Str(usize),
    Bin(usize),
    Ext(i8, usize),
    Array(usize),
    Map(usize),
}

/// The byte that begins no value was found.
pub(super) const RESERVED: &str = "a byte is no MessagePack";

/// The head at `at` and the offset behind it; none while it is not whole.
///
/// # Errors
///
/// [`RESERVED`].
pub(super) fn head(bytes: &[u8], at: usize) -> Result<Option<(Head, usize)>, &'static str> {
    let Some(&first) = bytes.get(at) else { return Ok(None) };
    let at = at + 1;
    let low = |mask: u8| usize::from(first & mask);
    let found = match first {
        0x00..=0x7f => Some((Head::Uint(first.into()), at)),
        0x80..=0x8f => Some((Head::Map(low(0x0f)), at)),
        0x90..=0x9f => Some((Head::Array(low(0x0f)), at)),
        0xa0..=0xbf => Some((Head::Str(low(0x1f)), at)),
        0xc0 => Some((Head::Nil, at)),
        0xc1 => return Err(RESERVED),
        0xc2 => Some((Head::Bool(false), at)),
        0xc3 => Some((Head::Bool(true), at)),
        0xc4 => length::<1>(bytes, at).map(|(length, at)| (Head::Bin(length), at)),
        0xc5 => length::<2>(bytes, at).map(|(length, at)| (Head::Bin(length), at)),
        0xc6 => length::<4>(bytes, at).map(|(length, at)| (Head::Bin(length), at)),
        0xc7 => length::<1>(bytes, at).and_then(|(length, at)| extension(bytes, at, length)),
        0xc8 => length::<2>(bytes, at).and_then(|(length, at)| extension(bytes, at, length)),
        0xc9 => length::<4>(bytes, at).and_then(|(length, at)| extension(bytes, at, length)),
        0xca => fixed(bytes, at).map(|(bits, at)| (Head::Float(f32::from_be_bytes(bits)), at)),
        0xcb => fixed(bytes, at).map(|(bits, at)| (Head::Double(f64::from_be_bytes(bits)), at)),
        0xcc => fixed(bytes, at).map(|(number, at)| (Head::Uint(u8::from_be_bytes(number).into()), at)),
        0xcd => fixed(bytes, at).map(|(number, at)| (Head::Uint(u16::from_be_bytes(number).into()), at)),
        0xce => fixed(bytes, at).map(|(number, at)| (Head::Uint(u32::from_be_bytes(number).into()), at)),
        0xcf => fixed(bytes, at).map(|(number, at)| (Head::Uint(u64::from_be_bytes(number)), at)),
        0xd0 => fixed(bytes, at).map(|(number, at)| (Head::Int(i8::from_be_bytes(number).into()), at)),
        0xd1 => fixed(bytes, at).map(|(number, at)| (Head::Int(i16::from_be_bytes(number).into()), at)),
        0xd2 => fixed(bytes, at).map(|(number, at)| (Head::Int(i32::from_be_bytes(number).into()), at)),
        0xd3 => fixed(bytes, at).map(|(number, at)| (Head::Int(i64::from_be_bytes(number)), at)),
        0xd4..=0xd8 => extension(bytes, at, 1 << (first - 0xd4)),
        0xd9 => length::<1>(bytes, at).map(|(length, at)| (Head::Str(length), at)),
        0xda => length::<2>(bytes, at).map(|(length, at)| (Head::Str(length), at)),
        0xdb => length::<4>(bytes, at).map(|(length, at)| (Head::Str(length), at)),
        0xdc => length::<2>(bytes, at).map(|(length, at)| (Head::Array(length), at)),
        0xdd => length::<4>(bytes, at).map(|(length, at)| (Head::Array(length), at)),
        0xde => length::<2>(bytes, at).map(|(length, at)| (Head::Map(length), at)),
        0xdf => length::<4>(bytes, at).map(|(length, at)| (Head::Map(length), at)),
        0xe0..=0xff => Some((Head::Int(i8::from_be_bytes([first]).into()), at)),
    };
    Ok(found)
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<([u8; N], usize)> {
    Some((*bytes.get(at..)?.first_chunk()?, at + N))
}

/// A length of `N` bytes.
fn length<const N: usize>(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (digits, at) = fixed::<N>(bytes, at)?;
    Some((digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), at))
}

fn extension(bytes: &[u8], at: usize, length: usize) -> Option<(Head, usize)> {
    let (kind, at) = fixed(bytes, at)?;
    Some((Head::Ext(i8::from_be_bytes(kind), length), at))
}

/// A way over values to the end of the last, that needs neither the values nor memory for how they are
/// nested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walk {
    /// Values still to come.
    values: u64,
    /// Bytes still to come of the value that was begun.
    bytes: u64,
}

impl Walk {
    /// Over `values` values.
    pub(super) fn over(values: u64) -> Self {
        Self { values, bytes: 0 }
    }

    /// Goes on from `at`; returns how far it came, which is the end once [`Walk::is_done`].
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub(super) fn advance(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, &'static str> {
        loop {
            let there = bytes.len().saturating_sub(at);
            let passed = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(there);
            at += passed;
            self.bytes -= super::count(passed);
            if self.bytes > 0 || self.values == 0 {
                return Ok(at);
            }
            let Some((head, behind)) = head(bytes, at)? else { return Ok(at) };
            at = behind;
            self.values -= 1;
            match head {
                Head::Str(length) | Head::Bin(length) | Head::Ext(_, length) => {
                    self.bytes = super::count(length);
                }
                Head::Array(values) => self.expect(super::count(values))?,
                Head::Map(pairs) => self.expect(super::count(pairs) * 2)?,
                Head::Nil
                | Head::Bool(_)
                | Head::Int(_)
                | Head::Uint(_)
                | Head::Float(_)
                | Head::Double(_) => {}
            }
        }
    }

    fn expect(&mut self, values: u64) -> Result<(), &'static str> {
        self.values = self.values.checked_add(values).ok_or("an entry has too many values")?;
        Ok(())
    }

    pub(super) fn is_done(&self) -> bool {
        self.values == 0 && self.bytes == 0
    }

    /// Least number of bytes that are still to come.
    pub(super) fn least(&self) -> u64 {
        self.values.saturating_add(self.bytes)
    }
}

/// The value at `at` as bytes, and the offset behind it; none while it is not whole.
///
/// # Errors
///
/// What is wrong.
pub(super) fn value(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, &'static str> {
    let mut walk = Walk::over(1);
    let end = walk.advance(bytes, at)?;
    Ok(if walk.is_done() { bytes.get(at..end).map(|value| (value, end)) } else { None })
}

/// What text or bytes hold that begin at `at`, and the offset behind them; none for any other value, and
/// while they are not whole.
pub(super) fn text(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    match head(bytes, at) {
        Ok(Some((Head::Str(length) | Head::Bin(length), at))) => {
            let end = at.checked_add(length)?;
            Some((bytes.get(at..end)?, end))
        }
        _ => None,
    }
}

/// Appends `text` as a string of up to 65,535 bytes.
pub(super) fn put_str(out: &mut Vec<u8>, text: &[u8]) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    match u8::try_from(length) {
        Ok(length @ ..32) => out.push(0xa0 | length),
        Ok(length) => out.extend([0xd9, length]),
        Err(_) => {
            out.push(0xda);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend(text.iter().take(length.into()));
}
