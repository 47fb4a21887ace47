"""Counting, and Prometheus text (experience U6).

Counting is a plain integer add on the event loop; Prometheus' own objects, with a lock per update, are made only when
somebody asks for ``/metrics``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SECONDS_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = Mapping[str, str]


class Counters(dict[str, int]):
    """The counts of one owner by fixed names: ``counters["sent"] += 1``. An undeclared name is a KeyError."""

    def __init__(self, *names: str) -> None:
        super().__init__(dict.fromkeys(names, 0))


class Histogram:
    """How often a value fell below each bound. ``bounds`` grow; seconds from 0.1 ms to 10 s by default."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS_BOUNDS) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError("bounds must grow")
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, ``count`` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count


class Family(NamedTuple):
    """One metric: a name without prefix and without ``_total``, its kind, help, and a value per set of labels.

    All samples have the same label names. A histogram's values are ``Histogram``.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[Labels, float | Histogram]]


def families(owner: str, statistics: Mapping[str, int], gauges: Collection[str] = ()) -> Iterator[Family]:
    """Yield the metrics of one owner's ``statistics()``: ``<owner>_<name>``; those in ``gauges`` may also fall."""
    for name, value in statistics.items():
        kind: Literal["counter", "gauge"] = "gauge" if name in gauges else "counter"
        yield Family(f"{owner}_{name}", kind, f"{name.replace('_', ' ')} of {owner}", [({}, value)])


def exposition(side: Literal["edge", "cloud"], metrics: Iterable[Family]) -> str:
    """Return Prometheus' text format; every name gets the prefix ``fieldpost_<side>_``, counters end in ``_total``.

    Raises ValueError for a name that stands twice or that Prometheus does not take.
    """
    from prometheus_client import generate_latest  # here, so that a process nobody scrapes need not load it
    from prometheus_client.registry import Collector, CollectorRegistry

    seen: dict[str, Metric] = {}
    for family in metrics:
        name = f"fieldpost_{side}_{family.name}"
        if name in seen:
            raise ValueError(f"metric {name} stands twice")
        seen[name] = _metric(name, family)

    class _Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return seen.values()

    registry = CollectorRegistry()
    registry.register(_Once())
    return generate_latest(registry).decode()


def _metric(name: str, family: Family) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    names = list(family.samples[0][0]) if family.samples else []
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=names)
        for labels, value in family.samples:
            if not isinstance(value, Histogram):
                raise ValueError(f"metric {name} is a histogram")
            histogram.add_metric([labels[key] for key in names], _buckets(value), value.sum)
        return histogram
    plain = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(name, family.help, labels=names)
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            raise ValueError(f"metric {name} is no histogram")
        plain.add_metric([labels[key] for key in names], value)
    return plain


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
    return buckets
