//! Whether records may be packed for a stream, and how: pure.
//!
//! A packed record is whole records, each followed by the delimiter. What a destination makes of it is
//! its own affair: S3 and Redshift put the bytes of all records one behind the other anyway, others make
//! of each record one document, event or row. `docs/OPERATIONS.md` has the table of them, and what it rests on.

use bytes::Bytes;

use super::compression;
use crate::batcher::Packing;
use crate::config::{AggregateConfig, AggregateMode, Compression};
use crate::firehose::{Deaggregation, Description, Destination};

/// Most records that the service takes out of a packed one.
/// Source: <https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html>
const MAX_DEAGGREGATED: usize = 500;

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How to pack; `None` is not at all.
    pub packing: Option<Packing>,
    /// A sentence's end, as of "Records are packed: …".
    pub reason: String,
    /// Where nothing may be sent at all, since compressed members would be spoilt, and plain records between
    /// them would spoil the file: what mends that.
    pub remedy: Option<String>,
}

/// Decides for a stream that `description` is all that is known of.
#[must_use]
pub fn decide(config: &AggregateConfig, delimiter: &Bytes, description: Option<&Description>) -> Decision {
    if let Some(compression) = config.compression {
        return decide_compressed(config, compression, description);
    }
    let off = |reason: &str| Decision { packing: None, reason: reason.to_owned(), remedy: None };
    let packed = |max_lines: usize, reason: String| {
        let max_lines = config.max_lines.unwrap_or(usize::MAX).min(max_lines);
        let packing = Packing { max_record: config.max_record, max_lines };
        Decision { packing: Some(packing), reason, remedy: None }
    };
    if config.mode == AggregateMode::Off {
        return off("`aggregate.mode` is \"off\"");
    }
    if delimiter.is_empty() {
        return off("`delimiter` is empty, so packed records would run together");
    }
    let Some(description) = description else {
        return match config.mode {
            AggregateMode::On => packed(usize::MAX, "`aggregate.mode` is \"on\"".to_owned()),
            AggregateMode::Auto | AggregateMode::Off => {
                off("what the stream is, is not known (firehose:DescribeDeliveryStream)")
            }
        };
    };
    match &description.deaggregation {
        Some(Deaggregation::Delimited(Some(theirs))) if *theirs != *delimiter => {
            return off("the stream takes packed records apart at another delimiter than `delimiter`");
        }
        Some(Deaggregation::Delimited(None)) => {
            return off("the stream takes packed records apart at a delimiter that is not known");
        }
        Some(Deaggregation::Json | Deaggregation::Delimited(Some(_))) => {
            let reason = format!("the stream takes packed records apart, {MAX_DEAGGREGATED} at most");
            return packed(MAX_DEAGGREGATED, reason);
        }
        None => {}
    }
    if config.mode == AggregateMode::On {
        return packed(usize::MAX, "`aggregate.mode` is \"on\"".to_owned());
    }
    if description.partitions {
        return off("the stream partitions by record and does not take packed ones apart");
    }
    let by_record = |processor: &&String| processor.as_str() != "AppendDelimiterToRecord";
    if let Some(processor) = description.processors.iter().find(by_record) {
        return off(&format!("the stream's {processor} works record by record"));
    }
    match description.destination {
        Some(kind @ (Destination::S3 | Destination::Redshift)) => {
            packed(usize::MAX, format!("{} takes records as one text", kind.label()))
        }
        Some(kind) => off(&format!("{} takes each record by itself", kind.label())),
        None => off("the stream's destination is not known"),
    }
}

