"""What survives a stop, and what is refused at a start."""

import json
from pathlib import Path

import pytest

from millstream import Admin, Consumer, NewTopic, Producer, TopicPartition
from tests.campaigns.embedded import EmbeddedNode

TOPIC = "kept"


def produce(node: EmbeddedNode, count: int) -> list[tuple[int, int]]:
    with Producer(bootstrap_servers=node.address) as producer:
        receipts = [producer.send(TOPIC, b"%d" % n, key=b"%d" % n) for n in range(count)]
        producer.flush()
    return [(receipt.result(10).partition, receipt.result(10).offset) for receipt in receipts]


def read_all(node: EmbeddedNode, count: int) -> dict[tuple[int, int], bytes]:
    found: dict[tuple[int, int], bytes] = {}
    with Consumer(bootstrap_servers=node.address, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(TOPIC, number) for number in range(3)])
        while len(found) < count:
            batches = consumer.getmany(timeout_ms=10_000)
            assert batches, f"only {len(found)} of {count} records came"
            for part, records in batches.items():
                found.update({(part.partition, r.offset): r.value for r in records})
    return found


@pytest.mark.parametrize("graceful", [True, False], ids=["stopped", "killed"])
def test_topics_records_and_commits_are_kept(own_node: EmbeddedNode, graceful: bool) -> None:
    with Admin(bootstrap_servers=own_node.address) as admin:
        admin.create_topics([NewTopic(TOPIC, 3, configs={"retention.ms": "86400000"})])
    places = produce(own_node, 500)
    with Consumer(
        bootstrap_servers=own_node.address,
        group_id="g",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        consumer.subscribe([TOPIC])
        got = 0
        while got < 500:
            got += sum(map(len, consumer.getmany(timeout_ms=10_000).values()))
        consumer.commit()
    if graceful:
        assert own_node.stop()
    else:
        own_node.kill()
    own_node.start()
    found = read_all(own_node, 500)
    assert [found[place] for place in places] == [b"%d" % n for n in range(500)]
    with Admin(bootstrap_servers=own_node.address) as admin:
        assert admin.describe_configs([TOPIC])[TOPIC]["retention.ms"].value == "86400000"
        committed = admin.list_group_offsets("g")
    assert sum(entry.offset for entry in committed.values()) == 500


def test_a_second_process_on_the_same_folder_is_refused(own_node: EmbeddedNode) -> None:
    second = own_node.sibling()
    with pytest.raises(RuntimeError, match="another process uses"):
        second.start()


def test_a_folder_of_another_node_or_a_newer_format_is_refused(tmp_path: Path) -> None:
    node = EmbeddedNode(tmp_path / "node")
    identity_path = tmp_path / "node" / "data" / "node.json"
    identity = json.loads(identity_path.read_text())
    for change, words in (
        ({"node_id": 7}, "belongs to node 7"),
        ({"format_version": 99}, "newer version"),
    ):
        identity_path.write_text(json.dumps({**identity, **change}))
        with pytest.raises(RuntimeError, match=words):
            node.start()
    identity_path.write_text(json.dumps(identity))
    node.start()
    assert node.stop()
