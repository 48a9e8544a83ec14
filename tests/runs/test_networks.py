"""The networks that a run stores when it ends."""

import shutil

import pytest
import torch

from lightning_vitc.config import load_experiment, registry
from lightning_vitc.networks.elastic import ElasticViT
from lightning_vitc.pipeline.finished import networks_of_run
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.networks import store, stored


@pytest.fixture(scope="module")
def replayed(finished):
    """The pipeline, run over the checkpoints of its stages."""
    experiment = load_experiment(str(finished / "config.yaml"))
    run = Pipeline(experiment, RunDirectory(finished), read_only=True)
    registry.load_method(experiment.method_name).pipeline(run)
    return run


def test_they_are_those_of_the_pipeline(finished, replayed):
    run, networks = networks_of_run(finished)
    images = torch.randn(3, 1, 8, 8)
    assert (run.dense_name, [*run.variants]) == (replayed.dense_name, [*replayed.variants]) == ("dense", ["elastic"])
    assert len(networks) == len(replayed.networks) == 5
    for network, original in zip(networks, replayed.networks, strict=True):
        assert (network.name, network.columns) == (original.name, original.columns)
        assert (network.spec, network.sources) == (original.spec, original.sources)
        assert not network.module.training
        assert torch.equal(network.module(images), original.module(images))
    assert torch.equal(run.variants["elastic"]()(images), replayed.variants["elastic"]()(images))


def test_widths_are_stored_once(finished):
    assert sorted(path.name for path in (finished / "networks").iterdir()) == ["dense", "elastic", "models.json"]
    assert isinstance(stored(finished).variants["elastic"](), ElasticViT)


def test_classes_and_preparation_are_with_them(finished, replayed):
    facts = stored(finished).facts
    assert facts["classes"] == [*replayed.data.classes]
    assert facts["preprocessing"] == replayed.data.preprocessing


def test_blocks_know_where_they_came_from(tmp_path, replayed):
    network = replayed.networks[0]
    network.sources = (2,)
    store(tmp_path, [network], {}, {})
    assert stored(tmp_path).networks[0].sources == (2,)


def test_a_run_without_them(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("networks"))
    assert stored(tmp_path / "run") is None
