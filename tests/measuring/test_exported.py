"""The data of an export: that of its experiment, prepared as the export says."""

import pytest

from lightning_vitc.config import load_experiment
from lightning_vitc.data import VisionData
from lightning_vitc.measuring.exported import pipeline_of_export
from lightning_vitc.schema import DataConfig


@pytest.mark.parametrize("turned", [True, False])
def test_images_are_turned_as_the_export_says(tmp_path, turned):
    written = load_experiment("dense_digits", [f"data.exif={str(not turned).lower()}"]).to_container()
    document = {"architecture": {}, "experiment": written, "preprocessing": {"exif": turned}}
    data = pipeline_of_export(tmp_path, document).data
    assert data.config.exif == data.preprocessing["exif"] == turned
    assert pipeline_of_export(tmp_path, document, ["data.exif=true"]).data.config.exif
    assert (
        pipeline_of_export(tmp_path, document | {"preprocessing": {}}).data.config.exif != turned
    )  # an earlier version


def test_a_run_that_starts_from_such_a_network_turns_them_too():
    assert VisionData(DataConfig(name="digits"), img_size=8, exif=True).preprocessing["exif"]
