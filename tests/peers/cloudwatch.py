"""Puts figures into a CloudWatch that is not ours, and reads back what was published in it.

cloudwatch.py put STREAM                one minute of what Firehose would publish of STREAM
cloudwatch.py sum NAMESPACE STREAM      JSON: the sum of each metric published of STREAM

Endpoint, region and credentials come from the environment, as for any AWS client.
"""

import datetime
import json
import sys

import boto3


def put(stream):
    minute = datetime.datetime.now(datetime.timezone.utc).replace(second=0, microsecond=0)
    values = {
        "IncomingBytes": 123456.0,
        "IncomingRecords": 789.0,
        "BytesPerSecondLimit": 1048576.0,
        "DeliveryToS3.DataFreshness": 61.0,
    }
    data = [
        {
            "MetricName": name,
            "Dimensions": [{"Name": "DeliveryStreamName", "Value": stream}],
            "Timestamp": minute - datetime.timedelta(minutes=3),
            "Value": value,
        }
        for name, value in values.items()
    ]
    boto3.client("cloudwatch").put_metric_data(Namespace="AWS/Firehose", MetricData=data)


def sums(namespace, stream):
    cloudwatch = boto3.client("cloudwatch")
    now = datetime.datetime.now(datetime.timezone.utc)
    found = {}
    for metric in cloudwatch.list_metrics(Namespace=namespace)["Metrics"]:
        if {"Name": "DeliveryStreamName", "Value": stream} not in metric["Dimensions"]:
            raise SystemExit(f"{metric} is not of {stream}")
        answer = cloudwatch.get_metric_data(
            MetricDataQueries=[
                {"Id": "q", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}}
            ],
            StartTime=now - datetime.timedelta(hours=1),
            EndTime=now + datetime.timedelta(minutes=2),
        )
        found[metric["MetricName"]] = sum(answer["MetricDataResults"][0]["Values"])
    print(json.dumps(found))


if __name__ == "__main__":
    {"put": put, "sum": sums}[sys.argv[1]](*sys.argv[2:])
