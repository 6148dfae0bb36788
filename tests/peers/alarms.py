"""Holds what is stored in CloudWatch against the files that it was made of.

alarms.py ALARMS DASHBOARD NAME=VALUE…    with the values of the files' placeholders

Checks the alarms against botocore's model of PutMetricAlarm first: members, types, enumerations,
lengths and patterns. Endpoint, region and credentials come from the environment.
"""

import json
import pathlib
import re
import string
import sys

import boto3
from botocore.validate import ParamValidator

values = dict(argument.split("=", 1) for argument in sys.argv[3:])
cloudwatch = boto3.client("cloudwatch")


def read(path):
    return json.loads(string.Template(pathlib.Path(path).read_text()).substitute(values))


def check(value, shape, path):
    """What botocore leaves to the service."""
    if shape.type_name == "structure":
        for name, member in value.items():
            check(member, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        most = shape.metadata.get("max")
        assert most is None or len(value) <= most, f"{path} is too long"
        for member in value:
            check(member, shape.member, path)
    elif shape.type_name == "string":
        enum, pattern = getattr(shape, "enum", None), shape.metadata.get("pattern")
        assert not enum or value in enum, f"{path}: {value} is none of {enum}"
        assert not pattern or re.fullmatch(pattern, value), f"{path}: {value} is not {pattern}"
        assert len(value) <= shape.metadata.get("max", len(value)), f"{path} is too long"


def holds(stored, wanted, path):
    """Whether everything that was wanted is stored."""
    if isinstance(wanted, dict):
        for name, member in wanted.items():
            assert name in stored, f"{path}.{name} is not stored"
            holds(stored[name], member, f"{path}.{name}")
    elif isinstance(wanted, list):
        assert len(stored) == len(wanted), path
        for number, member in enumerate(wanted):
            holds(stored[number], member, f"{path}[{number}]")
    else:
        assert stored == wanted, f"{path}: {stored} is stored, {wanted} was wanted"


alarms = read(sys.argv[1])
shape = cloudwatch.meta.service_model.operation_model("PutMetricAlarm").input_shape
for alarm in alarms:
    name = alarm["AlarmName"]
    problems = ParamValidator().validate(alarm, shape)
    assert not problems.has_errors(), f"{name}: {problems.generate_report()}"
    check(alarm, shape, name)

found = [alarm for page in cloudwatch.get_paginator("describe_alarms").paginate() for alarm in page["MetricAlarms"]]
found = {alarm["AlarmName"]: alarm for alarm in found}
assert found.keys() == {alarm["AlarmName"] for alarm in alarms}, found.keys()
for alarm in alarms:
    holds(found[alarm["AlarmName"]], alarm, alarm["AlarmName"])

dashboards = cloudwatch.list_dashboards()["DashboardEntries"]
assert [entry["DashboardName"] for entry in dashboards] == [f"hydrant-{values['STREAM']}"], dashboards
stored = cloudwatch.get_dashboard(DashboardName=dashboards[0]["DashboardName"])["DashboardBody"]
assert json.loads(stored) == read(sys.argv[2]), "the dashboard is not what was wanted"
