"""``python -m millstream_server.cli``: the same as the script ``millstream``."""

import sys

from millstream_server.cli.start import main

sys.exit(main())
