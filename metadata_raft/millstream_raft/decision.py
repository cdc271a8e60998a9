"""What a decision is made with and what it results in. See ``decide.py``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb


@dataclass(frozen=True, slots=True)
class ClusterDefaults:
    """What requests leave open, from the configuration of the metadata nodes."""

    # Partitions of topics created without a number (num.partitions).
    partition_count: int = 1
    # Replicas of topics created without a number (default.replication.factor), and of the topic of
    # committed positions (offsets.topic.replication.factor). 0: three, or all brokers if fewer.
    replication_factor: int = 0
    offsets_topic_replication_factor: int = 0
    # Shards of the group coordinators (offsets.topic.num.partitions); fixed once in use.
    offsets_topic_partition_count: int = 16
    # Limits: one topic, and all topics together. The image is held in memory by every node.
    topic_partition_count_max: int = 10_000
    partition_count_max: int = 50_000
    # Whether a write to an unknown topic may create it (auto.create.topics.enable).
    auto_create_topics: bool = False
    # Topic configuration for all topics that do not set their own.
    topic_configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to commit, and what to answer then. Without commands the answer is complete."""

    reply: pb.ExecuteResponse
    commands: tuple[command_pb.MetadataCommand, ...] = ()
    # A ``millstream.v1.RequestId``, or None.
    request_id: Any = None
