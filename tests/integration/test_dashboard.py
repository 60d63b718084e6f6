"""Every query of every panel returns data from a real Prometheus that scraped a real service while jobs ran."""

import contextlib
import json
import math
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from octavo import Client
from server.broker import Broker
from shared.database import metrics
from tests.conftest import skipped_if_missing
from tests.services.process import wait_until
from tests.services.prometheus import PrometheusServer, prometheus
from tests.services.s3_server import S3Server
from tests.services.small_inputs import write_dataset, write_model
from tests.services.stack import Stack, running_stack

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "octavo.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]
# What Grafana puts in: four scrapes at least, and more than the jobs take.
VARIABLES = {"$__rate_interval": "3m", "$__range": "10m", "$method": ".*"}
QUICK: dict[str, Any] = {"runtimes": ["torch"], "benchmark": {"max_seconds": 0.2}}


@dataclass
class Scraped:
    """A Prometheus, and the service that it scrapes."""

    server: PrometheusServer
    stack: Stack

    def exposed(self) -> set[str]:
        """The names of all series that the service exposes now."""
        with urllib.request.urlopen(f"{self.stack.url}/metrics") as answer:
            return set(re.findall(r"^(octavo_\w+)", answer.read().decode(), re.MULTILINE))


@pytest.fixture(scope="module")
def scraped(
    broker: Broker, postgres_url: str, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scraped]:
    directory = tmp_path_factory.mktemp("dashboard")
    with running_stack(directory, database_url=postgres_url, broker=broker, storage=s3.settings(), workers=1) as stack:
        configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["rule_files"] = []
        (scrape,) = configuration["scrape_configs"]
        del scrape["dns_sd_configs"]
        scrape["static_configs"] = [{"targets": [stack.url.removeprefix("http://")]}]
        with skipped_if_missing(lambda: prometheus(yaml.safe_dump(configuration), directory / "prometheus")) as server:
            scraped = Scraped(server, stack)
            with stack.client() as client:
                run_jobs(client, scraped, directory)
            yield scraped


def run_jobs(client: Client, scraped: Scraped, directory: Path) -> None:
    """The same jobs twice, because a rate needs a value before and a value after."""
    model = client.models.upload(write_model(directory / "model.pt2"))
    for turn in (1, 2):
        data = client.datasets.upload(write_dataset(directory / f"data-{turn}.npz", seed=turn))
        client.models.upload(write_model(directory / f"other-{turn}.pt2", width=8 + turn))
        jobs = [
            client.jobs.quantize(model, "dynamic", evaluation=data, **QUICK),
            client.jobs.quantize(model, "static", calibration=data, evaluation=data, **QUICK),
            client.jobs.quantize(model, "qat", training=data, evaluation=data, qat={"epochs": 1}, **QUICK),
        ]
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"{client.url}/no-such-page")
        for job in jobs:
            job.wait(timeout=240, progress=False)
            assert job.status == "succeeded", scraped.stack.logs()
        count = len(jobs) * turn
        wait_until(
            lambda count=count: values(scraped, "sum(octavo_jobs_finished_total)") == [count],
            f"Prometheus to have seen {count} finished jobs",
        )
    # The second values of counters that rose last.
    seen = "count_over_time(octavo_jobs_finished_total[10m]) >= 3"
    wait_until(lambda: values(scraped, seen), "three scrapes of every counter")


def values(scraped: Scraped, expression: str) -> list[float]:
    """The values that an expression gives now."""
    return [float(series["value"][1]) for series in scraped.server.query(expression)]


def substituted(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("expression", QUERIES)
def test_every_panel_has_data(scraped: Scraped, expression: str) -> None:
    found = values(scraped, substituted(expression))
    assert found, "the panel is empty"
    assert any(math.isfinite(value) for value in found), found


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_no_alert_fires_on_a_service_that_works(scraped: Scraped, rule: dict[str, str]) -> None:
    assert values(scraped, rule["expr"]) == []


def test_every_metric_that_a_panel_or_an_alert_names_is_exposed(scraped: Scraped) -> None:
    """A misspelt name behind `or vector(0)`, or in an alert, would be silent for ever."""
    expressions = [query.values[0] for query in QUERIES] + [rule["expr"] for rule in ALERTS]
    named = {name for expression in expressions for name in re.findall(r"\boctavo_\w+", str(expression))}
    # Counters of what has not happened yet.
    assert named - scraped.exposed() <= set(metrics.HELP)
