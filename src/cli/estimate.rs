//! `hydrant estimate`: what a sample of records would cost a month, packed or not, compressed or not.
//!
//! The sample goes the way that records go, from the framer to [`Batch::packed`], so that what is
//! estimated is what the daemon would send. No more of it is held than a batch.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use bytesize::ByteSize;
use serde_json::{Value, json};

use super::options::say;
use super::status::grouped;
use crate::batcher::{Batch, Packing, Portion, Size, Tries};
use crate::budget::Reservation;
use crate::config::{Algorithm, Compression};
use crate::firehose::Entry;
use crate::framing::{Delimiter, Framed, Framer, Lines};
use crate::limits::{MAX_BATCH_BYTES, MAX_RECORD_BYTES, billed_bytes};
use crate::record::{Chunk, Span};
use crate::sender::compression::{Compressor, MAX_CONTENT_BYTES};
use crate::telemetry::now;

/// Bytes read at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// What a GB is taken for. The price list does not say; its step of 5 KB is 5,120 bytes, so binary.
const GB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What a month is taken for.
const DAYS_A_MONTH: u32 = 30;
const SECONDS_A_MONTH: f64 = DAYS_A_MONTH as f64 * 24.0 * 60.0 * 60.0;

/// Says what records like those of a sample would cost a month, unpacked, packed and compressed
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A packed record holds at most what a daemon gathers within the linger, so the less comes to \
                  each, the less packing saves: give --sidecars where many share the rate. A month is taken for \
                  30 days, a GB for 2^30 bytes, and the price for one without tiers. What the stream does with \
                  records (format conversion, partitioning) is paid for on top.\n\n\
                  Example: hydrant estimate --rate 5MiB/s app.log"
)]
pub struct Args {
    /// Bytes of records a second, of all daemons together
    #[arg(long, value_name = "SIZE/s", default_value = "1MiB/s", value_parser = rate)]
    rate: u64,
    /// Records a second instead of bytes
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u64).range(1..))]
    records_per_second: Option<u64>,
    /// Daemons that share the rate evenly
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sidecars: u32,
    /// As `linger`
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = humantime::parse_duration)]
    linger: Duration,
    /// As `aggregate.max_record`
    #[arg(long, value_name = "SIZE", default_value = "1000KiB", value_parser = max_record)]
    max_record: usize,
    /// As `aggregate.max_lines`; 500 where the stream takes packed records apart
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_lines: Option<u32>,
    /// Dollars a GB; the default is that of Direct PUT in us-east-1, for the first 500 TB of a month
    /// <https://aws.amazon.com/firehose/pricing/>
    #[arg(long, value_name = "DOLLARS", default_value_t = 0.029, value_parser = price)]
    price_per_gb: f64,
    /// As `aggregate.compression_level`, of both formats; without it the default of each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    compression_level: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Files of lines, `-` for standard input; without any, standard input
    files: Vec<PathBuf>,
}

fn rate(text: &str) -> Result<u64, String> {
    let size = text.strip_suffix("/s").unwrap_or(text).parse::<ByteSize>().map(|size| size.as_u64());
    size.ok().filter(|rate| *rate > 0).ok_or_else(|| "must be a size a second, such as \"5MiB/s\"".to_owned())
}

fn max_record(text: &str) -> Result<usize, String> {
    let size = text.parse::<ByteSize>().ok().and_then(|size| usize::try_from(size.as_u64()).ok());
    let size = size.filter(|size| (1..=MAX_RECORD_BYTES).contains(size));
    size.ok_or_else(|| "must be a size from 1B to 1000KiB".to_owned())
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse::<f64>().ok().filter(|price| price.is_finite() && *price >= 0.0);
    price.ok_or_else(|| "must be a number of dollars, such as 0.029".to_owned())
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let estimate =
        read_sample(&args).and_then(|sample| Ok(sample.finish()?.map(|totals| Estimate::new(&args, totals))));
    match estimate {
        Ok(Some(estimate)) if args.json => super::print(&format!("{:#}\n", estimate.json())),
        Ok(Some(estimate)) => super::print(&estimate.text()),
        Ok(None) => {
            say("error: the sample holds no record: give lines that are like those to come");
            super::FAILED
        }
        Err(error) => {
            say(&format!("error: {error:#}"));
            super::FAILED
        }
    }
}

