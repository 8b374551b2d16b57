"""`/metrics`: honest and bounded."""

from __future__ import annotations

from .surface import KEYS, SCRAPE_KEY, USER_KEY, build_yard, listening


def test_refusals_are_counted_once_by_code_whatever_callers_send() -> None:
    with listening(build_yard(keys=KEYS, requests_max=1)) as node:
        for n in range(50):
            node.ask("GET", f"/v1/models/model-{n}", {"x-api-key": f"key-{n}"})
        node.ask("GET", "/livez", {"host": "evil.tld"})
        node.ask("POST", "/v1/completions", {"x-api-key": USER_KEY})
        node.ask("POST", "/v1/completions", {"x-api-key": USER_KEY})
        reply = node.ask("GET", "/metrics", {"x-api-key": SCRAPE_KEY})

    lines = reply.body.decode().splitlines()
    counted = {line for line in lines if line.startswith("modelyard_refusals_total")}
    assert counted == {
        'modelyard_refusals_total{code="invalid_api_key"} 50.0',
        'modelyard_refusals_total{code="host_not_allowed"} 1.0',
        'modelyard_refusals_total{code="rate_limit_exceeded"} 1.0',
    }
    assert "modelyard_ready 1.0" in lines
    assert reply.headers["content-type"].startswith("text/plain; version=")


def test_openmetrics_is_spoken_to_those_who_ask() -> None:
    with listening(build_yard()) as node:
        reply = node.ask("GET", "/metrics", {"accept": "application/openmetrics-text; version=1.0.0"})

    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")
