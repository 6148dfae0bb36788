"""Deploys a template to a CloudFormation that is not ours, and looks at what came of it.

stack.py deploy NAME TEMPLATE       makes the stack; prints its outputs as JSON
stack.py watched                    the names of all alarms and dashboards, as JSON
stack.py collect BUCKET DIRECTORY   every object of the bucket, a file each; prints their keys as JSON

Endpoint, region and credentials come from the environment, as for any AWS client.
"""

import json
import pathlib
import sys

import boto3
from botocore.exceptions import WaiterError


def deploy(name, template):
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=pathlib.Path(template).read_text(),
        Capabilities=["CAPABILITY_IAM"],
    )
    wait = {"Delay": 1, "MaxAttempts": 120}
    try:
        cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig=wait)
    except WaiterError:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        sys.exit("; ".join(event["LogicalResourceId"] + ": " + event["ResourceStatusReason"]
                           for event in events if event.get("ResourceStatusReason")))
    stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def watched():
    cloudwatch = boto3.client("cloudwatch")
    return {
        "alarms": [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms()["MetricAlarms"]],
        "dashboards": [entry["DashboardName"] for entry in cloudwatch.list_dashboards()["DashboardEntries"]],
    }


def collect(bucket, directory):
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    for number, key in enumerate(keys):
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        pathlib.Path(directory, str(number)).write_bytes(body)
    return keys


if __name__ == "__main__":
    commands = {"deploy": deploy, "watched": watched, "collect": collect}
    print(json.dumps(commands[sys.argv[1]](*sys.argv[2:])))
