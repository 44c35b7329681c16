"""Asks every job on a Ray cluster to write its checkpoint and end, and waits until it has.

    python clusters/stop_jobs.py [SECONDS]     300 by default

A head's pod runs it before it ends, and a person before deleting a cluster. As for `ray job`,
RAY_API_SERVER_ADDRESS names a cluster other than this machine's. Ray itself kills a job that has
not ended RAY_JOB_STOP_WAIT_TIME_S after it was asked.
"""

import os
import sys
import time

from ray.job_submission import JobSubmissionClient

LOOK_SECONDS = 0.5
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def main(seconds: float) -> int:
    """0 once no job runs any more, 1 where one still does when the time is over."""
    address = os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    client = JobSubmissionClient(address)
    jobs = [one.submission_id for one in client.list_jobs() if one.submission_id is not None]
    running = [job for job in jobs if client.get_job_status(job) not in ENDED]
    for job in running:
        client.stop_job(job)
    deadline = time.monotonic() + seconds
    while running and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        running = [job for job in running if client.get_job_status(job) not in ENDED]
    for job in running:
        print(f"stop_jobs: {job} still runs after {seconds:g} s", file=sys.stderr)
    return 1 if running else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 300.0))