/// The records of all files.
fn read_sample(args: &Args) -> anyhow::Result<Sample> {
    let packing = Packing {
        max_record: args.max_record,
        max_lines: args.max_lines.map_or(usize::MAX, |lines| usize::try_from(lines).unwrap_or(usize::MAX)),
    };
    let compressors = Algorithm::ALL.map(|algorithm| {
        let level = args.compression_level.unwrap_or(algorithm.default_level());
        Compressor::new(Compression { algorithm, level })
    });
    let [gzip, zstd] = compressors;
    let mut sample = Sample::new(packing, args.gathered(), [gzip?, zstd?]);
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &standard_input[..] } else { &args.files };
    let mut too_long = 0;
    for file in files {
        too_long += read_file(file, &mut sample)?;
    }
    if too_long > 0 {
        say(&format!("warning: {too_long} lines longer than 1000KiB are left out: no listener takes them"));
    }
    Ok(sample)
}

/// Adds the lines of a file to `sample`; returns how many were too long.
fn read_file(path: &Path, sample: &mut Sample) -> anyhow::Result<usize> {
    let is_standard_input = path == Path::new("-");
    let name = || if is_standard_input { "standard input".to_owned() } else { path.display().to_string() };
    let mut file: Box<dyn Read> = match is_standard_input {
        true => Box::new(io::stdin().lock()),
        false => Box::new(File::open(path).with_context(|| format!("{} could not be opened", name()))?),
    };
    let mut lines = Lines::new(Delimiter::new(Bytes::from_static(b"\n")), MAX_RECORD_BYTES);
    let (mut buffer, mut piece, mut too_long) = (BytesMut::new(), vec![0; PIECE_BYTES], 0);
    loop {
        let read = match file.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.with_context(|| format!("{} could not be read", name()))?,
        };
        let seen = buffer.len();
        buffer.extend_from_slice(piece.get(..read).unwrap_or(&[]));
        let framed = if read == 0 { lines.finish(&mut buffer) } else { lines.frame(&mut buffer, seen) };
        too_long += framed.skipped.len();
        sample.add(framed)?;
        if read == 0 {
            return Ok(too_long);
        }
    }
}

impl Args {
    /// The most that one daemon gathers before a batch leaves.
    fn gathered(&self) -> Size {
        let each = self.linger.as_secs_f64() / f64::from(self.sidecars);
        let gathered = |a_second: u64| usize::try_from(whole(float(a_second) * each)).unwrap_or(usize::MAX);
        match self.records_per_second {
            Some(records) => Size { records: gathered(records).max(1), bytes: MAX_BATCH_BYTES },
            None => Size { records: usize::MAX, bytes: gathered(self.rate).min(MAX_BATCH_BYTES) },
        }
    }
}

/// Records on their way through batches, and what those would be billed.
struct Sample {
    packing: Packing,
    /// For each of [`Algorithm::ALL`].
    compressors: [Compressor; 2],
    /// The most that is gathered before a batch leaves.
    gathered: Size,
    /// The batch that is being gathered.
    open: Vec<Portion>,
    open_size: Size,
    totals: Totals,
}

/// What was read, and what it would be billed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    records: u64,
    bytes: u64,
    /// Billed for all of it, each record by itself.
    unpacked: u64,
    /// Bytes that were packed, and billed for these. The sample goes through once, but for a last batch
    /// that is not full; or, where it fills none, as often as it takes to fill one.
    packed_bytes: u64,
    packed: u64,
    /// The same, compressed with each of [`Algorithm::ALL`].
    compressed: [u64; 2],
}

