"""Draw scenes, train DeepLab on them, segment more of them in bulk, and query the result; all in ./demo.

Examples:
    segpipe demo
    segpipe demo --output elsewhere --epochs 3
"""

import shutil
from pathlib import Path

from pydantic import BaseModel, Field

from pipeline import cli

HOME = Path("demo")
SCENES = {"train": 256, "val": 32, "night": 200}

QUERIES = {
    "Which scenes are more than 4% car?": """
        SELECT image_id, width, height, round(px_car / (width * height), 3) AS car
        FROM read_parquet('{runs}/*/images/*.parquet', hive_partitioning=true)
        WHERE status = 'ok' AND px_car > 0.04 * width * height ORDER BY car DESC LIMIT 5""",
    "What could not be segmented, and why?": """
        SELECT image_id, error_stage AS stage, error_class AS class, error_message AS message
        FROM read_parquet('{runs}/*/images/*.parquet', hive_partitioning=true)
        WHERE status = 'error' ORDER BY image_id""",
}


class DemoConfig(BaseModel):
    """The options of `segpipe demo`."""

    output: Path = Field(default=HOME, description="new folder for data, model and results; demo itself is replaced")
    epochs: int = Field(default=6, ge=1, description="epochs to train")


CONFIG = DemoConfig


def main(argv: list[str]) -> None:
    """Run the demo."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    import duckdb

    from pipeline.bulk.run import format_run
    from pipeline.bulk.segmentation.config import SegmentConfig
    from pipeline.bulk.segmentation.run import segment
    from pipeline.bulk.segmentation.tables import format_report
    from pipeline.data.transforms.config import Augmentation
    from pipeline.demo.scenes import CLASS_FILE, write_broken, write_scenes
    from pipeline.errors import UserError
    from pipeline.training.config import Optimiser
    from pipeline.training.display import format_training
    from pipeline.training.run import train
    from pipeline.training.segmentation.config import Split, TrainConfig
    from pipeline.training.segmentation.task import segmentation_task

    if config.output == HOME:
        shutil.rmtree(HOME, ignore_errors=True)
    elif config.output.exists():
        raise UserError(f"{config.output} exists already; choose another --output")
    data = config.output / "data"
    print(f"==> Drawing {sum(SCENES.values())} scenes and 5 broken files into {data}", flush=True)
    for seed, (name, count) in enumerate(SCENES.items()):
        write_scenes(data / name, count=count, seed=seed)
    write_broken(data / "night")
    (data / "classes.yaml").write_text(CLASS_FILE)

    print("\n==> Training DeepLab v3 on Ray Train (segpipe train)", flush=True)
    splits = {
        name: Split(images=str(data / name / "images"), labels=str(data / name / "labels")) for name in ("train", "val")
    }
    training = TrainConfig(
        model="deeplabv3_resnet18",
        model_options={"width": 0.25, "output_stride": 8},
        train=splits["train"],
        val=splits["val"],
        classes=str(data / "classes.yaml"),
        output=str(config.output / "model"),
        epochs=config.epochs,
        batch_size=8,
        augmentation=Augmentation(crop=(128, 128), scale=(0.75, 1.5)),
        optimiser=Optimiser(lr=0.05),
    )
    task, examples = segmentation_task(training)
    print(format_training(training, task.measures, train(training, task, examples)))

    print("\n==> Segmenting the night's images in bulk on Ray Data, with a dense CRF (segpipe segment)", flush=True)
    night = data / "night"
    run = segment(
        SegmentConfig(
            model=training.output,
            images=str(night / "images"),
            labels=str(night / "labels"),
            output=str(config.output / "runs"),
            crf=True,
        )
    )
    assert run is not None
    print(format_run(run, format_report))

    print("\n==> Querying the result with DuckDB")
    for question, template in QUERIES.items():
        query = template.format(runs=config.output / "runs")
        print(f"\n{question}\n{query}")
        print(duckdb.sql(query))
