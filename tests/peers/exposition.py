"""Reads what /metrics answered with Prometheus's own parsers: exposition.py OPENMETRICS CLASSIC.

The files hold the two texts of one daemon that has come to rest. Ends with an assertion's traceback
at the first thing that a parser or this script did not expect.
"""

import pathlib
import sys

from prometheus_client import parser as classic
from prometheus_client.openmetrics import parser as openmetrics

LEDGER = ("delivered_total", "dead_lettered_total", "dropped_total", "held")
# What goes on while the daemon is at rest.
RESTLESS = ("process_", "hydrant_uptime_seconds", "hydrant_stream_poll_age_seconds", "hydrant_monitor_")


def read(parser, path):
    """The families by name, and the samples by name and labels."""
    text = pathlib.Path(path).read_text()
    families = list(parser.text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family that comes twice"
    samples = {}
    for family in families:
        assert family.type in ("counter", "gauge", "histogram"), family
        assert family.documentation, family
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in samples, key
            samples[key] = sample.value
    return {family.name: family.type for family in families}, samples


def total(samples, name):
    return sum(value for (found, _), value in samples.items() if found == name)


open_families, open_samples = read(openmetrics, sys.argv[1])
families, samples = read(classic, sys.argv[2])
assert len(samples) > 100, len(samples)
assert open_families == families, set(open_families.items()) ^ set(families.items())
for key in open_samples.keys() | samples.keys():
    if not key[0].startswith(RESTLESS):
        assert open_samples[key] == samples[key], key

settled = sum(total(samples, f"hydrant_records_{column}") for column in LEDGER)
assert total(samples, "hydrant_records_received_total") == settled > 0, settled
assert total(samples, "hydrant_retried_records_total") > 0
assert total(samples, "hydrant_records_rejected_total") > 0
