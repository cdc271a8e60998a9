"""What the active controller says of where partitions are led and go. Read when scraped."""

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from millstream_raft.image import EMPTY_IMAGE, Image

_GAUGES = (
    (
        "millstream_preferred_leader_imbalance",
        "Partitions led by another replica than the preferred one; 0 but on the active controller.",
    ),
    (
        "millstream_leaderless_partitions",
        "Partitions without a leader; 0 but on the active controller.",
    ),
    (
        "millstream_reassigning_partitions",
        "Partitions on their way to other replicas; 0 but on the active controller.",
    ),
    (
        "millstream_recovering_partitions",
        "Partitions led by a replica that may miss records; 0 but on the active controller.",
    ),
)


class PlacementCollector(Collector):
    """Counts once for each image, however often it is scraped."""

    def __init__(self, is_active: Callable[[], bool], image: Callable[[], Image]) -> None:
        self._is_active = is_active
        self._image = image
        self._counted: Image = EMPTY_IMAGE
        self._counts = (0,) * len(_GAUGES)

    def describe(self) -> Iterable[Metric]:
        """Nothing to check for duplicates before the node runs."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The gauges of this moment."""
        image = self._image() if self._is_active() else EMPTY_IMAGE
        if image is not self._counted:
            self._counted, self._counts = image, _counts(image)
        for (name, text), value in zip(_GAUGES, self._counts, strict=True):
            yield GaugeMetricFamily(name, text, value=value)


def _counts(image: Image) -> tuple[int, ...]:
    unbalanced = leaderless = moving = recovering = 0
    for topic in image.topics.values():
        for partition in topic.partitions:
            leaderless += partition.leader_id is None
            unbalanced += partition.leader_id not in (None, partition.preferred_leader_id)
            moving += partition.reassignment is not None
            recovering += partition.recovering
    return unbalanced, leaderless, moving, recovering
