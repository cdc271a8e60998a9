"""Millstream's Python SDK: producers, consumers and admin clients, blocking and asyncio.

    from millstream import Consumer, Producer

    with Producer(bootstrap_servers="127.0.0.1:9092") as producer:
        producer.send_and_wait("logs", b"hello", key=b"host1")

The names in ``__all__`` are the whole public interface; modules that begin with an underscore are
not. Errors are in the tree of ``millstream._errors``, all of them exported here. Everything else
is imported on first use, so that a program, or a service that only needs ``millstream.record``,
loads no more than it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from millstream import _errors
from millstream._errors import *  # noqa: F403 - exactly the errors of its __all__

if TYPE_CHECKING:
    from millstream._admin.async_admin import AsyncAdmin
    from millstream._admin.sync_admin import Admin
    from millstream._admin.types import (
        BrokerInfo,
        ClusterDescription,
        ConfigValue,
        GroupDescription,
        GroupListing,
        GroupOffset,
        LogDirInfo,
        LogDirPartitionInfo,
        MemberDescription,
        NewTopic,
        OffsetInfo,
        OffsetSpec,
        PartitionReassignments,
        QuorumDescription,
        QuorumNodeInfo,
        ReassignmentInfo,
    )
    from millstream._client.cluster import NodeInfo, PartitionInfo, TopicInfo
    from millstream._client.config import AdminConfig, ConsumerConfig, ProducerConfig
    from millstream._consumer.async_consumer import AsyncConsumer
    from millstream._consumer.record import (
        ConsumerBatch,
        ConsumerRecord,
        OffsetAndMetadata,
        OffsetAndTimestamp,
        TopicPartition,
    )
    from millstream._consumer.subscription import RebalanceListener
    from millstream._consumer.sync_consumer import Consumer
    from millstream._producer.async_producer import AsyncProducer
    from millstream._producer.batch import DeliveryCallback, Durability, RecordMetadata
    from millstream._producer.receipt import AsyncReceipt, AsyncReceipts, Receipt, Receipts
    from millstream._producer.sync_producer import Producer

__version__ = "0.1.0"

# Where each name comes from; a test holds this, `__all__` and the imports above together.
_MODULES = {
    "_admin.types": (
        "BrokerInfo",
        "ClusterDescription",
        "ConfigValue",
        "GroupDescription",
        "GroupListing",
        "GroupOffset",
        "LogDirInfo",
        "LogDirPartitionInfo",
        "MemberDescription",
        "NewTopic",
        "OffsetInfo",
        "OffsetSpec",
        "PartitionReassignments",
        "QuorumDescription",
        "QuorumNodeInfo",
        "ReassignmentInfo",
    ),
    "_admin.async_admin": ("AsyncAdmin",),
    "_consumer.async_consumer": ("AsyncConsumer",),
    "_producer.async_producer": ("AsyncProducer",),
    "_producer.batch": ("DeliveryCallback", "Durability", "RecordMetadata"),
    "_client.cluster": ("NodeInfo", "PartitionInfo", "TopicInfo"),
    "_client.config": ("AdminConfig", "ConsumerConfig", "ProducerConfig"),
    "_producer.receipt": ("AsyncReceipt", "AsyncReceipts", "Receipt", "Receipts"),
    "_consumer.record": (
        "ConsumerBatch",
        "ConsumerRecord",
        "OffsetAndMetadata",
        "OffsetAndTimestamp",
        "TopicPartition",
    ),
    "_consumer.subscription": ("RebalanceListener",),
    "_admin.sync_admin": ("Admin",),
    "_consumer.sync_consumer": ("Consumer",),
    "_producer.sync_producer": ("Producer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Admin",
    "AdminConfig",
    "AsyncAdmin",
    "AsyncConsumer",
    "AsyncProducer",
    "AsyncReceipt",
    "AsyncReceipts",
    "BrokerInfo",
    "ClusterDescription",
    "ConfigValue",
    "Consumer",
    "ConsumerBatch",
    "ConsumerConfig",
    "ConsumerRecord",
    "DeliveryCallback",
    "Durability",
    "GroupDescription",
    "GroupListing",
    "GroupOffset",
    "LogDirInfo",
    "LogDirPartitionInfo",
    "MemberDescription",
    "NewTopic",
    "NodeInfo",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetInfo",
    "OffsetSpec",
    "PartitionInfo",
    "PartitionReassignments",
    "Producer",
    "ProducerConfig",
    "QuorumDescription",
    "QuorumNodeInfo",
    "ReassignmentInfo",
    "RebalanceListener",
    "Receipt",
    "Receipts",
    "RecordMetadata",
    "TopicInfo",
    "TopicPartition",
    "__version__",
]
__all__ += _errors.__all__


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'millstream' has no attribute {name!r}")
    value = getattr(import_module(f"millstream.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
