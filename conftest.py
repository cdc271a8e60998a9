"""Makes the repository root importable (``tests.fakes``), and sets what holds for every test."""

import os
import signal

from hypothesis import HealthCheck, settings

# Durations decide nothing here: a loaded machine must not fail a test. CI runs the same examples
# each time; elsewhere they are new each time, and a failure prints how to repeat it.
settings.register_profile(
    "millstream",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.load_profile("millstream")

# A shell that starts its jobs in the background lets them ignore this, and so their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