/// Decides for records that are sent compressed or not at all.
fn decide_compressed(
    config: &AggregateConfig,
    compression: Compression,
    description: Option<&Description>,
) -> Decision {
    let Compression { algorithm, level } = compression;
    let name = algorithm.name();
    let obstacle = match (description, config.mode) {
        (Some(description), _) => obstacle(description),
        (None, AggregateMode::On) => None,
        (None, AggregateMode::Auto | AggregateMode::Off) => Some(Obstacle {
            what: "what the stream is, is not known".to_owned(),
            remedy: "allow firehose:DescribeDeliveryStream, or set `aggregate.mode` to \"on\" where you know that it \
                     delivers to S3 as it is",
        }),
    };
    if let Some(Obstacle { what, remedy }) = obstacle {
        let reason = format!("`aggregate.compression` is \"{name}\", but {what}");
        let remedy = format!("{remedy}, or set `aggregate.compression` to \"none\"");
        return Decision { packing: None, reason, remedy: Some(remedy) };
    }
    let packing = Packing {
        max_record: config.max_record.min(compression::MAX_CONTENT_BYTES),
        max_lines: config.max_lines.unwrap_or(usize::MAX),
    };
    let because = match description {
        Some(_) => "S3 keeps what it is given",
        None => "`aggregate.mode` is \"on\"",
    };
    let reason = format!("{because}; each packed record is compressed with {name}, level {level}");
    Decision { packing: Some(packing), reason, remedy: None }
}

/// What of a stream compressed records would not survive, or would not be readable after.
struct Obstacle {
    what: String,
    remedy: &'static str,
}

