"""Metrics in Prometheus's text format."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Values by name and labels: ("vento_streams_open", "GET /")."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sorted(sample.labels.items(), key=lambda label: label[0] != "route")
            key = sample.name.removeprefix("vento_"), *(value for _, value in labels)
            found[key] = sample.value
    return found
