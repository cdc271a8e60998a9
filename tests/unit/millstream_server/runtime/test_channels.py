"""Channels to other nodes: opened once, replaced when a node moves, bounded."""

from collections.abc import Sequence
from typing import Any

from millstream_server.runtime.channels import NodeChannels


class OpenedChannel:
    def __init__(self, node_id: int, address: str) -> None:
        self.node_id = node_id
        self.address = address
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Dialled:
    """Keeps what was dialled."""

    def __init__(self) -> None:
        self.opened: list[OpenedChannel] = []

    def __call__(self, node_id: int, address: str, options: Sequence[Any]) -> Any:
        self.opened.append(OpenedChannel(node_id, address))
        return self.opened[-1]


async def test_a_node_is_dialled_once_and_by_its_id() -> None:
    dialled = Dialled()
    channels = NodeChannels(dialled)
    assert channels.to(7, "a:1") is channels.to(7, "a:1")
    assert [(one.node_id, one.address) for one in dialled.opened] == [(7, "a:1")]
    await channels.close()
    assert dialled.opened[0].closed


async def test_a_node_that_moved_gets_a_new_channel_and_the_old_one_is_closed() -> None:
    dialled = Dialled()
    channels = NodeChannels(dialled)
    channels.to(7, "a:1")
    channels.to(7, "b:1")
    await channels.close()
    assert [one.address for one in dialled.opened] == ["a:1", "b:1"]
    assert all(one.closed for one in dialled.opened)


async def test_two_nodes_that_share_an_address_share_no_channel() -> None:
    channels = NodeChannels(Dialled())
    assert channels.to(7, "a:1") is not channels.to(8, "a:1")
    await channels.close()


async def test_at_the_bound_the_channel_longest_unused_is_closed() -> None:
    dialled = Dialled()
    channels = NodeChannels(dialled, channels_max=2)
    for node_id in (1, 2, 1, 3):
        channels.to(node_id, f"host{node_id}:1")
    kept = channels.to(1, "host1:1")
    assert kept is dialled.opened[0]
    await channels.close()
    assert [one.node_id for one in dialled.opened] == [1, 2, 3]
