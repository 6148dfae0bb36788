//! The bytes of a segment: its header, and frames. `docs/SPOOL_FORMAT.md` is the definition.
//!
//! Decoders are total: any bytes give a value or a typed error, and nothing is allocated by a
//! length that no CRC vouches for.

use std::ops::Range;

use super::crc::crc32c;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a frame before the lengths of its records.
pub const FRAME_HEADER_BYTES: usize = 52;
/// No frame is longer, its header included.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;
/// No sequence, number or generation is as high: a spool would count for centuries to get there, and what says
/// so is damaged. So they can be added to.
pub(super) const BEYOND: u64 = 1 << 63;
/// Name of a settled segment that is kept to be written over.
pub(super) const SPARE: &str = "segment-spare";
/// How a frame begins.
pub(super) const FRAME_MAGIC: [u8; 4] = *b"HYF\x01";

const SEGMENT_MAGIC: [u8; 8] = *b"hydspool";

/// What stands at the front of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The spool that the segment belongs to.
    pub spool: u64,
    /// Its number when it was written, whatever its file is called now.
    pub number: u64,
    /// Sequence of its first record.
    pub first: u64,
    /// When it was created, in Unix milliseconds.
    pub created_ms: u64,
    /// Generation of the watermark then: an older watermark knows nothing of this segment.
    pub generation: u64,
    /// Where its frames end; 0 where they end with the file.
    pub end: u32,
}

/// Why bytes are no header of a segment or no slot of a watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Written by a later hydrant: to be left untouched.
    #[error("it has format version {0}, and this hydrant reads version {VERSION}")]
    Version(u32),
    /// Too short, or its CRC does not fit.
    #[error("it is damaged")]
    Damaged,
}

impl SegmentHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend(prefix(SEGMENT_MAGIC));
        for field in [self.spool, self.number, self.first, self.created_ms, self.generation] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(self.end.to_le_bytes());
        bytes.extend(crc32c(&[&bytes]).to_le_bytes());
        let mut header = [0; SEGMENT_HEADER_BYTES];
        header.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        header
    }

    /// The header at the front of `bytes`.
    ///
    /// # Errors
    ///
    /// See [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        check_prefix(bytes, SEGMENT_MAGIC)?;
        let (header, _) = bytes.split_at_checked(SEGMENT_HEADER_BYTES).ok_or(HeaderError::Damaged)?;
        let (covered, crc) = header.split_at_checked(60).ok_or(HeaderError::Damaged)?;
        let mut fields = Fields(covered.get(16..).unwrap_or_default());
        let header = Self {
            spool: fields.u64().ok_or(HeaderError::Damaged)?,
            number: fields.u64().ok_or(HeaderError::Damaged)?,
            first: fields.u64().ok_or(HeaderError::Damaged)?,
            created_ms: fields.u64().ok_or(HeaderError::Damaged)?,
            generation: fields.u64().ok_or(HeaderError::Damaged)?,
            end: fields.u32().ok_or(HeaderError::Damaged)?,
        };
        let sound = header.number.max(header.first).max(header.generation) < BEYOND;
        let intact = Fields(crc).u32() == Some(crc32c(&[covered]));
        (intact && sound).then_some(header).ok_or(HeaderError::Damaged)
    }

    /// What of a file of `length` bytes was written; behind it lies what was in the file before.
    #[must_use]
    pub fn written(&self, length: u64) -> u64 {
        if self.end == 0 { length } else { length.min(u64::from(self.end)) }
    }

    /// What says where the frames end: [`SegmentHeader::end`] and the CRC, and where in the header that is.
    pub(super) fn mark(&self) -> (u64, [u8; 8]) {
        let header = self.encode();
        let mut mark = [0; 8];
        mark.iter_mut().rev().zip(header.into_iter().rev()).for_each(|(to, byte)| *to = byte);
        ((header.len() - mark.len()) as u64, mark)
    }
}

/// The 16 bytes that are the same in every version: magic, version, and their CRC.
pub(super) fn prefix(magic: [u8; 8]) -> Vec<u8> {
    let mut bytes = Vec::from(magic);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(crc32c(&[&bytes]).to_le_bytes());
    bytes
}