/// What a record of Firehose's is compressed to.
enum Ratio {
    /// That is found out with each.
    Measured,
    /// These parts of it, for each of [`Algorithm::ALL`]. A sample that comes again and again is no sample of
    /// how well what is repeated compresses.
    Known([f64; 2]),
}

impl Sample {
    fn new(packing: Packing, gathered: Size, compressors: [Compressor; 2]) -> Self {
        let (open, open_size, totals) = (Vec::new(), Size::default(), Totals::default());
        Self { packing, compressors, gathered, open, open_size, totals }
    }

    fn add(&mut self, framed: Framed) -> anyhow::Result<()> {
        let Some(span) = span(framed.records, framed.ends) else { return Ok(()) };
        self.totals.records += count(span.records());
        self.totals.bytes += count(span.bytes());
        self.totals.unpacked += span.iter().map(|record| billed_bytes(count(record.len()))).sum::<u64>();
        self.gather(span, &Ratio::Measured)
    }

    fn gather(&mut self, mut span: Span, ratio: &Ratio) -> anyhow::Result<()> {
        loop {
            let records = self.gathered.records.saturating_sub(self.open_size.records);
            let bytes = self.gathered.bytes.saturating_sub(self.open_size.bytes);
            let fitting = match span.split_front(records, bytes) {
                // A record that is more than is gathered goes alone.
                None if self.open.is_empty() => span.split_front(1, usize::MAX),
                fitting => fitting,
            };
            let Some((front, remains)) = fitting else {
                self.leave(ratio)?;
                continue;
            };
            self.open_size += Size { records: front.records(), bytes: front.bytes() };
            self.open.push(Portion { span: front, tries: Tries::default() });
            if !remains {
                return Ok(());
            }
        }
    }

    /// The batch is full: it is packed and billed.
    fn leave(&mut self, ratio: &Ratio) -> anyhow::Result<()> {
        let open = std::mem::take(&mut self.open);
        self.open_size = Size::default();
        let batch = Batch::packed(open.clone(), self.packing);
        self.totals.packed_bytes += count(batch.size.bytes);
        self.totals.packed += entries(&batch).iter().map(|entry| billed_bytes(bytes_of(entry))).sum::<u64>();
        let batch = Batch::packed(open, compressed(self.packing));
        for entry in entries(&batch) {
            let members = match ratio {
                Ratio::Measured => self.members(&entry)?,
                Ratio::Known(parts) => parts.map(|part| whole((float(bytes_of(&entry)) * part).ceil())),
            };
            for (billed, member) in self.totals.compressed.iter_mut().zip(members) {
                *billed += billed_bytes(member);
            }
        }
        Ok(())
    }

    /// Bytes that `entry` is compressed to, by each.
    fn members(&mut self, entry: &[Span]) -> anyhow::Result<[u64; 2]> {
        let [gzip, zstd] = &mut self.compressors;
        let entry = Entry::Packed(entry);
        Ok([count(gzip.member(&entry)?.len()), count(zstd.member(&entry)?.len())])
    }

    /// What part of the records of `portions` is left of them, compressed.
    fn ratio(&mut self, portions: Vec<Portion>) -> anyhow::Result<Ratio> {
        let batch = Batch::packed(portions, compressed(self.packing));
        let (bytes, mut all) = (float(count(batch.size.bytes)), [0; 2]);
        for entry in entries(&batch) {
            let members = self.members(&entry)?;
            all.iter_mut().zip(members).for_each(|(all, member)| *all += member);
        }
        Ok(Ratio::Known(all.map(|members| float(members) / bytes)))
    }

