"""The metadata side of a fake cluster."""

from collections.abc import Iterator
from typing import Any

from millstream.v1 import errors_pb2 as errors
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1 import metadata_service_pb2_grpc as metadata_grpc
from tests.fakes import broker as fake


class FakeMetadataServicer(metadata_grpc.MetadataServiceServicer):
    """Answers from the state of a ``FakeCluster``."""

    def __init__(self, cluster: "fake.FakeCluster") -> None:
        self._cluster = cluster

    def _note(self, name: str, request: Any, context: Any) -> None:
        self._cluster.calls.append((name, request))
        faults = self._cluster.call_faults[name]
        if faults:
            fake.abort(context, faults.popleft(), "scripted")

    def _nodes(self) -> list[metadata.Node]:
        return [
            metadata.Node(
                node_id=each.node_id,
                roles=[metadata.NODE_ROLE_BROKER],
                host="127.0.0.1",
                port=each.port,
            )
            for each in self._cluster.brokers
        ]

    def WatchCluster(self, request: Any, context: Any) -> Iterator[Any]:
        cluster = self._cluster
        sent: dict[str, metadata.Topic] = {}
        version = 0
        context.add_callback(cluster.bump_watchers)
        while context.is_active():
            with cluster.changed:
                while cluster.version == version and context.is_active():
                    cluster.changed.wait()
                if cluster.version < 0 or not context.is_active():
                    return
                names = set(cluster.topics) if request.all_topics else set(request.topics)
                wanted = {
                    name: metadata.Topic.FromString(topic.SerializeToString())
                    for name, topic in cluster.topics.items()
                    if name in names
                }
                first, version = version == 0, cluster.version
            message = metadata.WatchClusterResponse(
                version=version, complete=first, cluster_id=cluster.cluster_id
            )
            message.nodes.extend(self._nodes())
            message.topics.extend(t for n, t in wanted.items() if sent.get(n) != t)
            gone = [t for n, t in sent.items() if n not in wanted]
            message.removed_topic_ids.extend(t.topic_id for t in gone)
            if first:
                message.missing_topics.extend(sorted(names - set(wanted)))
            sent = wanted
            yield message

    def DescribeCluster(self, request: Any, context: Any) -> Any:
        self._note("DescribeCluster", request, context)
        return metadata.DescribeClusterResponse(
            cluster_id=self._cluster.cluster_id,
            version=self._cluster.version,
            controller_id=1,
            nodes=self._nodes(),
            loads=[
                metadata.BrokerLoad(node_id=each.node_id, leader_count=2, replica_count=5)
                for each in self._cluster.brokers
                if request.include_loads
            ],
        )

    def ListTopics(self, request: Any, context: Any) -> Any:
        self._note("ListTopics", request, context)
        names = sorted(name for name in self._cluster.topics if name > request.page_token)
        page = names[: request.page_size or 1000]
        token = page[-1] if len(page) < len(names) else ""
        topics = [self._cluster.topics[name] for name in page]
        return metadata.ListTopicsResponse(topics=topics, next_page_token=token, version=1)

    def DescribeTopics(self, request: Any, context: Any) -> Any:
        self._note("DescribeTopics", request, context)
        found = []
        for name in request.names:
            creating = request.create_missing and self._cluster.auto_create
            if name not in self._cluster.topics and creating:
                self._cluster.create_topic(name)
            if name not in self._cluster.topics:
                fake.abort(context, "UNKNOWN_TOPIC", f"no topic is named {name!r}")
            found.append(self._cluster.topics[name])
        return metadata.DescribeTopicsResponse(topics=found, version=self._cluster.version)

    def OpenRequestSession(self, request: Any, context: Any) -> Any:
        self._note("OpenRequestSession", request, context)
        return metadata.OpenRequestSessionResponse(session_id=len(self._cluster.calls), version=1)

    def CreateTopic(self, request: Any, context: Any) -> Any:
        self._note("CreateTopic", request, context)

        def make() -> Any:
            if request.name in self._cluster.topics:
                return None
            if request.validate_only:
                return metadata.CreateTopicResponse(topic=metadata.Topic(name=request.name))
            topic = self._cluster.create_topic(request.name, request.partition_count or 1)
            return metadata.CreateTopicResponse(topic=topic, version=self._cluster.version)

        answer = self._cluster.once(request.request_id, make)
        if answer is None:
            fake.abort(context, "TOPIC_ALREADY_EXISTS", f"{request.name!r} exists already")
        return self._answer("CreateTopic", answer, context)

    def _answer(self, name: str, answer: Any, context: Any) -> Any:
        """Lose the answer of a write that was executed, if that is scripted."""
        faults = self._cluster.call_faults[f"{name}:answer"]
        if faults:
            fake.abort(context, faults.popleft(), "scripted")
        return answer

    def DeleteTopic(self, request: Any, context: Any) -> Any:
        self._note("DeleteTopic", request, context)
        name = self._cluster.name_of(request.topic_id)

        def make() -> Any:
            if name is None:
                return None
            self._cluster.delete_topic(name)
            return metadata.DeleteTopicResponse(version=self._cluster.version)

        answer = self._cluster.once(request.request_id, make)
        if answer is None:
            fake.abort(context, "UNKNOWN_TOPIC", "no topic has this id")
        return self._answer("DeleteTopic", answer, context)

    def CreatePartitions(self, request: Any, context: Any) -> Any:
        self._note("CreatePartitions", request, context)
        name = self._cluster.name_of(request.topic_id) or ""
        if request.partition_count <= len(self._cluster.topics[name].partitions):
            fake.abort(context, "INVALID_PARTITION_COUNT", "it would shrink")
        self._cluster.add_partitions(name, request.partition_count)
        return metadata.CreatePartitionsResponse(topic=self._cluster.topics[name], version=1)

    def DescribeConfigs(self, request: Any, context: Any) -> Any:
        self._note("DescribeConfigs", request, context)
        configs = self._cluster.topics[request.topic].configs
        entries = [
            metadata.ConfigEntry(key=k, value=v, source=metadata.CONFIG_SOURCE_TOPIC)
            for k, v in configs.items()
        ]
        return metadata.DescribeConfigsResponse(entries=entries, version=1)

    def AlterConfigs(self, request: Any, context: Any) -> Any:
        self._note("AlterConfigs", request, context)
        configs = self._cluster.topics[request.topic].configs
        for key, value in request.set.items():
            configs[key] = value
        for key in request.unset:
            configs.pop(key, None)
        self._cluster.bump()
        return metadata.AlterConfigsResponse(version=1)

    def AllocateProducerId(self, request: Any, context: Any) -> Any:
        self._note("AllocateProducerId", request, context)
        return metadata.AllocateProducerIdResponse(
            producer_id=self._cluster.allocate_producer_id(), producer_epoch=0
        )

    def UnregisterNode(self, request: Any, context: Any) -> Any:
        self._note("UnregisterNode", request, context)
        return metadata.UnregisterNodeResponse(version=self._cluster.version)

    def ElectLeaders(self, request: Any, context: Any) -> Any:
        self._note("ElectLeaders", request, context)
        answer = metadata.ElectLeadersResponse(version=self._cluster.version)
        for target in request.partitions:
            refused = target.partition > 0
            answer.results.add(
                topic_id=target.topic_id,
                partition=target.partition,
                error=errors.ERROR_REASON_ELECTION_NOT_NEEDED if refused else 0,
                leader_id=target.replica_id or 1,
            )
        if not request.partitions:
            asked = sum(name == "ElectLeaders" for name, _ in self._cluster.calls)
            topic = next(iter(self._cluster.topics.values()))
            answer.results.add(topic_id=topic.topic_id, partition=asked - 1, leader_id=1)
            answer.remaining = max(0, 2 - asked)
        return answer

    def AlterPartitionReassignments(self, request: Any, context: Any) -> Any:
        self._note("AlterPartitionReassignments", request, context)
        answer = metadata.AlterPartitionReassignmentsResponse(version=self._cluster.version)
        for wanted in request.partitions:
            answer.results.add(
                topic_id=wanted.topic_id,
                partition=wanted.partition,
                replica_ids=wanted.replica_ids or range(1, 1 + wanted.replication_factor),
            )
        return answer

    def ListPartitionReassignments(self, request: Any, context: Any) -> Any:
        self._note("ListPartitionReassignments", request, context)
        moving = metadata.OngoingReassignment(
            topic="a",
            partition=len(request.page_token),
            target_replica_ids=[2],
            adding_replica_ids=[2],
        )
        return metadata.ListPartitionReassignmentsResponse(
            reassignments=[moving],
            next_page_token="" if request.page_token else "x",
            throttle_bytes_per_s=7,
        )

    def DecommissionBroker(self, request: Any, context: Any) -> Any:
        self._note("DecommissionBroker", request, context)
        return metadata.DecommissionBrokerResponse(replica_count=3)

    def DrainBroker(self, request: Any, context: Any) -> Any:
        self._note("DrainBroker", request, context)
        return metadata.DrainBrokerResponse(version=self._cluster.version)

    def DescribeQuorum(self, request: Any, context: Any) -> Any:
        self._note("DescribeQuorum", request, context)
        return metadata.DescribeQuorumResponse(leader_id=1, term=3, commit_index=9)
