"""Ray: actors, the controller, weights, checkpoints, and the run from settings to report.

Importing this package settles what Ray reads when it is imported itself.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "RAY_ADDRESS" not in os.environ:
    # A Ray of our own: whatever address it is given, on Linux it would listen on every
    # network interface, without a login, unless told that it will not form a cluster.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