    /// What it all comes to, `None` without a record.
    fn finish(mut self) -> anyhow::Result<Option<Totals>> {
        if self.totals.packed_bytes == 0 {
            let Size { records, bytes } = std::mem::take(&mut self.open_size);
            let sample = std::mem::take(&mut self.open);
            let fitting = (self.gathered.bytes / bytes.max(1)).min(self.gathered.records / records.max(1));
            let Some(filling) = repeated(&sample, fitting + 1) else { return Ok(None) };
            let ratio = self.ratio(sample)?;
            self.gather(filling, &ratio)?;
            if self.totals.packed_bytes == 0 {
                // A single record that is more than is gathered.
                self.leave(&ratio)?;
            }
        }
        Ok(Some(self.totals))
    }
}

/// How what is to be compressed is packed where the rest is as `packing` says.
fn compressed(packing: Packing) -> Packing {
    Packing { max_record: packing.max_record.min(MAX_CONTENT_BYTES), ..packing }
}

/// The records of `portions`, `times` times.
fn repeated(portions: &[Portion], times: usize) -> Option<Span> {
    let records = portions.iter().flat_map(|portion| portion.span.iter());
    let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
    for record in std::iter::repeat_n(records, times).flatten() {
        bytes.extend_from_slice(record);
        ends.push(u32::try_from(bytes.len()).ok()?);
    }
    span(bytes.freeze(), ends)
}

fn span(records: Bytes, ends: Vec<u32>) -> Option<Span> {
    if ends.is_empty() {
        return None;
    }
    Span::whole(Arc::new(Chunk::new(records, ends.into(), now(), Reservation::none())))
}

/// The records of Firehose's that `batch` is packed into.
fn entries(batch: &Batch) -> Vec<Vec<Span>> {
    let ends = batch.packed.as_ref().map_or(&[][..], |(_, ends)| ends);
    let mut portions = batch.portions.iter();
    let mut start = 0;
    let entry = |end: &u32| {
        let number = usize::try_from(end - start).unwrap_or(usize::MAX);
        start = *end;
        portions.by_ref().take(number).map(|portion| portion.span.clone()).collect()
    };
    ends.iter().map(entry).collect()
}

fn bytes_of(entry: &[Span]) -> u64 {
    count(Entry::Packed(entry).bytes())
}

/// What is to be paid.
#[derive(Debug)]
struct Estimate {
    totals: Totals,
    bytes_a_second: f64,
    price_per_gb: f64,
}

/// One way of sending, and what it comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    /// Bytes billed for each byte of record.
    factor: f64,
    gb_a_month: f64,
    dollars_a_month: f64,
}

impl Estimate {
    fn new(args: &Args, totals: Totals) -> Self {
        let bytes_a_second = match args.records_per_second {
            Some(records) => float(records) * float(totals.bytes) / float(totals.records),
            None => float(args.rate),
        };
        Self { totals, bytes_a_second, price_per_gb: args.price_per_gb }
    }

    fn cost(&self, factor: f64) -> Cost {
        let gb_a_month = self.bytes_a_second * SECONDS_A_MONTH * factor / GB;
        Cost { factor, gb_a_month, dollars_a_month: gb_a_month * self.price_per_gb }
    }

    fn unpacked(&self) -> Cost {
        self.cost(float(self.totals.unpacked) / float(self.totals.bytes))
    }

    fn packed(&self) -> Cost {
        self.cost(float(self.totals.packed) / float(self.totals.packed_bytes))
    }

    /// Compressed with each of [`Algorithm::ALL`].
    fn compressed(&self) -> [Cost; 2] {
        self.totals.compressed.map(|billed| self.cost(float(billed) / float(self.totals.packed_bytes)))
    }

    fn saving(&self) -> f64 {
        1.0 - self.packed().factor / self.unpacked().factor
    }

