"""A nightly run started by Airflow on a Ray cluster that exists.

The worker needs `ray[default]` and, for a cluster with a token, RAY_AUTH_MODE and RAY_AUTH_TOKEN. A retry is the same
command again, which resumes the run.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("segpipe_nightly", schedule="0 1 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1):
    BashOperator(
        task_id="segment",
        bash_command=(
            "ray job submit --address http://ray-head:8265 -- "
            "segpipe segment --model s3://models/roads --images s3://photos --output s3://masks "
            "--since last --run-id {{ ds }} --deadline 5h --max-error-rate 0.05"
        ),
        append_env=True,
        retries=3,
        retry_delay=timedelta(minutes=5),
    )
