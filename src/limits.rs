//! The service's quotas and the bounds that follow from them, each with its source.
//!
//! Nothing here is a setting: what a user can change lives in [`crate::config`].

/// Most records in one `PutRecordBatch`.
///
/// Source: <https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html>
/// ("Each PutRecordBatch request supports up to 500 records").
pub const MAX_BATCH_RECORDS: usize = 500;

/// Most bytes of record data in one `PutRecordBatch`, counted before base64.
///
/// Source: the same page ("up to … 4 MB for the entire request"); counted as AWS's own Kinesis
/// Agent counts it, `MAX_BATCH_PUT_SIZE_BYTES = 4 * 1024 * 1024` over the records' bytes in
/// `FirehoseConstants.java` of awslabs/amazon-kinesis-agent.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Most bytes of one record, its delimiter included, counted before base64.
///
/// Source: <https://docs.aws.amazon.com/firehose/latest/APIReference/API_Record.html>
/// ("The maximum size of the data blob, before base64-encoding, is 1,000 KiB").
pub const MAX_RECORD_BYTES: usize = 1000 * 1024;

/// Firehose bills each record rounded up to a multiple of this.
///
/// Source: <https://aws.amazon.com/firehose/pricing/> ("rounded up to the nearest 5KB (5120 bytes)").
pub const BILLED_UNIT_BYTES: u64 = 5 * 1024;

/// Longest delivery stream name.
///
/// Source: <https://docs.aws.amazon.com/firehose/latest/APIReference/API_CreateDeliveryStream.html>
/// (`DeliveryStreamName`: 1 to 64 characters of `[a-zA-Z0-9_.-]+`).
pub const MAX_STREAM_NAME_CHARS: usize = 64;

/// Most metrics in one `PutMetricData`.
///
/// Source: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html>
/// ("no more than 1000 different metrics").
pub const MAX_PUBLISHED_METRICS: usize = 1000;

/// Bytes billed for one record of `bytes` bytes.
#[must_use]
pub const fn billed_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(BILLED_UNIT_BYTES) * BILLED_UNIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-L3
    #[test]
    fn a_record_is_billed_in_whole_units_of_five_kib() {
        let check = |bytes, expected| assert_eq!(billed_bytes(bytes), expected, "{bytes} bytes");
        check(1, 5120);
        check(5119, 5120);
        check(5120, 5120);
        check(5121, 10240);
    }
}
