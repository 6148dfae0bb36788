//! What the embedded service is asked for. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::framing::firehose;
pub(super) use crate::framing::firehose::{
    ACCOUNT, ApiError, Failed, ListBody, NameBody, Puts, answer, arn, batch_answer, parse, stream_name,
};

/// What is asked of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the API operation of that name")]
pub enum Operation {
    PutRecord,
    PutRecordBatch,
    CreateDeliveryStream,
    DeleteDeliveryStream,
    DescribeDeliveryStream,
    ListDeliveryStreams,
    GetMetricData,
    GetMetricStatistics,
    PutMetricData,
}

impl Operation {
    /// The operation that an `X-Amz-Target` header names.
    pub(super) fn from_target(target: &str) -> Option<Self> {
        // Prefixes: the `targetPrefix` of each service's API model.
        Some(match target.split_once('.')? {
            ("Firehose_20150804", "PutRecord") => Self::PutRecord,
            ("Firehose_20150804", "PutRecordBatch") => Self::PutRecordBatch,
            ("Firehose_20150804", "CreateDeliveryStream") => Self::CreateDeliveryStream,
            ("Firehose_20150804", "DeleteDeliveryStream") => Self::DeleteDeliveryStream,
            ("Firehose_20150804", "DescribeDeliveryStream") => Self::DescribeDeliveryStream,
            ("Firehose_20150804", "ListDeliveryStreams") => Self::ListDeliveryStreams,
            ("GraniteServiceVersion20100801", name) => Self::from_cloudwatch(name)?,
            _ => return None,
        })
    }

    /// The operation called `name`, of either service.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::from_target(&format!("Firehose_20150804.{name}")).or_else(|| Self::from_cloudwatch(name))
    }

    /// The CloudWatch operation `name`.
    pub(super) fn from_cloudwatch(name: &str) -> Option<Self> {
        Some(match name {
            "GetMetricData" => Self::GetMetricData,
            "GetMetricStatistics" => Self::GetMetricStatistics,
            "PutMetricData" => Self::PutMetricData,
            _ => return None,
        })
    }

    /// Whether it puts records: what quotas and faults apply to.
    pub(super) fn puts(self) -> bool {
        matches!(self, Self::PutRecord | Self::PutRecordBatch)
    }
}

/// The records in the body of a `PutRecord` or `PutRecordBatch`, within the limits of both.
///
/// # Errors
///
/// What the service says of such a body.
pub(super) fn decode_puts(operation: Operation, body: &[u8]) -> Result<Puts, ApiError> {
    firehose::decode_puts(operation == Operation::PutRecord, body)
}

/// The body of `CreateDeliveryStream`, as far as the embedded service reads it. What else stands
/// in the destination is kept and described as it came.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateBody {
    pub(super) delivery_stream_name: Option<String>,
    pub(super) delivery_stream_type: Option<String>,
    #[serde(rename = "ExtendedS3DestinationConfiguration")]
    pub(super) extended_s3: Option<Map<String, Value>>,
    #[serde(rename = "S3DestinationConfiguration")]
    pub(super) s3: Option<Map<String, Value>>,
}

/// Characters that the ids of one request share: 224 with the four digits behind them, which is
/// how long the service's are.
pub(super) const ID_PREFIX_CHARS: usize = 220;
