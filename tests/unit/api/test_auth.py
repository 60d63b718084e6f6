"""Keys come from the settings and the data directory; only whole keys open."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from api.auth import ApiKeys
from shared.settings import ApiSettings, Settings


def test_only_a_whole_key_is_accepted() -> None:
    keys = ApiKeys(["one", "two"])
    assert keys.accepts("one")
    assert keys.accepts("two")
    for wrong in ("", "on", "one ", "ONE", "one\x00", "onetwo"):
        assert not keys.accepts(wrong)


def test_the_settings_and_the_file_in_the_data_directory_both_count(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("from the file\n")
    keys = ApiKeys.from_settings(Settings(data_dir=tmp_path, api=ApiSettings(keys=[SecretStr("set")])))
    assert keys.accepts("from the file")
    assert keys.accepts("set")


def test_no_key_or_an_empty_one_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("\n")
    keys = ApiKeys.from_settings(Settings(data_dir=tmp_path, api=ApiSettings(keys=[SecretStr("")])))
    assert not keys
    assert not keys.accepts("")
