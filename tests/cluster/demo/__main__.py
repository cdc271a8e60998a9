"""``make demo``: prints a table and, as the last line of stdout, one JSON object."""

import json
import os
import signal
import sys
from types import FrameType

from tests.cluster.demo.display import Display, table_lines
from tests.cluster.demo.run import Demo, Outcome
from tests.cluster.demo.settings import Settings, SettingsError, read_settings

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main() -> int:
    """Run the demo as the environment says; return the exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        print(f"demo: {error}", file=sys.stderr)
        return EXIT_USAGE
    signal.signal(signal.SIGTERM, _as_interrupt)
    with Display(settings.records) as display:
        demo = Demo(settings, display)
        try:
            outcome = demo.run()
        except KeyboardInterrupt:
            demo.abort()
            return EXIT_INTERRUPTED
        except Exception as error:  # noqa: BLE001 - whatever failed, everything must be ended
            display.close()
            print(f"demo: {type(error).__name__}: {error}", file=sys.stderr)
            demo.close()
            return EXIT_FAILED
        try:
            _report(outcome)
            demo.close()
        except KeyboardInterrupt:
            demo.abort()
            return EXIT_INTERRUPTED
    _tell_connection(settings, demo)
    print(json.dumps(outcome.document()), flush=True)
    return EXIT_OK if outcome.is_good else EXIT_FAILED


def _report(outcome: Outcome) -> None:
    comparison = outcome.comparison
    for line in table_lines(comparison, outcome.leaders, outcome.readers):
        print(line, flush=True)
    if comparison.redeliveries_excused:
        print(
            f"{comparison.redeliveries_excused} records were delivered again after the kill of a "
            "coordinator, which is allowed",
            file=sys.stderr,
        )
    for line in (*outcome.problems, *comparison.samples):
        print(f"  {line}", file=sys.stderr)


def _tell_connection(settings: Settings, demo: Demo) -> None:
    if settings.keep:
        connection = demo.cluster.plan.folder / "cluster.json"
        print(
            f"the cluster is still running: connect with -b {demo.cluster.bootstrap_servers}; its "
            f"processes are in {connection}; end it with: pkill -f {demo.folder}/; "
            f"rm -r {demo.folder}",
            file=sys.stderr,
        )


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
