"""What the driver watches a run by outlives the loss of any other node; on a real cluster of two."""

import os
import subprocess
import sys

LOSE_A_NODE = """
import time

import ray
from ray.cluster_utils import Cluster
from pipeline.training.monitor import start_monitor

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=8)
    ray.init(address=cluster.address, log_to_driver=False)
    monitors = [start_monitor() for _ in range(8)]
    for monitor in monitors:
        ray.get(monitor.step.remote(3, 0.5, 0.01, 20.0))
    cluster.remove_node(other, allow_graceful=False)
    time.sleep(5)  # its workers notice, and end
    for monitor in monitors:
        pace, _ = ray.get(monitor.progress.remote(0), timeout=10)
        print("step", pace.step)
    ray.shutdown()
    cluster.shutdown()
"""


def test_the_monitor_outlives_other_nodes(tmp_path):
    script = tmp_path / "lose_a_node.py"
    script.write_text(LOSE_A_NODE)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout.splitlines().count("step 3") == 8, result.stdout + result.stderr
