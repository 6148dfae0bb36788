//! One delivery stream: how it was asked for, how it is described, what it holds and has counted.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::StreamCounts;
use super::api::{self, ACCOUNT, ApiError, CreateBody};
use super::quota::Quota;
use super::store::{Buffer, Delivery};

const MIB: usize = 1024 * 1024;

/// A delivery stream of type `DirectPut` that delivers to S3.
#[derive(Debug)]
pub(super) struct Stream {
    name: String,
    created: Duration,
    /// The `ExtendedS3DestinationDescription`.
    destination: Map<String, Value>,
    pub(super) delivery: Delivery,
    pub(super) buffer: Buffer,
    pub(super) quota: Quota,
    pub(super) counts: StreamCounts,
}

impl Stream {
    /// The stream that `body` asks for, created at `now`; what it leaves open is as `delivery`
    /// says.
    ///
    /// # Errors
    ///
    /// `InvalidArgumentException` where the embedded service could not do as asked.
    pub(super) fn create(
        name: &str,
        body: CreateBody,
        now: Duration,
        delivery: &Delivery,
        quota: Quota,
    ) -> Result<Self, ApiError> {
        if body.delivery_stream_type.is_some_and(|kind| kind != "DirectPut") {
            return Err(ApiError::invalid("the embedded Firehose has streams of type DirectPut only"));
        }
        // It is also the name of a directory.
        if name.chars().all(|c| c == '.') {
            return Err(ApiError::invalid("a name of dots alone cannot be a delivery stream's"));
        }
        let mut destination = match (body.extended_s3, body.s3) {
            (Some(destination), None) | (None, Some(destination)) => destination,
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid("Exactly one destination configuration is supported"));
            }
            (None, None) => {
                return Err(ApiError::invalid(
                    "the embedded Firehose delivers to S3 only: give an ExtendedS3DestinationConfiguration",
                ));
            }
        };
        for required in ["RoleARN", "BucketARN"] {
            if !destination.get(required).is_some_and(Value::is_string) {
                return Err(ApiError::invalid(format!("{required} must not be null")));
            }
        }
        let delivery = delivery_of(&destination, delivery)?;
        let defaults = json!({
            "BufferingHints": hints(&delivery),
            "CompressionFormat": "UNCOMPRESSED",
            "EncryptionConfiguration": { "NoEncryptionConfig": "NoEncryption" },
            "CloudWatchLoggingOptions": { "Enabled": false },
            "S3BackupMode": "Disabled",
        });
        // Its description has another name and shape than its configuration.
        destination.remove("S3BackupConfiguration");
        for (key, value) in defaults.as_object().cloned().unwrap_or_default() {
            destination.entry(key).or_insert(value);
        }
        Ok(Self {
            name: name.to_owned(),
            created: now,
            destination,
            delivery,
            buffer: Buffer::default(),
            quota,
            counts: StreamCounts::default(),
        })
    }

    /// The stream's ARN.
    pub(super) fn arn(&self) -> String {
        api::arn(&self.name)
    }

    /// The answer to `DescribeDeliveryStream`.
    pub(super) fn describe(&self) -> Value {
        const PLAIN: [&str; 8] = [
            "RoleARN",
            "BucketARN",
            "Prefix",
            "ErrorOutputPrefix",
            "BufferingHints",
            "CompressionFormat",
            "EncryptionConfiguration",
            "CloudWatchLoggingOptions",
        ];
        let plain: Map<String, Value> = self
            .destination
            .iter()
            .filter(|(key, _)| PLAIN.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        json!({ "DeliveryStreamDescription": {
            "DeliveryStreamName": self.name,
            "DeliveryStreamARN": self.arn(),
            "DeliveryStreamStatus": "ACTIVE",
            "DeliveryStreamEncryptionConfiguration": { "Status": "DISABLED" },
            "DeliveryStreamType": "DirectPut",
            "VersionId": "1",
            "CreateTimestamp": self.created.as_secs_f64(),
            "LastUpdateTimestamp": self.created.as_secs_f64(),
            "Destinations": [{
                "DestinationId": "destinationId-000000000001",
                "S3DestinationDescription": plain,
                "ExtendedS3DestinationDescription": self.destination,
            }],
            "HasMoreDestinations": false,
        }})
    }
}

/// The body that creates a stream as `hydrant local --stream` does.
pub(super) fn plain(name: &str) -> CreateBody {
    let destination = json!({
        "RoleARN": format!("arn:aws:iam::{ACCOUNT}:role/hydrant-local"),
        "BucketARN": format!("arn:aws:s3:::{name}"),
    });
    CreateBody { extended_s3: destination.as_object().cloned(), ..CreateBody::default() }
}

