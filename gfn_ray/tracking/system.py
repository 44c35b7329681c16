"""Samples of CPU, memory, disk and GPU load, for as long as a run lasts.

Imports MLflow, so that only a run that has begun imports this.
"""

from __future__ import annotations

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


class SteadyMonitor(SystemMetricsMonitor):
    """MLflow's own, which gives up for good at the first call that fails, taken up again.

    What it sampled while the store was away is one point, the mean, once the store is back.
    """

    def monitor(self) -> None:
        """Its thread. MLflow's loop waits between two samples, so that this one need not."""
        while not self._shutdown_event.is_set():
            super().monitor()
