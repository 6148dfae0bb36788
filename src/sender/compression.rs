//! Compression of what becomes a record of Firehose's: pure.
//!
//! Each is one complete member of its format, so that several, one behind the other in any order, are a
//! valid file (RFC 1952 section 2.2; RFC 8878 section 3), which is what Firehose makes of them at S3. A
//! member is never much larger than what is in it ([`most_bytes`]), however little that can be compressed.

use bytes::Bytes;
use flate2::{Compress, FlushCompress, Status};
use zstd::stream::raw::{Encoder, InBuffer, Operation as _, OutBuffer};

use crate::config::{Algorithm, Compression};
use crate::firehose::{Entry, Put};
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES};

/// Bits of gzip's window, the most that there are.
const GZIP_WINDOW_BITS: u8 = 15;

/// Most bytes of a member that holds `bytes` bytes.
///
/// It is zstd's own bound (`ZSTD_COMPRESSBOUND`, its margin for small inputs taken whole); gzip's stored
/// blocks stay below it.
#[must_use]
pub const fn most_bytes(bytes: usize) -> usize {
    most_bytes_of(1, bytes)
}

/// Most bytes of `members` members that together hold `bytes` bytes.
#[must_use]
pub const fn most_bytes_of(members: usize, bytes: usize) -> usize {
    bytes + bytes / 256 + 64 * members
}

/// Most bytes of which a member is surely no larger than a record of Firehose's may be.
pub const MAX_CONTENT_BYTES: usize = (MAX_RECORD_BYTES - 64) / 257 * 256;

/// Most bytes of which the members are surely no more than a request may carry.
pub const MAX_BATCH_CONTENT_BYTES: usize = (MAX_BATCH_BYTES - 64 * MAX_BATCH_RECORDS) / 257 * 256;

/// Makes members, one after the other, in one working memory.
pub struct Compressor {
    engine: Engine,
    /// The member that is being made, whose memory is used again.
    member: Vec<u8>,
}

