"""MLflow: one run's parameters, metrics, sample tables and artifacts.

MLflow follows what a run writes to its directory. Threads of this package read it and keep account
in tracking.json of what MLflow has, so a training step never waits for a store, no failure of one
ends a run, and whatever it missed is delivered later:

| in the run's directory | in MLflow |
|---|---|
| a line of metrics.jsonl or restarts.jsonl | its numbers, under their names, at its step and time |
| a line of samples.jsonl, diagnostics.jsonl or restarts.jsonl | a row of a table |
| adapter/, summary.json, plots | artifacts of the same names |

Knows nothing of what the numbers mean. MLflow is imported when a run starts, not before: the
import alone takes seconds.
"""

from gfn_ray.tracking.address import is_redacted, redact_uri
from gfn_ray.tracking.state import TrackingState
from gfn_ray.tracking.tracker import RunStatus, Tracker

__all__ = ["RunStatus", "Tracker", "TrackingState", "is_redacted", "redact_uri"]
