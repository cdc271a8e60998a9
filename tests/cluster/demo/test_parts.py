"""The demo's parts that need no cluster."""

from pathlib import Path

import pytest

from tests.cluster.demo.comparison import compare
from tests.cluster.demo.delivery_file import DeliveryFile, Row, encode_rows, merge
from tests.cluster.demo.display import table_lines
from tests.cluster.demo.killing import kill_points
from tests.cluster.demo.ledger import Delivery, SentRecords
from tests.cluster.demo.log_lines import fingerprint, repeat, split_log
from tests.cluster.demo.settings import Settings, SettingsError, read_settings


def test_settings_come_from_the_environment():
    assert read_settings({}) == Settings()
    assert read_settings(
        {"RECORDS": "500", "LOGS": "a b", "KEEP": "1", "KILL": "metadata,broker"}
    ) == Settings(records=500, logs=("a", "b"), keep=True, kill=("metadata", "broker"))
    assert not read_settings({"KEEP": "0"}).keep


@pytest.mark.parametrize(
    "environment", [{"RECORDS": "many"}, {"RECORDS": "0"}, {"KILL": "disk"}, {"DEMO_TAMPER": "x"}]
)
def test_settings_that_mean_nothing_are_refused(environment: dict[str, str]):
    with pytest.raises(SettingsError):
        read_settings(environment)


def test_only_a_killed_coordinator_excuses_redelivery():
    assert Settings(kill=("coordinator",)).excuse_redelivery
    assert not Settings(kill=("broker", "metadata")).excuse_redelivery


def test_lines_keep_their_number_and_what_they_are_about():
    lines = split_log(
        "dpkg.log",
        b"2026-01-01 10:00:00 status installed tar:amd64 1.34\n\n"
        b'{"event": "listening", "port": 1}\n{broken\n\xff\n',
    )
    assert [(line.number, line.key) for line in lines] == [
        (1, b"dpkg.log:tar:amd64"),
        (3, b"dpkg.log:listening"),
        (4, b"dpkg.log:{broken"),
        (5, b"dpkg.log:\xff"),
    ]


def test_lines_are_repeated_until_there_are_enough():
    lines = split_log("l", b"a\nb\n")
    assert [line.text for line in repeat(lines, 5)] == [b"a", b"b", b"a", b"b", b"a"]
    with pytest.raises(ValueError, match="no log lines"):
        repeat([], 5)


def test_fingerprints_tell_key_value_and_line_apart():
    prints = {
        fingerprint(b"k", b"v", b"1"),
        fingerprint(b"k", b"v", b"2"),
        fingerprint(b"k", b"w", b"1"),
        fingerprint(b"j", b"v", b"1"),
    }
    assert len(prints) == 4


def test_kills_are_spread_over_the_records():
    assert kill_points(200_000, 3) == [50_000, 100_000, 150_000]
    assert kill_points(10, 0) == []


def test_delivery_files_are_read_while_they_grow(tmp_path: Path):
    path = tmp_path / "rows"
    file = DeliveryFile(path)
    assert list(file.read_new()) == []
    data = encode_rows([Row(0, 5, 17, 2**32 - 1, 100), Row(2, 6, 18, 0, 100)])
    path.write_bytes(data[:50])
    assert list(file.read_new()) == [17]
    path.write_bytes(data)
    assert list(file.read_new()) == [18]
    assert file.partitions() == {0, 2}


def test_members_are_merged_in_the_order_of_their_polls(tmp_path: Path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(encode_rows([Row(0, 0, 0, 9, 100), Row(0, 1, 1, 9, 100)]))
    second.write_bytes(encode_rows([Row(1, 0, 5, 9, 50), Row(0, 2, 2, 9, 300)]))
    files = [DeliveryFile(first), DeliveryFile(second)]
    for file in files:
        file.read_new()
    merged = [(each.partition, each.offset) for each in merge(files)]
    assert merged == [(1, 0), (0, 0), (0, 1), (0, 2)]


def test_the_table_has_a_line_for_each_partition():
    sent = SentRecords()
    sent.acknowledge(sent.add(1), 0, 0)
    result = compare(sent, [Delivery(0, 0, 0, 1)], {0: 1}, {0: 1, 1: 0})
    title, first, second = table_lines(result, {0: "broker-1", 1: "broker-2"}, {0: ["member-1"]})
    assert title.split()[:3] == ["partition", "leader", "members"]
    assert first.split() == ["0", "broker-1", "member-1", "1", "1", *"0000", "1", "1", "0"]
    assert second.split()[:3] == ["1", "broker-2", "-"]
