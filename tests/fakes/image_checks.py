"""What invariants 1 to 7 say of one image and of one step, as assertions."""

from millstream_raft.delta import Delta
from millstream_raft.image import Image, PartitionState
from millstream_raft.image_codec import encode_partition, sealed_topic


def check_image(image: Image) -> None:
    """Invariants 1 to 7, as far as one image shows them."""
    assert len({node.epoch for node in image.nodes.values()}) == len(image.nodes)
    assert all(node.epoch < image.next_node_epoch for node in image.nodes.values())
    assert {topic.name: key for key, topic in image.topics.items()} == image.topic_ids
    for topic in image.topics.values():
        assert topic.encoded == sealed_topic(topic).encoded
        for number, partition in enumerate(topic.partitions):
            assert partition.number == number
            assert partition.encoded == encode_partition(partition)
            check_partition(image, partition)
    producer_ids = [lease.producer_id for lease in image.shards]
    assert len(set(producer_ids)) == len(producer_ids)
    assert all(one < image.next_producer_id for one in producer_ids)
    for lease in image.shards:
        owner = image.node(lease.owner_id)
        assert lease.owner_id is None or (owner is not None and owner.may_coordinate)
    live = [node.node_id for node in image.nodes.values() if node.may_coordinate]
    if live and image.shards:
        owned = [len(image.shards_owned_by(node_id)) for node_id in live]
        assert sum(owned) == len(image.shards)
        assert max(owned) - min(owned) <= 1


def check_partition(image: Image, partition: PartitionState) -> None:
    isr, elr, replicas = set(partition.isr), set(partition.elr), set(partition.replicas)
    assert len(partition.isr) == len(isr)
    assert isr <= replicas
    assert elr <= replicas
    assert set(partition.last_known_elr) <= replicas
    assert not isr & elr
    assert not (isr | elr) & set(partition.last_known_elr)
    assert not isr & set(partition.damaged)
    assert not elr & set(partition.damaged)
    assert set(partition.damaged) <= replicas
    assert {log.node_id for log in partition.recovered_logs} <= set(partition.last_known_elr)
    assert not partition.recovering or len(isr) <= 1
    assert not partition.possible_loss or partition.recovering or partition.leader_id is None
    assert len(partition.replicas) == len(replicas) > 0
    assert partition.min_isr >= 1
    moved = partition.reassignment
    if moved is not None:
        assert set(partition.adding) <= set(moved.target) <= replicas
        assert partition.replicas == (*partition.settled, *moved.added)
        there = isr.intersection(moved.target)
        if len(there) >= partition.target_in_sync_min:
            assert there != isr, "it would be finished"
            if partition.leader_id not in (None, *moved.target):
                assert not any(image.nodes[one].may_lead for one in there), "it would lead"
    assert not elr or len(isr) < partition.min_isr
    for node_id in isr:
        node = image.nodes[node_id]
        assert not node.fenced
        assert not node.log_dir_offline
    if partition.leader_id is not None:
        assert partition.leader_id in isr
        assert image.nodes[partition.leader_id].may_lead
        assert not partition.last_known_elr
    elif isr or elr:
        assert not any(image.nodes[node_id].may_lead for node_id in isr | elr)


def check_step(before: Image, image: Image, delta: Delta) -> None:
    """Epochs only grow, and by what they have to (invariants 1, 2 and 3)."""
    assert image.version > before.version
    assert image.controller_epoch >= before.controller_epoch
    assert image.next_producer_id >= before.next_producer_id
    for node_id, node in image.nodes.items():
        known = before.nodes.get(node_id)
        assert known is None or node.epoch >= known.epoch
        if known is not None and node.epoch > known.epoch:
            assert node.epoch >= before.next_node_epoch
    for key, topic in image.topics.items():
        known_topic = before.topics.get(key)
        if known_topic is None or known_topic.name != topic.name:
            continue
        for old, new in zip(known_topic.partitions, topic.partitions, strict=False):
            if old == new:
                continue
            assert new.partition_epoch > old.partition_epoch
            assert new.leader_epoch >= old.leader_epoch
            if old.leader_id != new.leader_id:
                assert new.leader_epoch > old.leader_epoch
    for old_lease, new_lease in zip(before.shards, image.shards, strict=False):
        assert old_lease.producer_id == new_lease.producer_id
        if old_lease.owner_id != new_lease.owner_id:
            assert new_lease.shard_epoch > old_lease.shard_epoch