enum Engine {
    Gzip(Compress),
    Zstd(Encoder<'static>),
}

/// A member could not be made, which is none of its content's faults.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// By the gzip encoder.
    #[error("a record could not be compressed with gzip")]
    Gzip(#[source] flate2::CompressError),
    /// By the zstd encoder.
    #[error("a record could not be compressed with zstd")]
    Zstd(#[source] std::io::Error),
    /// The encoder did not come to an end.
    #[error("a record could not be compressed: the encoder did not end its member")]
    Unended,
}

impl Compressor {
    /// A compressor of the kind that is configured.
    ///
    /// # Errors
    ///
    /// [`CompressionError::Zstd`] where there is no memory for it.
    pub fn new(compression: Compression) -> Result<Self, CompressionError> {
        let engine = match compression.algorithm {
            Algorithm::Gzip => Engine::Gzip(gzip(flate2::Compression::new(compression.level))),
            Algorithm::Zstd => Engine::Zstd(zstd(compression.level).map_err(CompressionError::Zstd)?),
        };
        Ok(Self { engine, member: Vec::new() })
    }

    /// What `put` holds, each entry a member of its own.
    ///
    /// # Errors
    ///
    /// [`CompressionError`], with no member made.
    pub fn members(&mut self, put: &Put) -> Result<Vec<Bytes>, CompressionError> {
        put.entries().map(|entry| self.member(&entry)).collect()
    }

    /// One member that holds what `entry` does.
    ///
    /// # Errors
    ///
    /// [`CompressionError`]
    pub fn member(&mut self, entry: &Entry<'_>) -> Result<Bytes, CompressionError> {
        let content = entry.bytes();
        self.member.clear();
        self.member.reserve(most_bytes(content));
        match &mut self.engine {
            Engine::Gzip(encoder) => {
                encoder.reset();
                deflate(encoder, entry, &mut self.member)?;
                if self.member.len() > most_bytes(content) {
                    // The cheapest levels write blocks of a fixed code, in which what can't be compressed grows.
                    self.member.clear();
                    deflate(&mut gzip(flate2::Compression::none()), entry, &mut self.member)?;
                }
            }
            Engine::Zstd(encoder) => {
                zstandard(encoder, entry, &mut self.member).map_err(CompressionError::Zstd)?;
            }
        }
        Ok(Bytes::copy_from_slice(&self.member))
    }
}

fn gzip(level: flate2::Compression) -> Compress {
    Compress::new_gzip(level, GZIP_WINDOW_BITS)
}

/// With a checksum, which gzip has anyway.
fn zstd(level: u32) -> std::io::Result<Encoder<'static>> {
    let mut encoder = Encoder::new(i32::try_from(level).unwrap_or(i32::MAX))?;
    encoder.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
    Ok(encoder)
}

/// Appends the gzip member of `entry` to `member`.
fn deflate(encoder: &mut Compress, entry: &Entry<'_>, member: &mut Vec<u8>) -> Result<(), CompressionError> {
    for mut piece in entry.pieces() {
        while !piece.is_empty() {
            let before = encoder.total_in();
            member.reserve(piece.len());
            encoder.compress_vec(piece, member, FlushCompress::None).map_err(CompressionError::Gzip)?;
            let taken = usize::try_from(encoder.total_in() - before).unwrap_or(usize::MAX);
            piece = piece.get(taken..).unwrap_or(&[]);
        }
    }
    loop {
        let before = member.len();
        member.reserve(64);
        let status =
            encoder.compress_vec(&[], member, FlushCompress::Finish).map_err(CompressionError::Gzip)?;
        match status {
            Status::StreamEnd => return Ok(()),
            Status::Ok | Status::BufError if member.len() > before => {}
            Status::Ok | Status::BufError => return Err(CompressionError::Unended),
        }
    }
}

/// Appends the zstd frame of `entry` to `member`.
fn zstandard(encoder: &mut Encoder<'_>, entry: &Entry<'_>, member: &mut Vec<u8>) -> std::io::Result<()> {
    encoder.reinit()?;
    // Told beforehand, it is in the frame's header, and no more memory is taken than it needs.
    encoder.set_pledged_src_size(u64::try_from(entry.bytes()).ok())?;
    for piece in entry.pieces() {
        let mut input = InBuffer::around(piece);
        while input.pos() < piece.len() {
            append(member, |output| encoder.run(&mut input, output))?;
        }
    }
    while append(member, |output| encoder.finish(output, true))? > 0 {}
    Ok(())
}

/// Has `write` write behind what is in `member`, where there is room for it.
fn append<T>(
    member: &mut Vec<u8>,
    write: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    if member.capacity() - member.len() < 64 {
        member.reserve(4096);
    }
    let end = member.len();
    write(&mut OutBuffer::around_pos(member, end))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::firehose::Operation;
    use crate::firehose::testing::span;

    const KINDS: [(Algorithm, u32); 6] = [
        (Algorithm::Gzip, 1),
        (Algorithm::Gzip, 2),
        (Algorithm::Gzip, 9),
        (Algorithm::Zstd, 1),
        (Algorithm::Zstd, 5),
        (Algorithm::Zstd, 19),
    ];

    fn compressor(algorithm: Algorithm, level: u32) -> Compressor {
        Compressor::new(Compression { algorithm, level }).unwrap()
    }

    /// What is in `file`, read as one file that ends where its last member does.
    fn content(algorithm: Algorithm, file: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        match algorithm {
            Algorithm::Gzip => flate2::bufread::MultiGzDecoder::new(file).read_to_end(&mut content),
            Algorithm::Zstd => zstd::Decoder::new(file).unwrap().read_to_end(&mut content),
        }
        .unwrap();
        content
    }

    fn random(bytes: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
    }

    // R-A7
    #[test]
    fn what_can_not_be_compressed_still_fits_a_record_of_firehoses() {
        let content_bytes = random(MAX_CONTENT_BYTES);
        for (algorithm, level) in KINDS {
            let member = compressor(algorithm, level).member(&Entry::Record(&content_bytes)).unwrap();
            assert!(member.len() > MAX_CONTENT_BYTES, "{algorithm:?} {level}: it can be compressed");
            assert!(member.len() <= most_bytes(MAX_CONTENT_BYTES), "{algorithm:?} {level}: {}", member.len());
            assert!(content(algorithm, &member) == content_bytes, "{algorithm:?} {level}");
        }
        assert!(most_bytes(MAX_CONTENT_BYTES) <= MAX_RECORD_BYTES);
        assert!(most_bytes_of(MAX_BATCH_RECORDS, MAX_BATCH_CONTENT_BYTES) <= MAX_BATCH_BYTES);
    }

    // R-A7
    #[test]
    fn text_gets_smaller_at_any_level() {
        let text = "{\"level\":\"info\",\"message\":\"a request was answered\"}\n".repeat(1000);
        for algorithm in Algorithm::ALL {
            for level in 1..=algorithm.highest_level() {
                let member = compressor(algorithm, level).member(&Entry::Record(text.as_bytes())).unwrap();
                assert!(member.len() * 20 < text.len(), "{algorithm:?} {level}: {}", member.len());
                assert!(content(algorithm, &member) == text.as_bytes(), "{algorithm:?} {level}");
            }
        }
    }

    /// Pieces of a record: of one byte again and again, or of what can't be compressed.
    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            (any::<u8>(), 0_usize..100_000).prop_map(|(byte, times)| vec![byte; times]),
            (0_usize..70_000).prop_map(random),
            prop::collection::vec(any::<u8>(), 1..200),
        ];
        prop::collection::vec(piece, 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        // R-A7
        #[test]
        fn each_member_is_complete_and_hardly_larger_than_what_is_in_it(
            records in prop::collection::vec(pieces(), 1..4),
            (algorithm, level) in prop::sample::select(&KINDS[..]),
        ) {
            let spans: Vec<_> = records.iter().flatten().map(|piece| span(&[piece])).collect();
            let mut end = 0;
            let ends = records.iter().map(|pieces| { end += u32::try_from(pieces.len()).unwrap(); end });
            let put = Put {
                stream: "s".into(),
                operation: Operation::PutRecordBatch,
                packed: Some(ends.collect()),
                spans: spans.into(),
                members: None,
            };
            let members = compressor(algorithm, level).members(&put).unwrap();
            prop_assert_eq!(members.len(), records.len());
            for (member, pieces) in members.iter().zip(&records) {
                let whole = pieces.concat();
                prop_assert!(member.len() <= most_bytes(whole.len()), "{} of {}", member.len(), whole.len());
                prop_assert!(content(algorithm, member) == whole);
            }
            // Any order of them is one file.
            let (mut file, mut all) = (Vec::new(), Vec::new());
            for (member, pieces) in members.iter().zip(&records).rev() {
                file.extend_from_slice(member);
                all.extend(pieces.concat());
            }
            prop_assert!(content(algorithm, &file) == all);
            // What is sent is the members.
            let put = Put { members: Some(members.clone().into()), ..put };
            prop_assert_eq!(put.entry_count(), members.len());
            prop_assert!(put.entries().map(|entry| entry.pieces().collect::<Vec<_>>().concat()).eq(members));
        }
    }
}
