"""MLflow: one run's parameters, metrics, sample tables and artifacts.

Owns all talk with MLflow, from threads of its own, so that a training step never waits for a
database and no failure of one ends a run:

    Tracker ──entries──▶ Spool, a file in the run directory ──Courier──▶ MLflow

twice: for numbers, and for files and tables.

Knows nothing of what the numbers mean. MLflow is imported when a run starts, not before: the
import alone takes seconds.
"""

from gfn_ray.tracking.address import is_redacted, redact_uri
from gfn_ray.tracking.tracker import RunStatus, Tracker, files_beside

__all__ = ["RunStatus", "Tracker", "files_beside", "is_redacted", "redact_uri"]
