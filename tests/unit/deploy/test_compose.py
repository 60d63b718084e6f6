"""deploy/compose.yaml against the compose specification, the settings it sets, and the files it names."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from shared.settings import Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = {"migrate", "api", "worker"}


def test_it_follows_the_compose_specification() -> None:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_example_of_secrets_names_each_one_that_it_asks_for() -> None:
    asked = set(re.findall(r"\$\{(\w+)", TEXT))
    example = set(re.findall(r"^(\w+)=$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))
    assert asked == example
    assert len(re.findall(r"\$\{\w+:\?", TEXT)) == TEXT.count("${"), "a missing secret must be an error"


@pytest.mark.parametrize("service", sorted(OWN))
def test_every_setting_that_it_sets_exists(service: str) -> None:
    """A misspelt setting would be ignored in silence."""
    names = [name for name in SERVICES[service]["environment"] if name.startswith("OCTAVO_")]
    assert names
    for name in names:
        model: type[BaseModel] = Settings
        *path, last = name.removeprefix("OCTAVO_").lower().split("__")
        for part in path:
            annotation = model.model_fields[part].annotation
            assert isinstance(annotation, type)
            assert issubclass(annotation, BaseModel)
            model = annotation
        assert last in model.model_fields, name


def test_its_settings_are_valid_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["api"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{(\w+)[^}]*\}", r"\1", value))
    settings = Settings()
    assert settings.database_url == "postgresql+psycopg://octavo:POSTGRES_PASSWORD@postgres/octavo"
    assert [key.get_secret_value() for key in settings.api.keys] == ["OCTAVO_API_KEY"]
    assert settings.storage.kind == "s3"


@pytest.mark.parametrize("service", sorted(set(SERVICES) - OWN))
def test_every_server_that_it_brings_is_pinned_and_tells_its_health(service: str) -> None:
    assert not SERVICES[service]["image"].endswith((":latest", service))
    assert ":" in SERVICES[service]["image"]
    assert "healthcheck" in SERVICES[service]


@pytest.mark.parametrize("service", sorted(OWN))
def test_octavos_own_containers_give_up_what_they_do_not_need(service: str) -> None:
    assert SERVICES[service]["read_only"] is True
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert SERVICES[service]["security_opt"] == ["no-new-privileges:true"]


def test_nothing_is_published_beyond_this_host() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_path_that_it_mounts_exists() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", []) if mount.startswith("./")]
    assert mounts
    assert all((DEPLOY / mount.split(":")[0]).exists() for mount in mounts)


def test_the_worker_is_given_longer_to_stop_than_its_jobs() -> None:
    grace = float(SERVICES["worker"]["environment"]["OCTAVO_WORKER__SHUTDOWN_GRACE_SECONDS"])
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > grace + 5


def test_all_workers_of_the_host_share_the_folder_by_which_they_make_way_for_each_other() -> None:
    """A named volume, where the worker looks for it in the data directory that the image sets and makes it in."""
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text()
    (data_dir,) = re.findall(r"OCTAVO_DATA_DIR=(\S+)", dockerfile)
    path = Settings(data_dir=Path(data_dir)).node_path
    assert f"node:{path}" in SERVICES["worker"]["volumes"]
    assert "node" in COMPOSE["volumes"]
    assert re.search(rf"install --directory .*--mode=0700 .*{path}$", dockerfile, re.MULTILINE)
