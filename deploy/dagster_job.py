"""A nightly run started by Dagster on a Ray cluster that exists: `dagster dev -f deploy/dagster_job.py`.

The process needs `ray[default]` and, for a cluster with a token, RAY_AUTH_MODE and RAY_AUTH_TOKEN. A retry is the same
command again, which resumes the run.
"""

import subprocess

from dagster import Backoff, Definitions, OpExecutionContext, RetryPolicy, ScheduleDefinition, job, op

COMMAND = (
    "ray job submit --address http://ray-head:8265 -- "
    "segpipe segment --model s3://models/roads --images s3://photos --output s3://masks "
    "--since last --deadline 5h --max-error-rate 0.05"
)


@op(retry_policy=RetryPolicy(max_retries=3, delay=300, backoff=Backoff.EXPONENTIAL))
def segment(context: OpExecutionContext) -> None:
    """Submit the job and follow it to its end."""
    context.log.info(COMMAND)
    subprocess.run(COMMAND.split(), check=True)


@job
def nightly() -> None:
    """Segment what is new."""
    segment()


definitions = Definitions(jobs=[nightly], schedules=[ScheduleDefinition(job=nightly, cron_schedule="0 1 * * *")])