/// Checks the 16 bytes that [`prefix`] makes.
pub(super) fn check_prefix(bytes: &[u8], magic: [u8; 8]) -> Result<(), HeaderError> {
    let (covered, rest) = bytes.split_at_checked(12).ok_or(HeaderError::Damaged)?;
    let intact = Fields(rest).u32() == Some(crc32c(&[covered])) && covered.starts_with(&magic);
    let version = covered.get(8..).and_then(|version| Fields(version).u32());
    match version.filter(|_| intact).ok_or(HeaderError::Damaged)? {
        VERSION => Ok(()),
        other => Err(HeaderError::Version(other)),
    }
}

/// What stands before the records of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The spool that the frame belongs to.
    pub spool: u64,
    /// Index of the delivery stream; 0.
    pub stream: u16,
    /// Sequence of the first record.
    pub first: u64,
    /// When the records were received, in Unix milliseconds.
    pub received_ms: u64,
    /// Number of records, at least 1.
    pub records: u32,
    /// Bytes of the records' lengths.
    pub lengths_bytes: u32,
    /// Bytes of the records.
    pub data_bytes: u32,
    payload_crc: u32,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They end before the frame does.
    #[error("it ends early")]
    Short,
    /// No intact frame header.
    #[error("its header is damaged")]
    Header,
    /// The header is intact and belongs to another spool.
    #[error("it belongs to another spool")]
    Foreign,
    /// The header is intact, what follows is not.
    #[error("its records are damaged")]
    Payload,
}

/// Why records can't be a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// There is none.
    #[error("a frame holds at least one record")]
    Empty,
    /// The ends don't ascend to the length of the data.
    #[error("the ends of the records do not fit their bytes")]
    Ends,
    /// Together they are more than [`MAX_FRAME_BYTES`].
    #[error("a frame has at most {MAX_FRAME_BYTES} bytes")]
    TooLarge,
}

impl FrameHeader {
    /// The header at the front of `bytes`; its lengths can be trusted.
    ///
    /// # Errors
    ///
    /// [`FrameError::Short`] or [`FrameError::Header`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (header, _) = bytes.split_at_checked(FRAME_HEADER_BYTES).ok_or(FrameError::Short)?;
        let (covered, crc) = header.split_at_checked(48).ok_or(FrameError::Short)?;
        let intact = covered.starts_with(&FRAME_MAGIC) && Fields(crc).u32() == Some(crc32c(&[covered]));
        let header = Self::fields(covered).filter(|_| intact).ok_or(FrameError::Header)?;
        let sound = header.records > 0
            && header.records <= header.lengths_bytes
            && header.first < BEYOND
            && header.frame_bytes() <= MAX_FRAME_BYTES as u64;
        sound.then_some(header).ok_or(FrameError::Header)
    }

    /// Flags other than zero are a frame that this version does not know.
    fn fields(covered: &[u8]) -> Option<Self> {
        let mut fields = Fields(covered.get(4..)?);
        (fields.u16()? == 0).then_some(())?;
        let stream = fields.u16()?;
        let [spool, first, received_ms] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let [records, lengths_bytes, data_bytes, payload_crc] =
            [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
        Some(Self { spool, stream, first, received_ms, records, lengths_bytes, data_bytes, payload_crc })
    }

    /// Sequences of the frame's records.
    #[must_use]
    pub fn sequences(&self) -> Range<u64> {
        self.first..self.first.saturating_add(u64::from(self.records))
    }

    /// Bytes after the header.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        u64::from(self.lengths_bytes) + u64::from(self.data_bytes)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + self.payload_bytes()
    }

    /// The end of each record, from the verified bytes that follow the header.
    ///
    /// # Errors
    ///
    /// [`FrameError::Short`] or [`FrameError::Payload`].
    pub fn decode_ends(&self, payload: &[u8]) -> Result<Box<[u32]>, FrameError> {
        let length = usize::try_from(self.payload_bytes()).map_err(|_| FrameError::Short)?;
        let payload = payload.get(..length).ok_or(FrameError::Short)?;
        if crc32c(&[payload]) != self.payload_crc {
            return Err(FrameError::Payload);
        }
        let mut lengths = payload.get(..self.lengths_bytes as usize).ok_or(FrameError::Short)?;
        // At most `lengths_bytes`, which lie in memory already.
        let mut ends = Vec::with_capacity(self.records as usize);
        let mut end = 0_u32;
        for _ in 0..self.records {
            let length = take_varint(&mut lengths).and_then(|length| u32::try_from(length).ok());
            end = length.and_then(|length| end.checked_add(length)).ok_or(FrameError::Payload)?;
            ends.push(end);
        }
        let whole = lengths.is_empty() && end == self.data_bytes;
        whole.then(|| ends.into_boxed_slice()).ok_or(FrameError::Payload)
    }
}

