"""Shows the demo at work: bars on a terminal, plain lines elsewhere; a table at the end."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from tests.cluster.demo.comparison import Comparison

_PLAIN_PERIOD_S = 2.0
_TITLES = (
    "partition", "leader", "members", "acknowledged", "consumed", "lost", "duplicated",
    "redelivered", "out of order", "committed", "end", "lag",
)  # fmt: skip


class Display:
    """Live progress on stderr; a context manager."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bars: Any = None
        self._tasks: tuple[Any, Any] = (None, None)
        self._told_at = 0.0

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def say(self, text: str) -> None:
        """Tell an event."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, acknowledged: int, consumed: int) -> None:
        """Show how far it has come."""
        if sys.stderr.isatty():
            self._draw(acknowledged, consumed)
        elif time.monotonic() - self._told_at >= _PLAIN_PERIOD_S:
            self._told_at = time.monotonic()
            print(
                f"acknowledged {acknowledged}, consumed {consumed} of {self._total}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _draw(self, acknowledged: int, consumed: int) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                console=Console(stderr=True),
            )
            self._tasks = (
                self._bars.add_task("acknowledged", total=self._total),
                self._bars.add_task("consumed", total=self._total),
            )
            self._bars.start()
        self._bars.update(self._tasks[0], completed=acknowledged)
        self._bars.update(self._tasks[1], completed=consumed)


def table_lines(
    comparison: Comparison, leaders: Mapping[int, str], members: Mapping[int, Sequence[str]]
) -> list[str]:
    """The figures of each partition as aligned lines. Pure."""
    rows = [
        (
            tally.partition,
            leaders.get(tally.partition, "-"),
            "+".join(members.get(tally.partition, ())) or "-",
            tally.acknowledged,
            tally.consumed,
            tally.lost,
            tally.duplicated,
            tally.redelivered,
            tally.out_of_order,
            tally.committed,
            tally.end,
            tally.committed_lag,
        )
        for tally in comparison.partitions
    ]
    cells = [_TITLES, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
