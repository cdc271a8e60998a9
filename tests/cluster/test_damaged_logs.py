"""Damaged files of a broker are found, never served, and repaired from its peers."""

from pathlib import Path

import pytest

from tests.campaigns.damage import damage

pytestmark = pytest.mark.slow


def test_one_brokers_damaged_files_are_repaired_from_its_peers(tmp_path: Path) -> None:
    result = damage(6, 1, tmp_path)
    assert result["cases"] >= 30
    assert result["set_aside"] > 0
    assert result["served"] == 0
    assert result["spread"] == []
    assert "LOG_DAMAGED" not in result["reader_errors"]