    fn json(&self) -> Value {
        let Totals { records, bytes, .. } = self.totals;
        let [gzip, zstd] = self.compressed();
        let cost = |Cost { factor, gb_a_month, dollars_a_month }| {
            json!({
                "billed_bytes": whole(float(bytes) * factor),
                "billed_per_byte": factor,
                "gb_a_month": gb_a_month,
                "dollars_a_month": dollars_a_month,
            })
        };
        json!({
            "sample": {
                "records": records,
                "bytes": bytes,
                "mean_record_bytes": float(bytes) / float(records),
            },
            "bytes_per_second": self.bytes_a_second,
            "price_per_gb": self.price_per_gb,
            "gb_bytes": GB,
            "month_days": DAYS_A_MONTH,
            "unpacked": cost(self.unpacked()),
            "packed": cost(self.packed()),
            "gzip": cost(gzip),
            "zstd": cost(zstd),
            "saving": self.saving(),
        })
    }

    fn text(&self) -> String {
        let Totals { records, bytes, .. } = self.totals;
        let (mean, rate) = (float(bytes) / float(records), self.bytes_a_second);
        let mut text = format!(
            "{records} records of {mean:.0} bytes on average, their line ends included: {bytes} bytes\n\
             at {} records and {} bytes a second, for a month of {DAYS_A_MONTH} days:\n\n\
             {:<10}{:>16}{:>18}{:>14}{:>16}\n",
            grouped(rate / mean),
            grouped(rate),
            "",
            "billed bytes",
            "for each byte",
            "GB a month",
            "$ a month",
        );
        let [gzip, zstd] = self.compressed();
        let plain = [("unpacked", self.unpacked()), ("packed", self.packed())];
        for (name, cost) in plain.into_iter().chain([("with gzip", gzip), ("with zstd", zstd)]) {
            // Writing to a string cannot fail.
            writeln!(
                text,
                "{name:<10}{:>16}{:>18.2}{:>14}{:>16.2}",
                grouped(float(bytes) * cost.factor),
                cost.factor,
                grouped(cost.gb_a_month),
                cost.dollars_a_month,
            )
            .ok();
        }
        let saved = self.unpacked().dollars_a_month - self.packed().dollars_a_month;
        let (share, price) = (100.0 * self.saving(), self.price_per_gb);
        writeln!(text, "\npacking saves {share:.1} %: ${saved:.2} a month, at ${price} a GB").ok();
        let (name, least) = match gzip.factor < zstd.factor {
            true => (Algorithm::Gzip.name(), gzip),
            false => (Algorithm::Zstd.name(), zstd),
        };
        let packed = self.packed();
        let (share, saved) =
            (100.0 * (1.0 - least.factor / packed.factor), packed.dollars_a_month - least.dollars_a_month);
        if saved >= 0.005 {
            let where_to = "where the stream delivers to S3 as it is";
            writeln!(
                text,
                "compressing that with {name} saves another {share:.1} %, {where_to}: ${saved:.2} a month"
            )
            .ok();
        }
        text
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The nearest whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKING: Packing = Packing { max_record: MAX_RECORD_BYTES, max_lines: usize::MAX };
    const FULL: Size = Size { records: usize::MAX, bytes: MAX_BATCH_BYTES };

    fn sample(packing: Packing, gathered: Size) -> Sample {
        let compressors = Algorithm::ALL.map(|algorithm| {
            Compressor::new(Compression { algorithm, level: algorithm.default_level() }).unwrap()
        });
        Sample::new(packing, gathered, compressors)
    }

    fn totals_of(records: impl Iterator<Item = Vec<u8>>, mut sample: Sample) -> Totals {
        for mut record in records {
            record.push(b'\n');
            let ends = vec![u32::try_from(record.len()).unwrap()];
            sample.add(Framed { records: record.into(), ends, ..Framed::default() }).unwrap();
        }
        sample.finish().unwrap().unwrap()
    }

    fn totals(records: usize, bytes: usize, packing: Packing, gathered: Size) -> Totals {
        totals_of(std::iter::repeat_n(vec![b'x'; bytes - 1], records), sample(packing, gathered))
    }

    fn estimate(totals: Totals) -> Estimate {
        Estimate { totals, bytes_a_second: 1024.0 * 1024.0, price_per_gb: 0.029 }
    }

    // R-T13
    #[test]
    fn lines_of_200_bytes_cost_25_times_as_much_unpacked() {
        for records in [1, 7, 50_000] {
            let estimate = estimate(totals(records, 200, PACKING, FULL));
            let (unpacked, packed) = (estimate.unpacked(), estimate.packed());
            assert_eq!(unpacked.factor, 25.6);
            assert!((1.0..1.002).contains(&packed.factor), "{packed:?}");
            // 1 MiB a second for 30 days are 2,531.25 GB.
            assert!((unpacked.dollars_a_month - 2531.25 * 25.6 * 0.029).abs() < 0.01, "{unpacked:?}");
            assert!((0.96..0.961).contains(&estimate.saving()), "{estimate:?}");
        }
    }

    // R-T13
    #[test]
    fn a_packed_record_holds_no_more_than_is_gathered_or_allowed() {
        let check = |packing, gathered, expected: f64| {
            let factor = estimate(totals(20_000, 200, packing, gathered)).packed().factor;
            assert!((factor - expected).abs() < 0.001, "{packing:?} {gathered:?}: {factor}");
        };
        // Two records within the linger, one, and less than one.
        check(PACKING, Size { bytes: 400, ..FULL }, 12.8);
        check(PACKING, Size { bytes: 399, ..FULL }, 25.6);
        check(PACKING, Size { bytes: 0, ..FULL }, 25.6);
        check(PACKING, Size { records: 10, ..FULL }, 2.56);
        check(Packing { max_lines: 5, ..PACKING }, FULL, 5.12);
        check(Packing { max_record: 1000, ..PACKING }, FULL, 5.12);
        check(Packing { max_record: 1, ..PACKING }, FULL, 25.6);
    }

    // R-T13
    #[test]
    fn the_packed_figures_are_of_full_batches_and_not_of_what_is_left() {
        let gathered = Size { bytes: 1000, ..FULL };
        let expected = Totals {
            records: 12,
            bytes: 2400,
            unpacked: 12 * 5120,
            packed_bytes: 2000,
            packed: 2 * 5120,
            compressed: [2 * 5120; 2],
        };
        assert_eq!(totals(12, 200, PACKING, gathered), expected);
        // Less than a batch comes again until it fills one.
        assert_eq!(totals(2, 200, PACKING, gathered).packed_bytes, 1000);
        assert_eq!(sample(PACKING, FULL).finish().unwrap(), None);
    }

    // R-T13
    #[test]
    fn compressed_figures_are_of_what_the_daemon_would_send() {
        // Half of what is in a hexadecimal digit is nothing.
        let digits = |records: usize| {
            let mut random = fastrand::Rng::with_seed(7);
            let record = move || (0..199).map(|_| random.choice(*b"0123456789abcdef").unwrap()).collect();
            std::iter::repeat_with(record).take(records)
        };
        // A few that come again and again would be compressed to next to nothing.
        for records in [50, 50_000] {
            let [gzip, zstd] = estimate(totals_of(digits(records), sample(PACKING, FULL))).compressed();
            for cost in [gzip, zstd] {
                assert!((0.5..0.7).contains(&cost.factor), "{records}: {cost:?}");
            }
        }
        let [_, zstd] = estimate(totals(50_000, 200, PACKING, FULL)).compressed();
        // Five records of Firehose's, of 5 KiB each at least, are a batch.
        assert!((0.006..0.02).contains(&zstd.factor), "{zstd:?}");
        // Where nothing is gathered, there is nothing to compress either.
        let [gzip, _] = estimate(totals(100, 200, PACKING, Size { bytes: 400, ..FULL })).compressed();
        assert_eq!(gzip.factor, 12.8);
    }
}
