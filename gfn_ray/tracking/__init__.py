"""MLflow: one run's parameters, metrics, sample tables and artifacts.

MLflow follows what a run writes to its directory. Threads of this package read it and record in
tracking.json what MLflow has. So a training step never waits for the store, a failing store never
ends a run, and whatever it missed is delivered later:

| in the run's directory | in MLflow |
|---|---|
| a line of metrics.jsonl or restarts.jsonl | its numbers, by name, at its step and time |
| a line of samples.jsonl, diagnostics.jsonl or restarts.jsonl | a row of a table |
| adapter/, summary.json, plots | artifacts of the same names |

Independent of what the numbers mean. MLflow is imported only when a run starts, because the import
takes seconds.
"""

from gfn_ray.tracking.address import is_redacted, redact_uri
from gfn_ray.tracking.state import TrackingState
from gfn_ray.tracking.tracker import RunStatus, Tracker

__all__ = ["RunStatus", "Tracker", "TrackingState", "is_redacted", "redact_uri"]
