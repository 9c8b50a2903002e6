"""The files in deploy/ are valid by the schemas of their systems, and the commands in them are commands of segpipe."""

import json
import re
import shlex
import tomllib
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from packaging.requirements import Requirement

from pipeline import cli, commands
from tests.support.jobs import REPO

DEPLOY = REPO / "deploy"
SCHEMA = json.loads((REPO / "tests/support/rayjob.schema.json").read_text())
KUBERNETES = "1.33"
FILES = [path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def ray_job() -> dict[str, Any]:
    """The RayJob that nightly.yaml creates."""
    return yaml.safe_load((DEPLOY / "kubernetes/rayjob.yaml").read_text())


def submitted(text: str) -> list[str]:
    """The commands of segpipe in a file, with line breaks and Python's quotes removed."""
    joined = re.sub(r'"?\s*\n\s*"?', " ", text)
    return re.findall(r"(segpipe segment [^#\"\n]*?max-error-rate 0.05)", joined)


def test_ray_jobs_are_valid() -> None:
    job = ray_job()
    jsonschema.validate(job, SCHEMA)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_misspelt_keys_of_a_ray_job_are_refused() -> None:
    job = ray_job()
    job["spec"]["rayClusterSpec"]["workerGroupSpec"] = []
    with pytest.raises(jsonschema.ValidationError, match="workerGroupSpec"):
        jsonschema.validate(job, SCHEMA)


def test_the_nightly_schedule_is_valid_and_may_create_the_job_that_it_mounts() -> None:
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes/nightly.yaml").read_text()))
    for each in objects:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    kinds = {each["kind"]: each for each in objects}
    pod = kinds["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == kinds["RoleBinding"]["subjects"][0]["name"]
    assert kinds["RoleBinding"]["roleRef"]["name"] == kinds["Role"]["metadata"]["name"]
    assert kinds["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]

    kustomization = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    assert kustomization["resources"] == ["nightly.yaml"]
    (generated,) = kustomization["configMapGenerator"]
    assert pod["volumes"][0]["configMap"]["name"] == generated["name"]
    mount = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert pod["containers"][0]["args"][-1] == f"{mount}/{generated['files'][0]}"


def test_versions_of_ray_are_those_that_the_package_allows() -> None:
    (needed,) = [r for d in project()["dependencies"] if (r := Requirement(d)).name == "ray"]
    pinned = re.findall(r'rayVersion: "([\d.]+)"|ray\[default\]==([\d.]+)', "".join(f.read_text() for f in FILES))
    assert len(pinned) == 2
    assert all(needed.specifier.contains(one or other) for one, other in pinned)
    assert needed.specifier.contains(ray.__version__)


@pytest.mark.parametrize("name", ["kubernetes/rayjob.yaml", "github-actions.yaml", "airflow_dag.py", "dagster_job.py"])
def test_the_submitted_command_is_a_bulk_run_that_continues_the_last_one(name: str) -> None:
    (command,) = submitted((DEPLOY / name).read_text())
    _, job, *options = shlex.split(command.replace("{{ ds }}", "2026-11-26"))
    config = cli.parse(commands.load(job).CONFIG, options, description="")
    assert config.since == "last"
    assert config.deadline


def test_the_image_copies_what_the_package_is_built_from() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [path for line in lines if line.startswith("COPY") for path in line.split()[1:-1]]
    assert all((REPO / path).exists() for path in copied)
    assert {"pyproject.toml", project()["readme"], *project()["license-files"], "pipeline"} == set(copied)
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', "\n".join(lines))
    assert set(extras.split(",")) <= set(project()["optional-dependencies"])


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
