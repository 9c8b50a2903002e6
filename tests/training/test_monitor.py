"""The monitor of a run outlives the loss of any node but the driver's, tested on a real cluster of two nodes."""

import os
import subprocess
import sys
from pathlib import Path

LOSE_A_NODE = """
import time

import ray
from ray.cluster_utils import Cluster
from pipeline.training.monitor import StepReport, start_monitor

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    worker_node = cluster.add_node(num_cpus=8)
    ray.init(address=cluster.address, log_to_driver=False)
    monitors = [start_monitor() for _ in range(8)]  # without a fixed node, some would run on the worker node
    for monitor in monitors:
        ray.get(monitor.report_step.remote(StepReport(step=3)))
    cluster.remove_node(worker_node, allow_graceful=False)
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        time.sleep(0.1)
    for monitor in monitors:
        last_step, _ = ray.get(monitor.get_progress.remote(0), timeout=10)
        print("step", last_step.step)
    ray.shutdown()
    cluster.shutdown()
"""


def test_the_monitor_outlives_other_nodes(tmp_path: Path) -> None:
    script = tmp_path / "lose_a_node.py"
    script.write_text(LOSE_A_NODE)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.splitlines().count("step 3") == 8, result.stdout + result.stderr
