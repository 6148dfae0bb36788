//! What a delivery stream is, read from the answer to `DescribeDeliveryStream`: pure.
//!
//! Read leniently: a field that is missing or of another type than expected is unknown, and costs
//! no other. Source of the shape:
//! <https://docs.aws.amazon.com/firehose/latest/APIReference/API_DeliveryStreamDescription.html>

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// What a delivery stream is, as far as a producer is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// `ACTIVE`, `CREATING`, `CREATING_FAILED`, `DELETING` or `DELETING_FAILED`.
    pub status: String,
    /// `DirectPut` takes records from producers; the other types do not.
    pub kind: String,
    /// Where it delivers.
    pub destination: Option<Destination>,
    /// Status of the encryption at rest, where it was ever switched on.
    pub encryption: Option<String>,
    /// What made its creation or deletion fail.
    pub failure: Option<String>,
    /// When it was created.
    pub created: Option<SystemTime>,
    /// Types of the processors that records go through, in the service's words.
    pub processors: Vec<String>,
    /// How the stream takes records apart that were packed, where it does.
    pub deaggregation: Option<Deaggregation>,
    /// Whether it sorts records into folders by what is in them.
    pub partitions: bool,
    /// Whether it converts records from JSON to a columnar format.
    pub converts: bool,
    /// How it compresses objects in S3, in the service's words.
    pub compression: Option<String>,
    /// How it ends the names of objects in S3, where that was set.
    pub file_extension: Option<String>,
    /// Longest that the stream itself waits before it delivers, where that is told.
    pub buffering: Option<Duration>,
}

/// What a `RecordDeAggregation` processor takes for the end of a record.
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-deaggregation.html>
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deaggregation {
    /// The end of a JSON value.
    Json,
    /// These bytes; unknown where what the stream says of them can't be read.
    Delimited(Option<Vec<u8>>),
}

impl Deaggregation {
    fn read(processors: &[Value]) -> Option<Self> {
        let processor = processors
            .iter()
            .find(|processor| processor.get("Type").and_then(Value::as_str) == Some("RecordDeAggregation"))?;
        let parameters = processor.get("Parameters").and_then(Value::as_array);
        let parameter = |name: &str| {
            let named =
                |parameter: &&Value| parameter.get("ParameterName").and_then(Value::as_str) == Some(name);
            parameters?.iter().find(named)?.get("ParameterValue")?.as_str()
        };
        Some(match parameter("SubRecordType") {
            Some("JSON") => Self::Json,
            _ => Self::Delimited(
                parameter("Delimiter").and_then(|base64| base64_simd::STANDARD.decode_to_vec(base64).ok()),
            ),
        })
    }
}

/// The kinds of destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the name of a service")]
pub enum Destination {
    S3,
    Redshift,
    OpenSearch,
    OpenSearchServerless,
    Splunk,
    HttpEndpoint,
    Snowflake,
    Iceberg,
}

/// The fields of a destination that say which kind it is, the more particular ones first: Redshift
/// and others hold a description of S3, where their data goes by or is backed up, and plain S3
/// comes under two names.
const KINDS: [(&str, Destination); 10] = [
    ("RedshiftDestinationDescription", Destination::Redshift),
    ("ElasticsearchDestinationDescription", Destination::OpenSearch),
    ("AmazonopensearchserviceDestinationDescription", Destination::OpenSearch),
    ("AmazonOpenSearchServerlessDestinationDescription", Destination::OpenSearchServerless),
    ("SplunkDestinationDescription", Destination::Splunk),
    ("HttpEndpointDestinationDescription", Destination::HttpEndpoint),
    ("SnowflakeDestinationDescription", Destination::Snowflake),
    ("IcebergDestinationDescription", Destination::Iceberg),
    ("ExtendedS3DestinationDescription", Destination::S3),
    ("S3DestinationDescription", Destination::S3),
];

