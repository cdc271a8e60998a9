"""Followers of the image get everything in order, or are dropped."""

import pytest

from millstream_raft.image_codec import decode_image
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.image_watchers import ImageWatchers
from millstream_server.runtime.errors import ServiceError
from tests.fakes import metadata_images as images


def watchers(
    watchers_max: int = 10, queue_bytes_max: int = 1_000, pulse_ms: int = 60_000
) -> ImageWatchers:
    return ImageWatchers(
        watchers_max=watchers_max,
        queue_bytes_max=queue_bytes_max,
        chunk_bytes=100,
        pulse_ms=pulse_ms,
    )


async def test_the_image_comes_in_pieces_and_then_what_is_published() -> None:
    image = images.after(images.image_with(1), images.add_topic(1, *[(1,)] * 50))
    made = watchers()
    watch = made.watch(lambda: image)
    pieces = []
    async for response in watch:
        pieces.append(response.image_chunk)
        assert len(response.image_chunk) <= 100
        if response.image_complete:
            break
    assert decode_image(b"".join(pieces)) == image
    made.publish(image.version + 1, b"one")
    made.publish(image.version + 3, b"two")
    response = await anext(watch)
    assert list(response.entries) == [b"one", b"two"]
    assert response.version == image.version + 3
    await watch.aclose()
    assert made.count == 0


async def test_a_quiet_watch_has_a_pulse() -> None:
    image = images.image_with(1)
    made = watchers(pulse_ms=5)
    watch = made.watch(lambda: image)
    while not (piece := await anext(watch)).image_complete:
        pass
    assert piece.pulse_interval_ms == 5
    pulse = await anext(watch)
    assert pulse.version == image.version
    assert not pulse.entries
    await watch.aclose()


async def test_a_slow_follower_is_dropped_and_the_others_go_on() -> None:
    image = images.image_with(1)
    made = watchers(queue_bytes_max=10)
    slow, quick = made.watch(lambda: image), made.watch(lambda: image)
    for watch in (slow, quick):
        while not (await anext(watch)).image_complete:
            pass
    made.publish(1, b"12345678")
    assert (await anext(quick)).version == 1
    made.publish(2, b"12345678")
    assert (await anext(quick)).version == 2
    with pytest.raises(ServiceError, match="too far behind"):
        await anext(slow)
    made.drop_all("stop")
    with pytest.raises(ServiceError, match="stop"):
        await anext(quick)


async def test_followers_are_bounded_in_number() -> None:
    image = images.image_with(1)
    made = watchers(watchers_max=1)
    first = made.watch(lambda: image)
    await anext(first)
    with pytest.raises(ServiceError, match="THROTTLED"):
        await anext(made.watch(lambda: image))
    await first.aclose()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"voters": ()}, "voters"),
        ({"voters": ((1, "a:1"), (1, "b:1"))}, "twice"),
        ({"session_timeout_ms": 100}, "session_timeout_ms"),
        ({"heartbeat_interval_ms": 2_000}, "heartbeat_interval_ms"),
    ],
)
def test_a_bad_configuration_names_the_field(changes: dict[str, object], words: str) -> None:
    values: dict[str, object] = {"voters": ((1, "a:1"),)}
    values.update(changes)
    with pytest.raises(ValueError, match=words):
        MetadataConfig(**values).validate()  # type: ignore[arg-type]
