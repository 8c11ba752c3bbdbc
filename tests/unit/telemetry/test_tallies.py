"""A tally tells what Prometheus' own histogram tells of the same values."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from node.telemetry.tallies import Tallies

BOUNDS = (0.001, 0.02, 1.0, 5.0)


@given(st.lists(st.floats(0, 10) | st.sampled_from(BOUNDS), max_size=20))
def test_a_tally_tells_what_a_histogram_of_prometheus_tells(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tallies("name", "Words.", "model", bounds=BOUNDS, registry=ours).labels("tiny")
    histogram = Histogram("name", "Words.", ("model",), buckets=BOUNDS, registry=theirs).labels("tiny")
    for value in values:
        tally.observe(value)
        histogram.observe(value)
    expected = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == expected
