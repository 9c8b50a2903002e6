"""The commands of `segpipe`. This module imports nothing heavy, because `segpipe --help` reads it.

A command is a line of `COMMANDS` and a module of the same name in this folder, with `_` for `-`. The module has:

- a docstring, which is the text of `--help`, with two or three commands below `Examples:`;
- `CONFIG`, the pydantic model of the options;
- `COMMON`, the options that `--help` lists first, as names of fields (`scaling.use_gpu`); it may be left out;
- `RECIPES`, the folder below `pipeline/recipes` from which `--recipe` takes names, if the command has recipes;
- `main`, which takes the arguments and returns an exit code, or None for 0. It imports heavy packages itself.
"""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

TRAIN = "Train"
BULK = "Run in bulk"
RESULTS = "Look at results"
UPKEEP = "Look after runs"
HELPERS = "Get started"


class Command(NamedTuple):
    """A command of `segpipe`.

    Attributes:
        group: Heading of `segpipe --help` below which the command stands.
        summary: Line about the command, without a full stop.
        is_resumable: Whether it runs in a process of its own, so that one line says how to go on whatever ends it.
    """

    group: str
    summary: str
    is_resumable: bool = False


COMMANDS = {
    "demo": Command(HELPERS, "draw scenes, train on them, segment more of them in bulk, and query the result"),
    "models": Command(HELPERS, "list the architectures with parameters, operations and memory"),
    "recipes": Command(HELPERS, "list the recipes of papers that --recipe NAME takes"),
    "schema": Command(HELPERS, "print the JSON schema of a command's YAML file, for editors"),
    "completion": Command(HELPERS, "print a completion script for bash, zsh or fish"),
    "validate": Command(TRAIN, "read a data set and report what is wrong with it"),
    "train": Command(TRAIN, "train a segmentation network on images and label maps", is_resumable=True),
    "train-classifier": Command(TRAIN, "train a classifier with activation maps on image labels", is_resumable=True),
    "train-detector": Command(TRAIN, "train a detector on images and boxes", is_resumable=True),
    "pseudo-labels": Command(TRAIN, "turn the maps of a localization run into label maps for training"),
    "label-maps": Command(TRAIN, "turn the polygons and masks of a COCO file into label maps for training"),
    "ensemble": Command(TRAIN, "join a DeconvNet and an FCN-8s into one model"),
    "segment": Command(BULK, "segment a collection of images", is_resumable=True),
    "localize": Command(BULK, "find out what images show and where, by a classifier's maps", is_resumable=True),
    "detect": Command(BULK, "find objects in a collection of images, as boxes", is_resumable=True),
    "query": Command(RESULTS, "query the rows and reports of a run in SQL"),
    "report": Command(RESULTS, "write the page of a finished run again, or compare two runs"),
    "evaluate": Command(RESULTS, "score the masks of a finished run against label maps"),
    "tune-crf": Command(RESULTS, "search the parameters of the dense CRF on validation images"),
    "study": Command(RESULTS, "compare variants over seeds, and say whether a paper's claim holds on your data"),
    "study-lesions": Command(RESULTS, "remove and reorder the residual blocks of a trained network"),
    "check-detector": Command(RESULTS, "measure how well a target detector tells unseen images apart"),
    "export": Command(RESULTS, "write the masks or boxes of a run in the format of another tool"),
    "export-model": Command(RESULTS, "write a model as an ONNX file, or for the Hugging Face Hub"),
    "status": Command(UPKEEP, "show how far a run is, and what to do next"),
    "prune": Command(UPKEEP, "remove old runs that no other run needs"),
}


def load(name: str) -> ModuleType:
    """Import the module of a command."""
    return import_module(f"{__name__}.{name.replace('-', '_')}")