fn hints(delivery: &Delivery) -> Value {
    json!({
        "SizeInMBs": delivery.size.div_ceil(MIB),
        "IntervalInSeconds": delivery.interval.as_secs(),
    })
}

/// How `destination` wants its data delivered; `default` for what it does not say.
fn delivery_of(destination: &Map<String, Value>, default: &Delivery) -> Result<Delivery, ApiError> {
    let text = |key| destination.get(key).and_then(Value::as_str);
    // Bounds: `BufferingHints` of the API model.
    let hint = |key, range: std::ops::RangeInclusive<u64>| {
        let Some(value) = destination.get("BufferingHints").and_then(|hints| hints.get(key)) else {
            return Ok(None);
        };
        match value.as_u64().filter(|value| range.contains(value)) {
            Some(value) => Ok(Some(value)),
            None => Err(ApiError::invalid(format!(
                "{key} must be between {} and {}, not {value}",
                range.start(),
                range.end()
            ))),
        }
    };
    let size = hint("SizeInMBs", 1..=128)?.and_then(|mib| usize::try_from(mib).ok()).map(|mib| mib * MIB);
    let interval = hint("IntervalInSeconds", 0..=900)?.map(Duration::from_secs);
    let prefix = text("Prefix").unwrap_or(&default.prefix);
    if prefix.contains("!{") {
        return Err(ApiError::invalid("the embedded Firehose does not evaluate expressions in Prefix"));
    }
    if prefix.split('/').any(|part| part == "..") || prefix.starts_with('/') || prefix.contains('\0') {
        return Err(ApiError::invalid("Prefix must stay below the bucket"));
    }
    let gzip = match text("CompressionFormat") {
        None => default.gzip,
        Some("UNCOMPRESSED") => false,
        Some("GZIP") => true,
        Some(other) => {
            return Err(ApiError::invalid(format!(
                "the embedded Firehose writes UNCOMPRESSED and GZIP, not {other}"
            )));
        }
    };
    Ok(Delivery {
        prefix: prefix.to_owned(),
        size: size.unwrap_or(default.size),
        interval: interval.unwrap_or(default.interval),
        gzip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(destination: Value) -> Result<Stream, ApiError> {
        let mut body = plain("s");
        for (key, value) in destination.as_object().unwrap() {
            body.extended_s3.as_mut().unwrap().insert(key.clone(), value.clone());
        }
        let default =
            Delivery { prefix: String::new(), size: 5 * MIB, interval: Duration::from_secs(60), gzip: false };
        Stream::create("s", body, Duration::from_secs(1), &default, Quota::new(None, None))
    }

    #[test]
    fn a_destination_is_delivered_as_it_is_described() {
        let stream = create(json!({
            "Prefix": "logs/",
            "CompressionFormat": "GZIP",
            "BufferingHints": { "SizeInMBs": 1, "IntervalInSeconds": 0 },
            "ProcessingConfiguration": { "Enabled": true },
        }))
        .unwrap();
        let expected = Delivery { prefix: "logs/".into(), size: MIB, interval: Duration::ZERO, gzip: true };
        assert_eq!(stream.delivery, expected);
        let described = stream.describe();
        let destination = &described["DeliveryStreamDescription"]["Destinations"][0];
        let extended = &destination["ExtendedS3DestinationDescription"];
        assert_eq!(extended["ProcessingConfiguration"]["Enabled"], true);
        assert_eq!(extended["BufferingHints"]["SizeInMBs"], 1);
        assert_eq!(destination["S3DestinationDescription"]["CompressionFormat"], "GZIP");
        assert_eq!(destination["S3DestinationDescription"]["ProcessingConfiguration"], Value::Null);
    }

    #[test]
    fn what_could_not_be_done_as_asked_is_refused() {
        let check = |destination: Value, text: &str| {
            let error = create(destination.clone()).unwrap_err();
            assert_eq!(error.code, "InvalidArgumentException");
            assert!(error.message.contains(text), "{destination}: {}", error.message);
        };
        check(json!({ "Prefix": "../x" }), "below the bucket");
        check(json!({ "Prefix": "a/../../x" }), "below the bucket");
        check(json!({ "Prefix": "/etc/" }), "below the bucket");
        check(json!({ "Prefix": "!{timestamp:yyyy}/" }), "expressions");
        check(json!({ "CompressionFormat": "Snappy" }), "not Snappy");
        check(json!({ "BufferingHints": { "SizeInMBs": 129 } }), "between 1 and 128, not 129");
        check(json!({ "BufferingHints": { "IntervalInSeconds": -1 } }), "between 0 and 900");
        check(json!({ "RoleARN": null }), "RoleARN");
    }
}
