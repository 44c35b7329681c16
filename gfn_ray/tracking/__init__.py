"""MLflow: one run's parameters, metrics, sample tables and artifacts.

Owns all talk with MLflow, from one thread, so that a training step never waits for a database
and no failure of one ends a run:

    Tracker ──entries──▶ Spool, a file in the run directory ──Courier──▶ MLflow

Knows nothing of what the numbers mean. MLflow is imported when a run starts, not before: the
import alone takes seconds.
"""

from gfn_ray.tracking.address import is_redacted, redact_uri
from gfn_ray.tracking.tracker import RunStatus, Tracker

__all__ = ["RunStatus", "Tracker", "is_redacted", "redact_uri"]
