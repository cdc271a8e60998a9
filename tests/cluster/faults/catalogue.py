"""The classes of faults by the numbers of the design's catalogue, and which of them work here."""

from tests.cluster.faults.client_faults import Clients, Membership
from tests.cluster.faults.disk_faults import (
    FailedSync,
    FullDisk,
    NoDescriptorsOrReadOnly,
    PowerLoss,
    SlowSync,
    tracing_works,
)
from tests.cluster.faults.fault import Fault
from tests.cluster.faults.link_faults import (
    FlippedBits,
    IsolateLeader,
    Partition,
    Resets,
    Slowness,
    Stall,
)
from tests.cluster.faults.process_faults import FileSize, Kill, KillAll, KillLeader, Pause, Rolling

CLASSES: dict[str, tuple[type[Fault], ...]] = {
    "F1": (Kill,),
    "F1-leader": (KillLeader,),
    "F1-all": (KillAll,),
    "F2": (Rolling,),
    "F3": (Pause,),
    "F4": (Partition,),
    "F4-leader": (IsolateLeader,),
    "F5": (Slowness, Stall),
    "F6": (Resets,),
    "F7": (FlippedBits,),
    "F8": (FullDisk,),
    "F9": (NoDescriptorsOrReadOnly,),
    "F10": (FailedSync,),
    "F11": (SlowSync,),
    "F12": (FileSize,),
    "F13": (PowerLoss,),
    "F19": (Membership,),
    "F20": (Clients,),
}
#: To be asked for by name: they need everything else to be well.
CLASSES_ALONE = ("F1-leader", "F1-all", "F4-leader")
_NEED_DISKS = ("F8", "F13")
_NEED_TRACING = ("F10", "F11")


def choose(wanted: list[str], *, disks: bool) -> tuple[list[str], dict[str, str]]:
    """The classes that are wanted (none named: all), and of those that cannot be injected on this
    machine, why. Raises ValueError for a name that is no class."""
    unknown = [name for name in wanted if name not in CLASSES]
    if unknown:
        raise ValueError(f"no such fault: {', '.join(unknown)}; there are {', '.join(CLASSES)}")
    wanted = wanted or [name for name in CLASSES if name not in CLASSES_ALONE]
    skipped: dict[str, str] = {}
    if not disks:
        skipped |= dict.fromkeys(_NEED_DISKS, "file systems may not be mounted here")
    if any(name in wanted for name in _NEED_TRACING) and not tracing_works():
        skipped |= dict.fromkeys(_NEED_TRACING, "strace may not be attached here")
    return wanted, {name: why for name, why in skipped.items() if name in wanted}
