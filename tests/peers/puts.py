"""Puts records through boto3 into a listener of hydrant: puts.py STREAM COUNT.

Ends with an assertion's traceback at the first thing that botocore or this script did not expect.
Endpoint, region and credentials come from the environment, as for any AWS client.
"""

import sys

import boto3
from botocore.config import Config

STREAM, COUNT = sys.argv[1], int(sys.argv[2])
firehose = boto3.client("firehose", config=Config(retries={"total_max_attempts": 1}))

description = firehose.describe_delivery_stream(DeliveryStreamName=STREAM)["DeliveryStreamDescription"]
assert description["DeliveryStreamStatus"] == "ACTIVE", description
assert firehose.list_delivery_streams()["DeliveryStreamNames"] == [STREAM]
try:
    firehose.put_record(DeliveryStreamName="nowhere", Record={"Data": b"x"})
    raise AssertionError("another stream was taken")
except firehose.exceptions.ResourceNotFoundException:
    pass

lines = [b"boto3 %d\n" % number for number in range(COUNT)]
ids = {firehose.put_record(DeliveryStreamName=STREAM, Record={"Data": lines[0]})["RecordId"]}
for first in range(1, COUNT, 500):
    records = [{"Data": line} for line in lines[first : first + 500]]
    answer = firehose.put_record_batch(DeliveryStreamName=STREAM, Records=records)
    assert answer["FailedPutCount"] == 0, answer
    ids |= {entry["RecordId"] for entry in answer["RequestResponses"]}
assert len(ids) == COUNT, len(ids)
