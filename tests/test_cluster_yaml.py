"""cluster.yaml passes Ray's check, and further checks that Ray does not make."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def test_ray_accepts_the_configuration(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_ray_refuses_misspelt_keys(config: dict[str, Any]) -> None:
    config["max_wokers"] = 3
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(config))


def test_nodes_and_their_numbers_are_consistent(config: dict[str, Any]) -> None:
    nodes = config["available_node_types"]
    assert config["provider"]["region"]
    assert config["head_node_type"] in nodes
    workers = {name: node for name, node in nodes.items() if name != config["head_node_type"]}
    for node in workers.values():
        assert 0 <= node["min_workers"] <= node["max_workers"]
    assert sum(node["max_workers"] for node in workers.values()) <= config["max_workers"]
    spot = [n for n, node in workers.items() if "spot" in str(node["node_config"].get("InstanceMarketOptions"))]
    gpu = [n for n, node in workers.items() if node["node_config"]["InstanceType"].startswith(("g", "p"))]
    assert spot
    assert gpu
    assert not set(spot) & set(gpu)


def test_nodes_install_this_package_and_the_head_starts_in_its_folder(config: dict[str, Any]) -> None:
    (target,) = config["file_mounts"]
    folder = target.replace("/home/ubuntu", "~")
    assert any(command.endswith(folder) and "pip install" in command for command in config["setup_commands"])
    assert config["head_start_ray_commands"][-1].startswith(f"cd {folder} ")