/// What is written before `data` to make it a frame: the header and the records' lengths.
///
/// # Errors
///
/// See [`EncodeError`].
pub fn encode_front(
    spool: u64,
    first: u64,
    received_ms: u64,
    ends: &[u32],
    data: &[u8],
) -> Result<Vec<u8>, EncodeError> {
    let records = u32::try_from(ends.len()).map_err(|_| EncodeError::TooLarge)?;
    let data_bytes = u32::try_from(data.len()).map_err(|_| EncodeError::TooLarge)?;
    if ends.last().ok_or(EncodeError::Empty)? != &data_bytes {
        return Err(EncodeError::Ends);
    }
    let mut front = Vec::with_capacity(FRAME_HEADER_BYTES + 2 * ends.len() + 8);
    front.resize(FRAME_HEADER_BYTES, 0);
    let mut start = 0;
    for end in ends {
        put_varint(&mut front, u64::from(end.checked_sub(start).ok_or(EncodeError::Ends)?));
        start = *end;
    }
    if front.len() + data.len() > MAX_FRAME_BYTES {
        return Err(EncodeError::TooLarge);
    }
    let lengths = front.get(FRAME_HEADER_BYTES..).unwrap_or_default();
    let lengths_bytes = u32::try_from(lengths.len()).map_err(|_| EncodeError::TooLarge)?;
    let payload_crc = crc32c(&[lengths, data]);
    let mut header = Vec::with_capacity(FRAME_HEADER_BYTES);
    header.extend(FRAME_MAGIC);
    header.extend([0; 4]);
    header.extend([spool, first, received_ms].into_iter().flat_map(u64::to_le_bytes));
    header.extend([records, lengths_bytes, data_bytes, payload_crc].into_iter().flat_map(u32::to_le_bytes));
    header.extend(crc32c(&[&header]).to_le_bytes());
    front.iter_mut().zip(header).for_each(|(to, byte)| *to = byte);
    Ok(front)
}

/// Appends `value` as a varint.
pub(super) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return bytes.push(low & 0x7f);
        }
        bytes.push(low | 0x80);
    }
}

/// Takes a varint off the front of `bytes`; `None` where there is none of at most 64 bits.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Takes little-endian integers off the front of bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// The file name of segment `number`.
#[must_use]
pub fn segment_name(number: u64) -> String {
    format!("{number:020}.segment")
}

/// What a file of the directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A segment with this number in its name.
    Segment(u64),
    /// A finished copy of a damaged stretch.
    Corrupt,
    /// An unfinished one.
    Partial,
    /// What was a segment, and is to be one again.
    Spare,
    /// The watermark's file, the lock, or somebody else's.
    Other,
}

