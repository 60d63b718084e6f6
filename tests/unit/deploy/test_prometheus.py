"""The configuration and the alerts of Prometheus, checked by its own promtool."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from shared import errors

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
    ids=" ".join,
)
def test_promtool_finds_nothing(promtool: Path, arguments: tuple[str, ...]) -> None:
    result = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tested_silent_and_firing() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    silent, firing = ({case["alertname"] for case in test["alert_rule_test"]} for test in tests)
    assert silent == firing == {rule["alert"] for rule in RULES}
    assert all(case.get("exp_alerts") for case in tests[1]["alert_rule_test"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    headings = re.findall(r"^## (\w+)$", (DEPLOY / "runbook.md").read_text(), re.MULTILINE)
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "deploy/runbook.md"
    assert anchor in {heading.lower() for heading in headings}


def test_the_alert_on_service_faults_names_the_code_of_every_one() -> None:
    """A new error of the service's must be added there; `stale_fence` and `plan_unavailable` never end a job."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "OctavoServiceFaults")
    named = re.search(r'reason=~"([^"]+)"', rule["expr"])
    assert named is not None
    codes = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.ServiceError)
    }
    assert set(named[1].split("|")) == codes - {errors.StaleFence.code, errors.PlanUnavailable.code}