impl Description {
    /// Whether the bytes of its records are put one behind the other and read as one text, so that packed
    /// records of any size are as good as single ones.
    #[must_use]
    pub fn takes_text(&self) -> bool {
        let by_record = |processor: &String| processor != "AppendDelimiterToRecord";
        matches!(self.destination, Some(Destination::S3 | Destination::Redshift))
            && !self.partitions
            && self.deaggregation.is_none()
            && !self.processors.iter().any(by_record)
    }

    /// The description in `answer`, if there is one.
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let stream = answer.get("DeliveryStreamDescription")?;
        let text = |value: &Value, path: &str| value.pointer(path)?.as_str().map(str::to_owned);
        let destination = stream.pointer("/Destinations/0");
        let found = destination.and_then(|destination| {
            KINDS.into_iter().find_map(|(field, kind)| Some((kind, destination.get(field)?)))
        });
        let details = found.map_or(&Value::Null, |(_, details)| details);
        let is_enabled = |path: &str| details.pointer(path) == Some(&Value::Bool(true));
        let enabled = is_enabled("/ProcessingConfiguration/Enabled");
        let processors = details.pointer("/ProcessingConfiguration/Processors").and_then(Value::as_array);
        let processors = processors.map_or(&[][..], Vec::as_slice);
        let processors = if enabled { processors } else { &[] };
        let buffering = [
            "/BufferingHints/IntervalInSeconds",
            "/S3DestinationDescription/BufferingHints/IntervalInSeconds",
        ]
        .into_iter()
        .find_map(|path| details.pointer(path)?.as_u64());
        let created = stream.get("CreateTimestamp").and_then(Value::as_f64);
        let created = created.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Some(Self {
            status: text(stream, "/DeliveryStreamStatus")?,
            kind: text(stream, "/DeliveryStreamType").unwrap_or_else(|| "unknown".to_owned()),
            destination: found.map(|(kind, _)| kind),
            encryption: text(stream, "/DeliveryStreamEncryptionConfiguration/Status"),
            failure: text(stream, "/FailureDescription/Details"),
            created: created.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)),
            processors: processors.iter().filter_map(|processor| text(processor, "/Type")).collect(),
            deaggregation: Deaggregation::read(processors),
            partitions: is_enabled("/DynamicPartitioningConfiguration/Enabled"),
            converts: is_enabled("/DataFormatConversionConfiguration/Enabled"),
            compression: text(details, "/CompressionFormat"),
            file_extension: text(details, "/FileExtension").filter(|extension| !extension.is_empty()),
            buffering: buffering.map(Duration::from_secs),
        })
    }
}

impl Destination {
    /// What people call it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::S3 => "S3",
            Self::Redshift => "Redshift",
            Self::OpenSearch => "OpenSearch Service",
            Self::OpenSearchServerless => "OpenSearch Serverless",
            Self::Splunk => "Splunk",
            Self::HttpEndpoint => "HTTP endpoint",
            Self::Snowflake => "Snowflake",
            Self::Iceberg => "Apache Iceberg",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(description: &Value) -> Option<Description> {
        Description::read(json!({ "DeliveryStreamDescription": description }).to_string().as_bytes())
    }

    fn with(destination: Value) -> Description {
        let stream = json!({ "DeliveryStreamStatus": "ACTIVE", "Destinations": [destination] });
        read(&stream).unwrap()
    }