/// Why records may not be compressed for the stream, if anything is against it. Only S3 that keeps the
/// bytes of records as they are, one behind the other, makes a file of members.
fn obstacle(description: &Description) -> Option<Obstacle> {
    let found = |what: String, remedy| Some(Obstacle { what, remedy });
    match description.destination {
        Some(Destination::S3) => {}
        Some(kind) => {
            return found(format!("{} reads what records say", kind.label()), "deliver to S3");
        }
        None => return found("the stream's destination is not known".to_owned(), "deliver to S3"),
    }
    if description.partitions {
        let what = "the stream partitions by what records say";
        return found(what.to_owned(), "make a stream without dynamic partitioning");
    }
    if let Some(processor) = description.processors.first() {
        let what = match processor.as_str() {
            "AppendDelimiterToRecord" => {
                "the stream's AppendDelimiterToRecord puts bytes between the members of a file".to_owned()
            }
            _ => format!("the stream's {processor} reads what records say"),
        };
        return found(what, "take the processor off the stream");
    }
    if description.converts {
        let what = "the stream converts the format of records";
        return found(what.to_owned(), "switch record format conversion off");
    }
    let format = description.compression.as_deref().filter(|format| *format != "UNCOMPRESSED")?;
    found(
        format!("the stream compresses its objects with {format}, so that they would be compressed twice"),
        "set the stream's CompressionFormat to UNCOMPRESSED",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Algorithm;
    use crate::limits::MAX_RECORD_BYTES;

    fn description(destination: Destination) -> Description {
        Description {
            status: "ACTIVE".to_owned(),
            kind: "DirectPut".to_owned(),
            destination: Some(destination),
            ..Description::default()
        }
    }

    // R-A3
    #[test]
    fn records_are_packed_where_the_stream_is_known_to_take_them_so() {
        let check = |mode, description: Option<&Description>, lines: Option<usize>, why: &str| {
            let config = AggregateConfig { mode, max_record: 1000, max_lines: None, compression: None };
            let decision = decide(&config, &Bytes::from_static(b"\n"), description);
            assert_eq!(decision.packing.map(|packing| packing.max_lines), lines, "{decision:?}");
            assert!(decision.reason.contains(why), "{decision:?}");
        };
        let auto =
            |description: &Description, lines, why| check(AggregateMode::Auto, Some(description), lines, why);
        let (s3, all) = (description(Destination::S3), Some(usize::MAX));
        auto(&s3, all, "one text");
        auto(&description(Destination::Redshift), all, "one text");
        let each = [
            Destination::OpenSearch,
            Destination::OpenSearchServerless,
            Destination::Splunk,
            Destination::HttpEndpoint,
            Destination::Snowflake,
            Destination::Iceberg,
        ];
        for kind in each {
            auto(&description(kind), None, "by itself");
        }
        let with = |processor: &str| Description { processors: vec![processor.to_owned()], ..s3.clone() };
        auto(&with("Lambda"), None, "Lambda works record by record");
        auto(&with("AppendDelimiterToRecord"), all, "one text");
        auto(&Description { partitions: true, ..s3.clone() }, None, "partitions");
        let apart =
            |how| Description { deaggregation: Some(how), partitions: true, ..with("RecordDeAggregation") };
        auto(&apart(Deaggregation::Json), Some(500), "apart");
        auto(&apart(Deaggregation::Delimited(Some(b"\n".to_vec()))), Some(500), "apart");
        auto(&apart(Deaggregation::Delimited(Some(b"|".to_vec()))), None, "another delimiter");
        auto(&apart(Deaggregation::Delimited(None)), None, "not known");
        check(AggregateMode::Auto, None, None, "DescribeDeliveryStream");
        check(AggregateMode::On, None, all, "\"on\"");
        check(AggregateMode::On, Some(&description(Destination::Splunk)), all, "\"on\"");
        check(AggregateMode::On, Some(&apart(Deaggregation::Json)), Some(500), "apart");
        check(AggregateMode::Off, Some(&s3), None, "\"off\"");
    }

    // R-A3
    #[test]
    fn records_without_a_delimiter_are_never_packed() {
        let config = AggregateConfig {
            mode: AggregateMode::On,
            max_record: 1000,
            max_lines: Some(7),
            compression: None,
        };
        assert_eq!(decide(&config, &Bytes::new(), None).packing, None);
        let decision = decide(&config, &Bytes::from_static(b"\n"), None);
        assert_eq!(decision.packing, Some(Packing { max_record: 1000, max_lines: 7 }));
    }

    fn compressed(mode: AggregateMode, description: Option<&Description>) -> Decision {
        let compression = Some(Compression { algorithm: Algorithm::Gzip, level: 2 });
        let config = AggregateConfig { mode, max_record: MAX_RECORD_BYTES, max_lines: None, compression };
        decide(&config, &Bytes::from_static(b"\n"), description)
    }

    // R-A8
    #[test]
    fn what_is_to_be_compressed_is_held_where_the_stream_would_spoil_it() {
        let refused = |description: &Description, what: &str, remedy: &str| {
            for mode in [AggregateMode::Auto, AggregateMode::On] {
                let decision = compressed(mode, Some(description));
                let found = decision.remedy.as_deref().unwrap_or_default();
                assert!(found.contains(remedy) && found.contains("\"none\""), "{decision:?}");
                assert!(decision.packing.is_none() && decision.reason.contains(what), "{decision:?}");
            }
        };
        let s3 = description(Destination::S3);
        let each = [
            Destination::Redshift,
            Destination::OpenSearch,
            Destination::OpenSearchServerless,
            Destination::Splunk,
            Destination::HttpEndpoint,
            Destination::Snowflake,
            Destination::Iceberg,
        ];
        for kind in each {
            refused(&description(kind), kind.label(), "deliver to S3");
        }
        refused(&Description { destination: None, ..s3.clone() }, "not known", "deliver to S3");
        let with = |processor: &str| Description { processors: vec![processor.to_owned()], ..s3.clone() };
        for processor in ["Lambda", "RecordDeAggregation", "Decompression", "MetadataExtraction"] {
            refused(&with(processor), &format!("{processor} reads"), "take the processor off");
        }
        refused(&with("AppendDelimiterToRecord"), "between the members", "take the processor off");
        refused(
            &Description { partitions: true, ..s3.clone() },
            "partitions",
            "without dynamic partitioning",
        );
        refused(&Description { converts: true, ..s3.clone() }, "converts", "conversion off");
        let twice = Description { compression: Some("GZIP".to_owned()), ..s3.clone() };
        refused(&twice, "compressed twice", "CompressionFormat to UNCOMPRESSED");
    }

    // R-A8
    #[test]
    fn what_is_to_be_compressed_is_packed_or_held_and_never_sent_as_it_is() {
        let s3 = Description { compression: Some("UNCOMPRESSED".to_owned()), ..description(Destination::S3) };
        let packed = |decision: Decision| {
            assert!(decision.remedy.is_none() && decision.reason.contains("gzip, level 2"), "{decision:?}");
            let most = decision.packing.unwrap().max_record;
            assert!(compression::most_bytes(most) <= MAX_RECORD_BYTES);
        };
        packed(compressed(AggregateMode::Auto, Some(&s3)));
        packed(compressed(AggregateMode::On, Some(&s3)));
        packed(compressed(AggregateMode::On, None));
        let remedy = compressed(AggregateMode::Auto, None).remedy.unwrap();
        assert!(remedy.contains("firehose:DescribeDeliveryStream") && remedy.contains("\"on\""), "{remedy}");
    }
}
