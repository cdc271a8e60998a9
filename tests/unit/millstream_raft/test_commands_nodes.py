"""Commands about nodes that come late."""

from tests.fakes import metadata_images as images


def test_a_late_command_to_fence_spares_the_session_after_the_one_that_it_meant() -> None:
    image = images.image_with(1, 2)
    late = images.fence(image, 1)
    image = images.after(image, images.fence(image, 1))
    assert images.apply(image, late).result.reason == "VERSION_CONFLICT"
    image = images.after(image, images.unfence(image, 1))
    assert images.apply(image, late).result.reason == "VERSION_CONFLICT"
    assert not image.nodes[1].fenced


def test_a_late_command_to_unfence_brings_no_dead_node_to_life() -> None:
    image = images.image_with(1, 2)
    image = images.after(image, images.fence(image, 1))
    late = images.unfence(image, 1)
    image = images.after(image, late)
    image = images.after(image, images.fence(image, 1))
    assert images.apply(image, late).result.reason == "VERSION_CONFLICT"
    assert image.nodes[1].fenced
