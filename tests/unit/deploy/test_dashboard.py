"""The form of the Grafana dashboard: what makes one rot (fixed data sources, fixed windows) is not in it.

That every query returns data is shown in tests/integration/test_dashboard.py.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "octavo.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))


def test_it_is_a_classic_dashboard_that_grafana_provisions() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("octavo", "Octavo")
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "an id belongs to one database of Grafana"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "octavo.yml").read_text())["providers"]
    compose = yaml.safe_load((GRAFANA.parent / "compose.yaml").read_text())
    mounts = compose["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in mounts


def test_the_data_source_is_a_variable() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    assert VARIABLES["method"]["datasource"] == DATA_SOURCE


@each_panel
def test_a_panel_asks_the_chosen_data_source(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    assert all(each["datasource"] == DATA_SOURCE for each in [panel, *panel["targets"]])
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)


@each_panel
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


@each_panel
def test_windows_follow_the_scrape_interval_or_the_chosen_time(panel: dict[str, Any]) -> None:
    """A fixed window, or `$__interval`, is empty when it is shorter than two scrapes."""
    for target in panel["targets"]:
        windows = re.findall(r"\[([^\]]*)\]", target["expr"])
        assert set(windows) <= {"$__rate_interval", "$__range"}
        assert len(windows) == len(re.findall(r"\b(?:rate|increase)\(", target["expr"]))


@each_panel
def test_metrics_of_the_database_are_counted_once_however_many_replicas_serve_them(panel: dict[str, Any]) -> None:
    """Every API process serves the same values of them, so a plain sum would count each job once a replica."""
    for target in panel["targets"]:
        for found in re.finditer(r"octavo_(?:job|worker|lease|upload)\w*", target["expr"]):
            before = target["expr"][: found.start()]
            assert re.search(r"max (?:by|without) \([^)]*\) \((?:rate\(|increase\()?$", before), target["expr"]


def test_panels_lie_on_the_grid_and_on_nothing_else() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    boxes = [(panel["title"], panel["gridPos"]) for panel in DASHBOARD["panels"]]
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for _, box in boxes)
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        apart_across = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_down = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_across or apart_down, f"{one} covers {other}"
