"""Uses `hydrant local` through boto3 as an application would: client.py STREAM.

Ends with an assertion's traceback at the first thing that botocore or this script did not expect.
Endpoint, region and credentials come from the environment, as for any AWS client.
"""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

STREAM = sys.argv[1]
firehose = boto3.client("firehose", config=Config(retries={"total_max_attempts": 1}))


def refused(code, message, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error
        assert message in error.response["Error"]["Message"], error
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, error
        return error
    raise AssertionError(f"{code} was expected")


def records(count, data=b"x"):
    return [{"Data": data}] * count


def described(stream):
    return firehose.describe_delivery_stream(DeliveryStreamName=stream)["DeliveryStreamDescription"]


# A stream that is there from the start.
description = described(STREAM)
assert description["DeliveryStreamStatus"] == "ACTIVE", description
assert description["DeliveryStreamType"] == "DirectPut", description
assert description["DeliveryStreamARN"].endswith(f":deliverystream/{STREAM}"), description
assert firehose.list_delivery_streams()["DeliveryStreamNames"] == [STREAM]

# One of our own.
arn = firehose.create_delivery_stream(
    DeliveryStreamName="made",
    ExtendedS3DestinationConfiguration={
        "RoleARN": "arn:aws:iam::123456789012:role/firehose",
        "BucketARN": "arn:aws:s3:::delivered",
        "BufferingHints": {"SizeInMBs": 1, "IntervalInSeconds": 60},
    },
)["DeliveryStreamARN"]
assert arn == described("made")["DeliveryStreamARN"], arn
assert firehose.list_delivery_streams()["DeliveryStreamNames"] == sorted([STREAM, "made"])
in_use = refused(
    "ResourceInUseException", "made", firehose.create_delivery_stream, DeliveryStreamName="made"
)
assert isinstance(in_use, firehose.exceptions.ResourceInUseException)
firehose.delete_delivery_stream(DeliveryStreamName="made")
gone = refused("ResourceNotFoundException", "made", described, stream="made")
assert isinstance(gone, firehose.exceptions.ResourceNotFoundException)

# Records: one, binary; then as many as a request takes.
single = firehose.put_record(DeliveryStreamName=STREAM, Record={"Data": bytes(range(256)) + b"\n"})
assert single["RecordId"] and single["Encrypted"] is False, single
numbered = [{"Data": b"record %d\n" % number} for number in range(500)]
batch = firehose.put_record_batch(DeliveryStreamName=STREAM, Records=numbered)
assert batch["FailedPutCount"] == 0, batch["FailedPutCount"]
ids = {entry["RecordId"] for entry in batch["RequestResponses"]}
assert len(ids) == 500 and single["RecordId"] not in ids

# What is refused.
put_batch = firehose.put_record_batch
refused(
    "ResourceNotFoundException", "nowhere", put_batch, DeliveryStreamName="nowhere", Records=records(1)
)
refused(
    "ValidationException", "equal to 500", put_batch, DeliveryStreamName=STREAM, Records=records(501)
)
refused(
    "ValidationException",
    "1024000",
    firehose.put_record,
    DeliveryStreamName=STREAM,
    Record={"Data": b"x" * 1_024_001},
)
too_much = refused(
    "InvalidArgumentException",
    "4 MB",
    put_batch,
    DeliveryStreamName=STREAM,
    Records=records(5, b"x" * 1_000_000),
)
assert isinstance(too_much, firehose.exceptions.InvalidArgumentException)
