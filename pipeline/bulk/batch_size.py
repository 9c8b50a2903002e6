"""The size of a run's batches, measured once for each model of GPU and noted in the run for when it is resumed."""

import json
import re

from pipeline import storage
from pipeline.bulk.catalogue import RUN_FOLDER
from pipeline.bulk.kind import ImagePredictor


def agreed_batch_pixels(run: str, predictor: ImagePredictor) -> int:
    """Return the number of pixels in a batch that a run uses on the device of a predictor.

    Args:
        run: Folder of the run.
        predictor: It measures, unless another predictor on such a device has done so.
    """
    if predictor.device_name == "cpu":
        return predictor.measure_batch_pixels()
    note = storage.join(run, RUN_FOLDER, f"batch-{re.sub(r'[^A-Za-z0-9]+', '-', predictor.device_name)}.json")
    if not storage.exists(note):
        pixels = predictor.measure_batch_pixels()
        if not storage.exists(note):  # predictors that start together measure together, and the first one decides
            storage.write_bytes(note, json.dumps({"batch_pixels": pixels}).encode())
    return json.loads(storage.read_bytes(note))["batch_pixels"]
