"""Counters and Prometheus' text format (experience U6)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.metrics import Counters, Family, Histogram, exposition, families


def test_counters_have_fixed_names() -> None:
    """Counting is a plain add; a name that was not declared is an error, not a new counter."""
    counters = Counters("sent", "refused")
    counters["sent"] += 2
    assert counters == {"sent": 2, "refused": 0}
    with pytest.raises(KeyError):
        counters["snet"] += 1


def test_exposition_can_be_read_back() -> None:
    """Prometheus' own parser reads the text, with prefix, kinds and values."""
    text = exposition("edge", families("uplink", {"resends": 3, "unconfirmed": 2}, gauges={"unconfirmed"}))
    read = {family.name: family for family in text_string_to_metric_families(text)}
    assert read["fieldpost_edge_uplink_resends"].type == "counter"
    assert read["fieldpost_edge_uplink_resends"].samples[0].name == "fieldpost_edge_uplink_resends_total"
    assert read["fieldpost_edge_uplink_unconfirmed"].type == "gauge"
    assert read["fieldpost_edge_uplink_unconfirmed"].samples[0].value == 2


def test_hostile_labels_stay_labels() -> None:
    """A label value cannot forge a line."""
    labels = {"rule": 'a"} 1\nfake 2', "namespace": "\\"}
    text = exposition("cloud", [Family("results", "counter", "Results", [(labels, 5)])])
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == labels
    assert family.samples[0].value == 5


def test_histogram_counts_each_value_once() -> None:
    """A value on a bound belongs to it; buckets add up; sum and count are those of the values."""
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    text = exposition("edge", [Family("execution_seconds", "histogram", "Time", [({"rule": "r"}, histogram)])])
    (family,) = text_string_to_metric_families(text)
    found = {(sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value for sample in family.samples}
    assert found == {
        ("bucket", "0.1"): 2,
        ("bucket", "1.0"): 3,
        ("bucket", "+Inf"): 4,
        ("count", None): 4,
        ("sum", None): pytest.approx(7.65),
    }


def test_mistakes_are_errors() -> None:
    """The same name twice, a histogram that is none, and bounds that do not grow are refused."""
    twice = [Family("a", "gauge", "", [({}, 1)])] * 2
    with pytest.raises(ValueError, match="fieldpost_edge_a stands twice"):
        exposition("edge", twice)
    with pytest.raises(ValueError, match="is a histogram"):
        exposition("edge", [Family("a", "histogram", "", [({}, 1)])])
    with pytest.raises(ValueError, match="is no histogram"):
        exposition("edge", [Family("a", "gauge", "", [({}, Histogram())])])
    with pytest.raises(ValueError, match="bounds must grow"):
        Histogram((1.0, 0.5))


def test_no_samples_is_no_error() -> None:
    """A metric without samples yet is there with its type."""
    assert "fieldpost_cloud_results" in exposition("cloud", [Family("results", "counter", "Results", [])])


def test_prometheus_is_loaded_when_asked_for() -> None:
    """Counting does not load prometheus_client; a process that nobody scrapes does not pay for it."""
    program = "import sys, common.metrics as m; m.Counters('a')['a'] += 1; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
