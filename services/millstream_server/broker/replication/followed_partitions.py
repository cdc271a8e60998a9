"""Everything that this broker copies from others: one link per leader."""

import asyncio
from random import Random

from millstream_raft.image import PartitionState
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.replica import Replica
from millstream_server.broker.replication.followed_partition import FollowedPartition
from millstream_server.broker.replication.leader_link import Connect, LeaderLink


class FollowedPartitions:
    """All copying of one broker. Everything runs on the event loop."""

    def __init__(
        self, hosted: HostedPartitions, cluster_id: str, connect: Connect, random: Random
    ) -> None:
        self._hosted = hosted
        self._cluster_id = cluster_id
        self._connect = connect
        self._random = random
        self._links: dict[int, LeaderLink] = {}
        self._followed: dict[tuple[bytes, int], tuple[FollowedPartition, LeaderLink]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def follow(self, replica: Replica, state: PartitionState) -> None:
        """Copy a partition from its leader, which is another node."""
        assert state.leader_id is not None
        key = (replica.state.topic_id, replica.state.number)
        known = self._followed.get(key)
        if known is not None:
            followed, link = known
            if followed.replica is replica and followed.leader_epoch == state.leader_epoch:
                link.check_node_epoch()
                followed.mode_may_have_changed()
                followed.place_may_have_changed()
                return
        link = self._link(state.leader_id)
        followed = FollowedPartition(replica, self._hosted, state.leader_epoch)
        self.leave(key, but=link)
        self._followed[key] = (followed, link)
        link.follow(followed)

    def leave(self, key: tuple[bytes, int], *, but: LeaderLink | None = None) -> None:
        """Copy a partition no more; what was staged is written still. A link without partitions
        is closed, all but one that is about to get another."""
        known = self._followed.pop(key, None)
        if known is None:
            return
        followed, link = known
        link.leave(followed)
        if link.idle and link is not but:
            self._links.pop(link.leader_id, None)
            closing = asyncio.ensure_future(link.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _link(self, leader_id: int) -> LeaderLink:
        link = self._links.get(leader_id)
        if link is None:
            link = self._links[leader_id] = LeaderLink(
                leader_id, self._hosted, self._cluster_id, self._connect, self._random
            )
        return link

    async def close(self) -> None:
        """End all sessions."""
        links, self._links = list(self._links.values()), {}
        self._followed.clear()
        await asyncio.gather(*(link.close() for link in links), *self._closing)