impl FileKind {
    /// Recognises `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let number = |stem: &str| {
            let decimal = stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit());
            decimal.then(|| stem.parse().ok()).flatten().filter(|number| *number < BEYOND)
        };
        if name == SPARE {
            return Self::Spare;
        }
        if let Some(number) = name.strip_suffix(".segment").and_then(number) {
            return Self::Segment(number);
        }
        let Some((stem, rest)) = name.split_once(".segment.") else { return Self::Other };
        let (place, partial) = match rest.strip_suffix(".partial") {
            Some(place) => (place, true),
            None => (rest, false),
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let ours = place
            .strip_suffix(".corrupt")
            .and_then(|place| place.split_once('-'))
            .is_some_and(|(offset, bytes)| is_number(offset) && is_number(bytes));
        match (number(stem).is_some() && ours, partial) {
            (true, false) => Self::Corrupt,
            (true, true) => Self::Partial,
            (false, _) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_frame_reads_back_as_it_was_written(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..40),
            spool: u64, first in 0..u64::MAX / 2, received_ms: u64,
        ) {
            let data = records.concat();
            let ends: Vec<u32> = records.iter().scan(0, |end, record| {
                *end += u32::try_from(record.len()).unwrap();
                Some(*end)
            }).collect();
            let mut bytes = encode_front(spool, first, received_ms, &ends, &data).unwrap();
            bytes.extend_from_slice(&data);
            let header = FrameHeader::decode(&bytes).unwrap();
            prop_assert_eq!(header.frame_bytes(), bytes.len() as u64);
            prop_assert_eq!((header.spool, header.first, header.received_ms), (spool, first, received_ms));
            let payload = &bytes[FRAME_HEADER_BYTES..];
            prop_assert_eq!(&*header.decode_ends(payload).unwrap(), &*ends);
            prop_assert_eq!(&payload[header.lengths_bytes as usize..], &*data);
        }

        #[test]
        fn a_varint_reads_back_whole_and_alone(value: u64, after: u8) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            bytes.push(after);
            let mut rest = &bytes[..];
            prop_assert_eq!(take_varint(&mut rest), Some(value));
            prop_assert_eq!(rest, &[after]);
        }

        #[test]
        fn any_bytes_decode_to_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(SegmentHeader::decode(&bytes).is_err() && FrameHeader::decode(&bytes).is_err());
            take_varint(&mut &bytes[..]);
        }

        /// With CRCs that fit, so that the code behind them is reached.
        #[test]
        fn any_fields_and_payload_decode_to_a_value_or_an_error(
            records: u32, lengths_bytes in 0..64_u32, data_bytes in 0..64_u32,
            payload in prop::collection::vec(any::<u8>(), 128),
        ) {
            let length = (lengths_bytes + data_bytes) as usize;
            let mut bytes = Vec::from(FRAME_MAGIC);
            bytes.extend([0; 28]);
            let crc = crc32c::crc32c(&payload[..length]);
            bytes.extend([records % 80, lengths_bytes, data_bytes, crc].into_iter().flat_map(u32::to_le_bytes));
            bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
            if let Ok(header) = FrameHeader::decode(&bytes) {
                let ends = header.decode_ends(&payload);
                prop_assert!(ends.is_ok() || ends == Err(FrameError::Payload));
            }
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let header = SegmentHeader { spool: 1, number: 2, first: 3, created_ms: 4, generation: 5, end: 6 };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        bytes[8] = 2;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Damaged));
        let crc = crc32c::crc32c(&bytes[..12]).to_le_bytes();
        bytes[12..16].copy_from_slice(&crc);
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Version(2)));
    }

    #[test]
    fn a_mark_is_all_of_a_header_that_changes_with_it() {
        let header = SegmentHeader { spool: 1, number: 2, first: 3, created_ms: 4, generation: 5, end: 0 };
        let mut bytes = header.encode();
        let marked = SegmentHeader { end: 6, ..header };
        let (at, mark) = marked.mark();
        bytes[usize::try_from(at).unwrap()..].copy_from_slice(&mark);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(marked));
        assert_eq!([header.written(9), marked.written(9), marked.written(5)], [9, 6, 5]);
    }

    #[test]
    fn records_that_do_not_fit_their_ends_are_refused() {
        let check = |ends: &[u32], data: &[u8], error| {
            assert_eq!(encode_front(1, 0, 0, ends, data), Err(error));
        };
        check(&[], b"", EncodeError::Empty);
        check(&[1], b"ab", EncodeError::Ends);
        check(&[2, 1, 2], b"ab", EncodeError::Ends);
        check(&[17 << 20], &vec![0; 17 << 20], EncodeError::TooLarge);
    }

    #[test]
    fn only_the_spools_own_names_are_recognised() {
        let check = |name: &str, kind| assert_eq!(FileKind::of(name), kind, "{name}");
        check(&segment_name(7), FileKind::Segment(7));
        check("segment-spare", FileKind::Spare);
        check("00000000000000000007.segment.64-10.corrupt", FileKind::Corrupt);
        check("00000000000000000007.segment.64-10.corrupt.partial", FileKind::Partial);
        for other in [
            "7.segment",
            "watermark",
            "+0000000000000000007.segment",
            "00000000000000000007.segment.x.corrupt",
            "",
        ] {
            check(other, FileKind::Other);
        }
        check("99999999999999999999.segment", FileKind::Other);
    }
}
