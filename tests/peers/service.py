"""Prepares an AWS service that is not ours, and reads back what was delivered to it.

service.py create STREAM [JSON]  a bucket, a role and a delivery stream that delivers to the bucket, with the
                                 destination's members in JSON added
service.py collect DIRECTORY     every object of the bucket, a file each

Endpoint, region and credentials come from the environment, as for any AWS client.
"""

import json
import pathlib
import sys

import boto3

BUCKET = "delivered"


def create(stream, members="{}"):
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    trust = '{"Version":"2012-10-17","Statement":[]}'
    role = boto3.client("iam").create_role(RoleName="firehose", AssumeRolePolicyDocument=trust)
    boto3.client("firehose").create_delivery_stream(
        DeliveryStreamName=stream,
        ExtendedS3DestinationConfiguration={
            "RoleARN": role["Role"]["Arn"],
            "BucketARN": f"arn:aws:s3:::{BUCKET}",
            **json.loads(members),
        },
    )


def collect(directory):
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    for number, key in enumerate(keys):
        body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        pathlib.Path(directory, str(number)).write_bytes(body)


if __name__ == "__main__":
    {"create": create, "collect": collect}[sys.argv[1]](*sys.argv[2:])
