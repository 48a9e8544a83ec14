"""The data that an exported network was trained on, and is evaluated on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_vitc.artifacts import arch_json
from lightning_vitc.config import experiment_of
from lightning_vitc.errors import UserError
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.class_record import classes_of_export
from lightning_vitc.runs.directory import RunDirectory


def pipeline_of_export(directory: str | Path, document: dict[str, Any], overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline of the experiment in `arch.json`, for its data.

    Args:
        directory: the export.
        document: the content of its `arch.json`.
        overrides: of the experiment.

    Raises:
        UserError: where it names no experiment.
    """
    written = document.get("experiment")
    if not isinstance(written, dict):
        raise UserError(f"{directory}: {arch_json.ARCH} names no experiment, whose data to evaluate on")
    if isinstance(data := written.get("data"), dict):
        written = {**written, "data": {**data, "exif": arch_json.preprocessing_in(document)["exif"]}}
    experiment = experiment_of(written, overrides, check_files=False)
    classes = classes_of_export(directory, document, experiment.data)
    return Pipeline(experiment, RunDirectory(directory), classes=classes)
