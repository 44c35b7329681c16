"""Samples CPU, memory, disk and GPU load during a run.

Imports MLflow, so import it only once a run has started.
"""

from __future__ import annotations

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


class SteadyMonitor(SystemMetricsMonitor):
    """MLflow's monitor, restarted after a failed call, at which it otherwise stops for good.

    Samples taken while the store is away become one point, their mean, once it is back.
    """

    def monitor(self) -> None:
        """Runs in its thread. MLflow's loop waits between samples, so this one need not."""
        while not self._shutdown_event.is_set():
            super().monitor()
