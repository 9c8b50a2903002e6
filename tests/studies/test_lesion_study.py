"""The lesion study on a classifier that has learned coloured squares, and on segmentation networks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pipeline.bundle import load_bundle, save_bundle
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import ClassifierInput
from pipeline.errors import UserError
from pipeline.models import configure
from pipeline.studies.config import LesionConfig
from pipeline.studies.examples import scorer_of
from pipeline.studies.lesion import find_blocks
from pipeline.studies.lesion_report import judge
from pipeline.studies.lesion_results import PathGradients, Results
from pipeline.studies.lesion_study import count_chunk, measure_paths, study_lesions
from pipeline.studies.variants import list_lesions

COLOURS = {"blue": (20, 30, 220), "green": (20, 200, 40), "red": (220, 20, 30)}
SIZE = 16


def draw(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
            top, left = rng.integers(0, SIZE - 7, 2)
            pixels[top : top + 7, left : left + 7] = colour
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("squares")
    draw(folder, 30, seed=0)
    return str(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, pictures) -> str:
    """A residual network of six blocks that has learned the pictures."""
    torch.manual_seed(0)
    options = {"depth": 14, "width": 0.5}
    network = configure("resnet110", options).build(3).train()
    card = Card(
        architecture="resnet110",
        options=options,
        classes=Classes(names=tuple(COLOURS)),
        classifier=ClassifierInput(size=(SIZE, SIZE), multi_label=False),
    )
    scorer = scorer_of(card, "")
    config = LesionConfig(model="none", images=pictures, output="none")
    images = [scorer.read(sample) for sample in scorer.samples(config)]
    batch = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2) / 64 - 1.7
    labels = torch.from_numpy(np.stack([image.labels for image in images]))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(network(batch).logits, labels).backward()
        optimiser.step()
    preprocessing = card.preprocessing.model_copy(update={"mean": (0.4267,) * 3, "std": (0.251,) * 3})
    url = str(tmp_path_factory.mktemp("bundle"))
    save_bundle(url, network, card.model_copy(update={"preprocessing": preprocessing}))
    return url


def config_of(bundle: str, pictures: str, output: Path, **options) -> LesionConfig:
    small = {"counts": (1, 2, 3, 4), "swaps": (1, 2), "draws": 3, "path_draws": 3}
    return LesionConfig(**{"model": bundle, "images": pictures, "output": str(output)} | small | options)


@pytest.mark.usefixtures("ray_driver")
def test_a_study_writes_tables_verdicts_figures_and_a_page(bundle, pictures, tmp_path):
    (tmp_path / "images").mkdir()
    draw(tmp_path / "more", 24, seed=1)
    (tmp_path / "more" / "red" / "broken.png").write_bytes(b"no image")
    folder = study_lesions(config_of(bundle, str(tmp_path / "more"), tmp_path / "studies"))
    rows = pq.read_table(f"{folder}/variants.parquet").to_pylist()
    kinds = [row["kind"] for row in rows]
    assert [kinds.count(kind) for kind in ("intact", "single", "several", "shuffled")] == [1, 6, 12, 6]
    intact = rows[0]
    assert intact["error"] < 0.1
    assert intact["damage"] == 0
    singles = [row for row in rows if row["kind"] == "single"]
    assert [row["transition"] for row in singles] == [False, False, True, False, True, False]
    assert max(row["error"] for row in singles if row["transition"]) > max(
        row["error"] for row in singles if not row["transition"]
    )
    assert all(-1 <= row["tau"] < 1 for row in rows if row["kind"] == "shuffled")
    assert all(row["problem"] is None for row in rows)
    paths = pq.read_table(f"{folder}/paths.parquet").to_pylist()
    assert [row["length"] for row in paths] == list(range(7))
    assert sum(row["share_of_paths"] for row in paths) == pytest.approx(1)
    assert sum(row["share_of_gradient"] for row in paths) == pytest.approx(1)
    about = json.loads(Path(f"{folder}/study.json").read_text())
    assert len(about["claims"]) == 5
    assert (about["images"], about["left_out"]) == (72, 1)
    assert Image.open(f"{folder}/figure.png").size[0] > 1000
    assert "<svg" in Path(f"{folder}/figure.svg").read_text()
    page = Path(f"{folder}/report.html").read_text()
    assert "Without any one of its blocks" in page
    assert "broken.png" in page


@pytest.mark.usefixtures("ray_driver")
def test_an_interrupted_study_goes_on_and_gives_the_same_tables(bundle, pictures, tmp_path):
    config = config_of(bundle, pictures, tmp_path, path_draws=0)
    folder = Path(study_lesions(config))
    before = pq.read_table(folder / "variants.parquet")
    parts = sorted((folder / "_parts").glob("*/chunk_*.json"))
    assert len(parts) == 2
    kept = parts[0].read_bytes()
    parts[1].unlink()
    (folder / "study.json").unlink()
    parts[0].write_bytes(kept)
    modified = parts[0].stat().st_mtime_ns
    assert study_lesions(config) == str(folder)
    assert pq.read_table(folder / "variants.parquet") == before
    assert parts[0].stat().st_mtime_ns == modified
    assert parts[1].exists()


@pytest.mark.usefixtures("ray_driver")
def test_a_study_of_one_name_never_uses_the_counts_of_other_options(bundle, pictures, tmp_path):
    options = {"path_draws": 0, "study_id": "mine"}
    study_lesions(config_of(bundle, pictures, tmp_path, counts=(1, 2), **options))
    folder = study_lesions(config_of(bundle, pictures, tmp_path, counts=(3,), seed=1, **options))
    found = pq.read_table(f"{folder}/variants.parquet")
    fresh = study_lesions(config_of(bundle, pictures, tmp_path / "other", counts=(3,), seed=1, **options))
    assert found == pq.read_table(f"{fresh}/variants.parquet")


def test_counts_equal_those_of_networks_evaluated_one_by_one(bundle, pictures, tmp_path):
    config = config_of(bundle, pictures, tmp_path)
    network, card = load_bundle(bundle)
    scorer = scorer_of(card, bundle)
    samples = scorer.samples(config)
    blocks = find_blocks(network, torch.zeros(1, 3, SIZE, SIZE))
    lesions = list_lesions(blocks, counts=(2, 4), swaps=(1,), draws=3, seed=3)
    counts = count_chunk(config, card, scorer, samples, lesions).counts
    images = [scorer.read(sample) for sample in samples]
    for lesion, counted in zip(lesions, counts, strict=True):
        other, _ = load_bundle(bundle)
        modules: list[Any] = [block.module for block in find_blocks(other, torch.zeros(1, 3, SIZE, SIZE))]
        for i in lesion.variant.removed:
            modules[i].body[-1].weight.data.zero_()
        if lesion.variant.order:
            states = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
            for i, j in enumerate(lesion.variant.order):
                if i != j:
                    modules[i].load_state_dict(states[j])
        expected = scorer.count(scorer.evaluator(other, torch.device("cpu")), images)
        assert counted.tolist() == expected.tolist(), lesion


def test_a_segmentation_network_is_scored_by_its_mean_iou(tmp_path):
    options = {"width": 0.125}
    torch.manual_seed(0)
    card = Card(architecture="deeplabv3_resnet18", options=options, classes=Classes(names=("a", "b", "c")))
    save_bundle(str(tmp_path / "bundle"), configure("deeplabv3_resnet18", options).build(3), card)
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i, size in enumerate(((48, 64), (48, 64), (32, 40))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(rng.integers(0, 3, size, dtype=np.uint8)).save(tmp_path / "labels" / f"{i}.png")
    config = config_of(str(tmp_path / "bundle"), str(tmp_path / "images"), tmp_path, labels=str(tmp_path / "labels"))
    network, card = load_bundle(str(tmp_path / "bundle"))
    scorer = scorer_of(card, "")
    blocks = find_blocks(network, torch.zeros(1, 3, 48, 64))
    lesions = list_lesions(blocks, counts=(2,), swaps=(1,), draws=1, seed=0)
    samples = scorer.samples(config)
    counts = count_chunk(config, card, scorer, samples, lesions).counts
    assert all(matrix.sum() == 2 * 48 * 64 + 32 * 40 for matrix in counts)
    assert 0 < scorer.error(counts[0]) < 1
    assert scorer.chance(counts[0]) == pytest.approx(1 - counts[0].sum(1).max() / counts[0].sum() / 3)
    read, stored = [scorer.read(sample) for sample in samples[:2]], str(tmp_path / "paths.json")
    gradients = measure_paths(config, card, scorer, read, stored=stored)
    assert gradients.norms.shape == (9, 3)
    assert np.isfinite(gradients.norms).all()
    assert (gradients.norms > 0).all()

    # An interrupted measurement goes on with the lengths that are missing: what is stored is not measured again.
    norms = json.loads((tmp_path / "paths.json").read_text())
    (tmp_path / "paths.json").write_text(json.dumps([[7.0] * 3, *norms[1:4]]))
    resumed = measure_paths(config, card, scorer, read, stored=stored)
    np.testing.assert_array_equal(resumed.norms[0], 7.0)
    np.testing.assert_allclose(resumed.norms[1:], gradients.norms[1:], rtol=1e-4)


def test_an_intact_network_with_scores_that_are_no_numbers_leaves_every_claim_undecided(pictures, bundle, tmp_path):
    network, card = load_bundle(bundle)
    with torch.no_grad():
        network.get_parameter("fc.bias").fill_(torch.nan)
    save_bundle(str(tmp_path / "broken"), network, card)
    config = config_of(str(tmp_path / "broken"), pictures, tmp_path)
    scorer = scorer_of(card, "")
    blocks = find_blocks(network, torch.zeros(1, 3, SIZE, SIZE))
    lesions = list_lesions(blocks, counts=(2,), swaps=(1,), draws=1, seed=0)
    problems = count_chunk(config, card, scorer, scorer.samples(config)[:4], lesions).counts
    assert len(problems) == len(lesions)
    assert all("the intact network: " in problem for problem in problems)
    measured = Results(card, scorer, blocks, lesions, 4, [], [None] * len(lesions), problems, None)
    assert {claim.verdict for claim in judge(measured)} == {"undecided"}
    assert {claim.measured for claim in judge(measured)} == {problems[0]}


def test_label_maps_that_contradict_the_classes_stop_a_study(tmp_path):
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=Classes(names=("a", "b")))
    save_bundle(str(tmp_path / "bundle"), configure(card.architecture, card.options).build(2), card)
    for name, value in (("images", 90), ("labels", 7)):
        (tmp_path / name).mkdir()
        Image.new("L" if name == "labels" else "RGB", (48, 32), value).save(tmp_path / name / "0.png")
    config = config_of(str(tmp_path / "bundle"), str(tmp_path / "images"), tmp_path, labels=str(tmp_path / "labels"))
    scorer = scorer_of(card, "")
    with pytest.raises(UserError, match="Check the data set with segpipe validate"):
        count_chunk(config, card, scorer, scorer.samples(config), [])


def results(errors: dict[str, list[float]], lesions, blocks, paths=None) -> Results:
    """Results with given errors of 1000 images, by kind of variant."""
    card = Card(
        architecture="resnet110",
        options={},
        classes=Classes(names=tuple("abcdefghij")),
        classifier=ClassifierInput(size=(8, 8), multi_label=False),
    )
    given = {kind: iter(values) for kind, values in errors.items()}
    counts = [np.array([round(1000 * (1 - next(given[lesion.kind]))), 1000]) for lesion in lesions]
    return Results(card, scorer_of(card, ""), blocks, lesions, 1000, [], counts, [None] * len(lesions), paths)


def test_verdicts_follow_their_rules():
    network = configure("resnet110", {"depth": 20, "width": 0.5}).build(10).eval()
    blocks = find_blocks(network, torch.zeros(1, 3, 16, 16))
    lesions = list_lesions(blocks, counts=(1, 2, 3, 4), swaps=(1, 2, 3, 4), draws=1, seed=0)
    single = [0.11, 0.12, 0.1, 0.5, 0.1, 0.12, 0.6, 0.13, 0.11]
    order = np.argsort([-lesion.tau for lesion in lesions if lesion.kind == "shuffled"])
    shuffled = np.empty(4)
    shuffled[order] = [0.2, 0.3, 0.4, 0.5]
    errors = {"intact": [0.1], "single": single, "several": [0.2, 0.3, 0.5, 0.6], "shuffled": shuffled.tolist()}
    decaying = PathGradients(np.repeat(0.1 ** np.arange(10.0)[:, None], 2, axis=1))
    found = judge(results(errors, lesions, blocks, decaying))
    assert [claim.verdict for claim in found] == ["held"] * 5
    flat = PathGradients(np.ones((10, 2)))
    worse = errors | {"single": [0.5] * 9, "several": [0.8, 0.2, 0.3, 0.1], "shuffled": (1 - shuffled).tolist()}
    found = judge(results(worse, lesions, blocks, flat))
    assert [claim.verdict for claim in found] == ["did not hold"] * 5
    weak = {kind: [0.88] * len(values) for kind, values in errors.items()}
    assert {claim.verdict for claim in judge(results(weak, lesions, blocks, flat))} == {"undecided"}


def test_a_bundle_that_the_study_cannot_take_is_refused(tmp_path, bundle, pictures):
    card = Card(
        architecture="resnet18_cam",
        options={"width": 0.125},
        classes=Classes(names=("cat",)),
        classifier=ClassifierInput(size=(64, 64), multi_label=True),
    )
    save_bundle(str(tmp_path / "multi"), configure(card.architecture, card.options).build(1), card)
    with pytest.raises(UserError, match="trained for any number of classes in an image"):
        study_lesions(config_of(str(tmp_path / "multi"), pictures, tmp_path))
    plain = card.model_copy(update={"architecture": "alexnet_cam", "options": {"width": 0.125, "added": 8}})
    plain = plain.model_copy(update={"classifier": ClassifierInput(size=(64, 64), multi_label=False)})
    save_bundle(str(tmp_path / "cat"), configure(plain.architecture, plain.options).build(1), plain)
    with pytest.raises(UserError, match=r"no image in .* has one class of the model; it knows cat"):
        study_lesions(config_of(str(tmp_path / "cat"), pictures, tmp_path))
    (tmp_path / "list.txt").write_text("blue/999\n")
    with pytest.raises(UserError, match="listed images are not there, the first: blue/999"):
        study_lesions(config_of(bundle, pictures, tmp_path, list=str(tmp_path / "list.txt")))
