"""The program `segpipe`: its commands, help, recipes, schemas and completion, also from an installed wheel."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline import __version__, cli, completion, recipes
from pipeline.__main__ import overview
from pipeline.commands import COMMANDS, load
from pipeline.commands.schema import schema_of
from pipeline.errors import UserError
from pipeline.options import list_options
from pipeline.training.segmentation.config import TrainConfig
from tests.support.jobs import JOBS, REPO

MODULES = {path.stem for path in (REPO / "pipeline/commands").glob("*.py")} - {"__init__"}


def segpipe(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=os.environ | environment)


def test_a_reader_that_has_read_enough_sees_no_traceback():
    command = f"{sys.executable} -m pipeline recipes | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPO)
    assert result.stderr == ""
    first, code = result.stdout.splitlines()
    assert first == "segpipe train --recipe"
    assert code in ("0", "141")  # 0 if all was written before head ended
    code = "import sys, time\nfrom pipeline import cli\n"
    code += "def main(argv):\n    time.sleep(1)\n    print('much')\ncli.run(main)"
    command = f'{sys.executable} -c "{code}" | true; echo ${{PIPESTATUS[0]}}'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPO)
    assert (result.stdout, result.stderr) == ("141\n", "")


def test_text_reaches_a_terminal_that_lacks_its_characters():
    result = segpipe("train", "--help", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "VALUE,VALUE,\\u2026" in result.stdout


def test_every_module_is_a_command_and_every_job_file_runs_one():
    assert {name.replace("-", "_") for name in COMMANDS} == MODULES
    for job in JOBS:
        (name,) = re.findall(r'run_command\("([\w-]+)"', (REPO / "jobs" / f"{job}.py").read_text())
        assert name == {"train_deeplab": "train"}.get(job, job.replace("_", "-"))


def test_the_overview_lists_the_commands_in_groups():
    text = overview()
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", text, re.MULTILINE)
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == ["Get started", "Train", "Run in bulk", "Look at results", "Look after runs"]


@pytest.mark.parametrize(
    ("arguments", "code", "output", "errors"),
    [
        (["--version"], 0, f"segpipe {__version__}\n", ""),
        (["--help"], 0, overview() + "\n", ""),
        ([], 2, "", overview() + "\n"),
        (["segmnt"], 2, "", "error: unknown command segmnt; did you mean segment?\n"),
        (["xyzzy"], 2, "", "error: unknown command xyzzy; segpipe --help lists the commands\n"),
        (["--verison"], 2, "", "error: unknown option --verison; did you mean --version?\n"),
        (["train", "--version"], 0, f"segpipe {__version__}\n", ""),
        (
            ["evaluate", "--run", "/nowhere", "--labls", "x"],
            2,
            "",
            "error: unknown option --labls; did you mean --labels?\n",
        ),
    ],
)
def test_the_exit_codes_and_lines_of_the_program(arguments, code, output, errors):
    result = segpipe(*arguments)
    assert (result.returncode, result.stdout, result.stderr) == (code, output, errors)


def test_a_command_may_be_spelt_as_its_job_file():
    assert segpipe("tune_crf", "--help").stdout == segpipe("help", "tune-crf").stdout != ""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_option_once_and_examples_that_parse(name, capsys, monkeypatch, tmp_path):
    module = load(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "train.yaml").write_text(
        "model: unet\noutput: o\nclasses: c\ntrain: {images: i, labels: l}\nval: {images: i, labels: l}\n"
    )
    (tmp_path / "data.yaml").write_text((tmp_path / "train.yaml").read_text())
    with pytest.raises(SystemExit):
        module.main(["--help"])
    text = capsys.readouterr().out
    listed = re.findall(r"^  (--[\w.-]+|[A-Z]+)(?:, --no-[\w.-]+)?(?: |$)", text, re.MULTILINE)
    names = [option.name for option in list_options(module.CONFIG)]
    assert sorted(listed) == sorted([*names, "--config", *(["--recipe"] if hasattr(module, "RECIPES") else [])])

    joined = text.replace("\\\n", " ")
    examples = [shlex.split(line, comments=True) for line in joined.splitlines() if line.startswith("    segpipe ")]
    assert 2 <= len(examples) <= 3
    for _, command, *arguments in examples:
        arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments
        other = load(command)
        cli.parse(other.CONFIG, arguments, description="", recipe_folder=getattr(other, "RECIPES", None))


def test_help_lists_required_options_first_and_groups_with_what_they_are_about():
    text = segpipe("train", "--help").stdout
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings[:4] == ["Examples", "Required", "Common", "Further options"]
    assert "scaling: where training runs" in headings
    required = text[text.index("Required:") : text.index("Common:")]
    names = ["model", "output", "train.images", "train.labels", "val.images", "val.labels", "classes"]
    assert re.findall(r"^  --(\S+)", required, re.MULTILINE) == names


def test_defaults_are_those_of_the_command_itself():
    """The classifier crops 224 pixels, where segmentation crops 321."""
    defaults = [
        next(option.default for option in list_options(load(name).CONFIG) if option.name == "--augmentation.crop")
        for name in ("train-classifier", "train")
    ]
    assert defaults == ["224,224", "321,321"]


# --- recipes


def test_a_recipe_is_found_by_its_name_and_by_its_path(tmp_path):
    data = ["--train.images=i", "--train.labels=l", "--val.images=i", "--val.labels=l", "--classes=c", "--output=o"]
    copy = tmp_path / "mine.yaml"
    copy.write_text(Path(recipes.locate("pspnet")).read_text().replace("seed: ", "# "))
    parsed = [
        cli.parse(TrainConfig, ["--recipe", r, *data], description="", recipe_folder="") for r in ("pspnet", str(copy))
    ]
    assert parsed[0] == parsed[1]
    assert parsed[0].model == "pspnet_resnet50"
    with pytest.raises(UserError, match=r"^--recipe: no recipe 'psp_net'; did you mean pspnet\?"):
        cli.parse(TrainConfig, ["--recipe", "psp_net", *data], description="", recipe_folder="")
    with pytest.raises(UserError, match="unknown option --recipe"):
        cli.parse(TrainConfig, ["--recipe", "pspnet", *data], description="")


def test_the_recipes_are_listed_and_printed():
    text = segpipe("recipes").stdout
    for path in recipes.FOLDER.glob("**/*.yaml"):
        assert re.search(rf"^  {path.stem} +\S", text, re.MULTILINE)
    assert yaml.safe_load(segpipe("recipes", "resnet50").stdout)["model"].startswith("resnet50")
    assert segpipe("recipes", "nope").stderr == "error: no recipe 'nope'; segpipe recipes lists them\n"
    assert segpipe("recipes", "unett").stderr == "error: no recipe 'unett'; did you mean unet?\n"


# --- schemas


@pytest.mark.parametrize("path", sorted(recipes.FOLDER.glob("**/*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_fits_the_schema_of_its_command(path):
    name = {"classifiers": "train-classifier", "detectors": "train-detector"}.get(path.parent.name, "train")
    validator = jsonschema.Draft202012Validator(schema_of(load(name).CONFIG))
    content = yaml.safe_load(path.read_text())
    assert list(validator.iter_errors(content)) == []
    assert list(validator.iter_errors(content | {"epocs": 3}))
    assert list(validator.iter_errors(content | {"optimiser": {"lr": "fast"}}))


def test_the_schema_is_printed_and_accepts_durations_as_people_write_them():
    schema = json.loads(segpipe("schema", "segment").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"deadline": "6h", "scaling": {"actors": 2}, "labels": None}, schema)
    assert segpipe("schema", "sgment").stderr == "error: unknown command sgment; did you mean segment?\n"


# --- completion

QUERIES = {
    ("seg",): {"segment"},
    ("train", "--optimiser.l"): {"--optimiser.lr", "--optimiser.lr-of"},
    ("segment", "--no-scaling.u"): {"--no-scaling.use-gpu"},
    ("segment", "--crf-mode", ""): {"exact", "pruned", "fast"},
    ("train-classifier", "--recipe", "res"): {"resnet50", "resnet110"},
    ("completion", ""): {"bash", "zsh", "fish"},
    ("train", "--recipe", "psp"): {"pspnet"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("words", QUERIES)
def test_bash_completes_commands_flags_and_values(words):
    line = " ".join(f"'{word}'" for word in ("segpipe", *words))
    program = (
        f"{completion.script('bash')}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _segpipe; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    found = {word for word in result.stdout.split() if (len(words) > 1 and words[-1]) or not word.startswith("--")}
    assert found == QUERIES[words]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_leaves_values_of_other_flags_to_file_names():
    query = "COMP_WORDS=(segpipe train --weights m); COMP_CWORD=3; _segpipe; echo ${#COMPREPLY[@]}"
    program = f"{completion.script('bash')}\n{query}"
    assert subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout == "0\n"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_name_every_command_and_flag(shell):
    """Where the shell is installed, it reads the script, too."""
    text = completion.script(shell)
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", text)
        for option in list_options(load(name).CONFIG):
            assert option.is_argument or (option.name if shell == "zsh" else f"-l {option.name[2:]}") in text
    if shutil.which(shell):
        subprocess.run([shell, "--no-execute"], input=text, text=True, check=True)


# --- installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the package is installed from a wheel, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    shutil.copytree(REPO / "pipeline", source / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    pip = [sys.executable, "-m", "pip", "install", *options, str(source)]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "site"


def test_the_installed_wheel_has_the_program_and_its_recipes(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}

    def run(*command: str) -> str:
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
        return result.stdout

    program = str(installed / "bin" / "segpipe")
    assert run(program, "--help") == run(sys.executable, "-m", "pipeline", "--help") == overview() + "\n"
    assert run(program, "recipes", "pspnet") == (REPO / "pipeline/recipes/pspnet.yaml").read_text()
    assert "classifiers" not in run(program, "recipes")
    assert "resnet110" in run(program, "recipes")
    page = "from pipeline.report import blocks, render; print(render.render(blocks.Page('p', 'k')))"
    assert "Content-Security-Policy" in run(sys.executable, "-c", page)  # the templates are in the wheel
    code = "import pipeline, pathlib; print(pathlib.Path(pipeline.__file__).parent)"
    assert run(sys.executable, "-c", code).strip() == str(installed / "pipeline")