    // R-M2
    #[test]
    fn everything_that_is_told_is_read() {
        let found = read(&json!({
            "DeliveryStreamStatus": "CREATING_FAILED",
            "DeliveryStreamType": "DirectPut",
            "FailureDescription": { "Type": "CREATE_KMS_GRANT_FAILED", "Details": "no grant" },
            "DeliveryStreamEncryptionConfiguration": { "Status": "ENABLED" },
            "CreateTimestamp": 1.5e9,
            "Destinations": [{
                "S3DestinationDescription": {},
                "ExtendedS3DestinationDescription": {
                    "BufferingHints": { "SizeInMBs": 5, "IntervalInSeconds": 120 },
                    "ProcessingConfiguration": {
                        "Enabled": true,
                        "Processors": [{ "Type": "Lambda" }, { "Type": "AppendDelimiterToRecord" }],
                    },
                    "DynamicPartitioningConfiguration": { "Enabled": true },
                    "DataFormatConversionConfiguration": { "Enabled": true },
                    "CompressionFormat": "GZIP",
                    "FileExtension": ".json.gz",
                },
            }],
        }));
        let expected = Description {
            status: "CREATING_FAILED".into(),
            kind: "DirectPut".into(),
            destination: Some(Destination::S3),
            encryption: Some("ENABLED".into()),
            failure: Some("no grant".into()),
            created: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)),
            processors: vec!["Lambda".into(), "AppendDelimiterToRecord".into()],
            deaggregation: None,
            partitions: true,
            converts: true,
            compression: Some("GZIP".into()),
            file_extension: Some(".json.gz".into()),
            buffering: Some(Duration::from_secs(120)),
        };
        assert_eq!(found, Some(expected));
    }

    // R-A3
    #[test]
    fn it_is_told_where_packed_records_are_taken_apart() {
        let read = |enabled: bool, parameters: &[(&str, &str)]| {
            let parameters: Vec<_> = parameters
                .iter()
                .map(|(name, value)| json!({ "ParameterName": name, "ParameterValue": value }))
                .collect();
            let processors = json!([
                { "Type": "AppendDelimiterToRecord" },
                { "Type": "RecordDeAggregation", "Parameters": parameters },
            ]);
            let processing = json!({ "Enabled": enabled, "Processors": processors });
            with(json!({ "ExtendedS3DestinationDescription": { "ProcessingConfiguration": processing } }))
                .deaggregation
        };
        assert_eq!(read(true, &[("SubRecordType", "JSON")]), Some(Deaggregation::Json));
        let delimited = |bytes: Option<&[u8]>| Some(Deaggregation::Delimited(bytes.map(<[u8]>::to_vec)));
        assert_eq!(
            read(true, &[("SubRecordType", "DELIMITED"), ("Delimiter", "Cg==")]),
            delimited(Some(b"\n"))
        );
        assert_eq!(read(true, &[("SubRecordType", "DELIMITED"), ("Delimiter", "?")]), delimited(None));
        assert_eq!(read(true, &[]), delimited(None));
        assert_eq!(read(false, &[("SubRecordType", "JSON")]), None);
    }

    // R-M2
    #[test]
    fn what_is_missing_or_odd_costs_nothing_else() {
        let found = with(json!({ "ExtendedS3DestinationDescription": { "BufferingHints": 7 } }));
        assert_eq!((found.destination, found.buffering, found.created), (Some(Destination::S3), None, None));
        let found = with(json!({ "SomethingNewDestinationDescription": {} }));
        assert_eq!((&*found.status, &*found.kind, found.destination), ("ACTIVE", "unknown", None));
        assert_eq!(read(&json!({})), None);
        assert_eq!(Description::read(b"<html>"), None);
    }

    // R-M2
    #[test]
    fn the_destination_is_told_from_the_s3_that_it_goes_by() {
        let s3 = json!({ "BufferingHints": { "IntervalInSeconds": 300 } });
        let found = with(json!({
            "RedshiftDestinationDescription": { "S3DestinationDescription": s3 },
            "S3DestinationDescription": {},
        }));
        assert_eq!(
            (found.destination, found.buffering),
            (Some(Destination::Redshift), Some(Duration::from_secs(300)))
        );
        for (field, kind) in KINDS {
            assert_eq!(with(json!({ field: {} })).destination, Some(kind), "{field}");
        }
    }

    #[test]
    fn processors_that_are_switched_off_are_none() {
        let processing = |enabled| json!({ "Enabled": enabled, "Processors": [{ "Type": "Lambda" }] });
        let found = |enabled| {
            with(
                json!({ "SplunkDestinationDescription": { "ProcessingConfiguration": processing(enabled) } }),
            )
        };
        assert_eq!((found(true).processors.len(), found(false).processors.len()), (1, 0));
    }
}
