"""Everything on Ray: actors, the controller, and the run from settings to report.

Importing this package sets environment variables that Ray reads on import.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "RAY_ADDRESS" not in os.environ:
    # Our own Ray: on Linux, whatever address it is given, it listens on every network interface
    # without a login, unless told that it will not form a cluster.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
