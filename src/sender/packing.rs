//! Whether records may be packed for a stream, and how: pure.
//!
//! A packed record is whole records, each followed by the delimiter. What a destination makes of it is
//! its own affair: S3 and Redshift put the bytes of all records one behind the other anyway, others make
//! of each record one document, event or row. `docs/OPERATIONS.md` has the table of them, and what it rests on.

use bytes::Bytes;

use crate::batcher::Packing;
use crate::config::{AggregateConfig, AggregateMode};
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
}

/// Decides for a stream that `description` is all that is known of.
#[must_use]
pub fn decide(config: &AggregateConfig, delimiter: &Bytes, description: Option<&Description>) -> Decision {
    let off = |reason: &str| Decision { packing: None, reason: reason.to_owned() };
    let packed = |max_lines: usize, reason: String| {
        let max_lines = config.max_lines.unwrap_or(usize::MAX).min(max_lines);
        Decision { packing: Some(Packing { max_record: config.max_record, max_lines }), reason }
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
        return Decision {
            packing: None,
            reason: format!("the stream's {processor} works record by record"),
        };
    }
    match description.destination {
        Some(kind @ (Destination::S3 | Destination::Redshift)) => {
            packed(usize::MAX, format!("{} takes records as one text", kind.label()))
        }
        Some(kind) => {
            Decision { packing: None, reason: format!("{} takes each record by itself", kind.label()) }
        }
        None => off("the stream's destination is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let config = AggregateConfig { mode, max_record: 1000, max_lines: None };
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
        let config = AggregateConfig { mode: AggregateMode::On, max_record: 1000, max_lines: Some(7) };
        assert_eq!(decide(&config, &Bytes::new(), None).packing, None);
        let decision = decide(&config, &Bytes::from_static(b"\n"), None);
        assert_eq!(decision.packing, Some(Packing { max_record: 1000, max_lines: 7 }));
    }
}
