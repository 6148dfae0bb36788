"""Registers a task definition with an ECS that is not ours, and prints it as that describes it.

ecs.py FILE

Endpoint, region and credentials come from the environment, as for any AWS client. The client holds the
file to the model of RegisterTaskDefinition before it sends anything.
"""

import json
import pathlib
import sys

import boto3

ecs = boto3.client("ecs")
definition = json.loads(pathlib.Path(sys.argv[1]).read_text())
registered = ecs.register_task_definition(**definition)["taskDefinition"]["taskDefinitionArn"]
described = ecs.describe_task_definition(taskDefinition=registered)["taskDefinition"]
print(json.dumps(described, default=str))
