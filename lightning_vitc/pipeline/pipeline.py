"""Pipeline: the stages of a run, one after another, each resumed where it stopped.

A method's `pipeline` reads like its algorithm: `run.teacher()`, `run.fit(...)`, `run.add_row(...)`. A stage
that is finished is loaded instead of trained, so running a pipeline again continues it.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from timm.data import resolve_data_config

from lightning_vitc.budget.target import LATENCY
from lightning_vitc.data import VisionData
from lightning_vitc.data.classes import ClassNames, shown
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.files.checkpoint import read_checkpoint
from lightning_vitc.networks import costs
from lightning_vitc.networks.backbone import Backbone, create_teacher, from_spec
from lightning_vitc.networks.compaction import compact, compact_backbone
from lightning_vitc.networks.families.family import CLASSIFIERS
from lightning_vitc.networks.kept import Kept
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.evaluation import evaluate, near_chance
from lightning_vitc.pipeline.initial_network import knows, rows_of, starting_network, template, with_rows
from lightning_vitc.pipeline.latency_of_run import LatencyOfRun
from lightning_vitc.pipeline.results import Row
from lightning_vitc.pipeline.stages import Stages, load_selected, selected_file
from lightning_vitc.pipeline.trainers import test_trainer
from lightning_vitc.runs.class_record import classes_of_run
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.last_checkpoint import must_be_whole
from lightning_vitc.runs.networks import Network
from lightning_vitc.schema import DataConfig, Experiment, OptimizerConfig, is_directory_name
from lightning_vitc.training.supervised import Supervised
from lightning_vitc.training.teacher import Teacher, must_see_alike

OF_CLASSIFIERS = tuple(f"backbone.{name}" for name in CLASSIFIERS)


class Pipeline(Stages):
    """What a method's stages have in common: experiment, directory, data, and the rows of the final table.

    Args:
        experiment: what to run.
        directory: of the run.
        read_only: load finished stages and refuse to train others.
        classes: those of the run, where it has begun.
    """

    def __init__(
        self, experiment: Experiment, directory: RunDirectory, read_only: bool = False,
        classes: ClassNames | None = None,
    ):  # fmt: skip
        super().__init__(experiment, directory, read_only)
        self.arguments, self.optimizer = experiment.method, experiment.optimizer
        self.networks: list[Network] = []
        self.variants: dict[str, Callable[[], Any]] = {}  # what `vitc export` can write beside the networks
        self.dense_name: str | None = None
        self.images = self.left_out = 0  # of the evaluation split: used, and unusable
        self._template, self._classes = template(experiment.model), classes
        self.data = self._data(experiment.data)
        self.latency = LatencyOfRun(self, self.dense_spec)

    # The parts a method asks for

    def backbone(self, width: Fraction | float = 1) -> Backbone:
        """A new network of the experiment's model; narrower than 1, a plain one of that width."""
        model = self.experiment.model
        model = replace(model, pretrained=self._fetched(model.pretrained, "model"))
        full = starting_network(model, self.data.num_classes, self.data.classes)
        if width == 1:
            return full
        spec = full.spec.at_width(width)
        query = next((branch.query for _, _, branch in spec.branches() if branch.query), None)
        narrow = from_spec(spec.with_options(scale=query**-0.5) if query else spec, rates=full.rates)
        narrow.pretrained_cfg = full.pretrained_cfg
        return narrow

    def teacher(self) -> Teacher | None:
        """The teacher the experiment asks for: trained here as the stage `dense`, of another run, or of timm."""
        config = self.experiment.teacher
        if config.train or config.run is not None:
            dense = self.dense()
            return Teacher(dense, dense.spec.num_classes)
        if config.model is None or self.directory.is_complete():
            return None  # a finished run needs its teacher no more
        pretrained = self._fetched(config.pretrained, "teacher")
        spec = self._template.spec
        network: Any = create_teacher(config.model, pretrained, self.data.num_classes, spec.img_size, spec.in_chans)
        return Teacher(network, network.num_classes)

    def dense(self) -> Backbone:
        """The dense network, a row of the final table: of the stage `dense`, of another run, or pretrained."""
        config = self.experiment.teacher
        if config.train:
            data, recipe = self.teacher_recipe()
            module = self.fit("dense", lambda: Supervised(self.backbone(), recipe), epochs=config.epochs, data=data)
            network = module.backbone
        else:
            network = self.backbone() if config.run is None else dense_of_run(config.run, self.data.classes)
            must_see_alike(network.spec, self.dense_spec)
        if self.dense_name is None:
            self.dense_name = "dense"
            self.add_row("dense", network, None)
        return network

    def start(self, by_features: bool = False) -> Backbone:
        """`dense()` of a method that compresses it, which needs a trained one of the experiment's own model.

        Args:
            by_features: the method looks at what the classifier reads, and may do without a trained one.

        Raises:
            UserError: for another run's network of another shape, or a classifier that was never trained.
        """
        self._must_have_a_trained_classifier(by_features)
        dense, wanted = self.dense(), self.dense_spec
        if replace(dense.spec, name=wanted.name) != wanted:
            run = self.experiment.teacher.run
            raise UserError(f"teacher.run: {run} holds another network than model.name; they must agree")
        return dense

    def _must_have_a_trained_classifier(self, by_features: bool) -> None:
        model, teacher, classes = self.experiment.model, self.experiment.teacher, self._template.spec.num_classes
        if teacher.train or teacher.run is not None or self.experiment.data.name == "fake":
            return
        if by_features and (model.new_head or not classes):
            return
        remedy = "train it first with teacher.train=true, or name a run of this data in teacher.run"
        if model.new_head:
            raise UserError(f"model.new_head: {self.experiment.method_name} starts from a trained network; {remedy}")
        compressed = is_directory_name(model.name)
        if compressed and classes == self.data.num_classes and not knows(model, self.data.classes):
            raise UserError(
                f"model.name: the classifier of {model.name} is for other classes than the data's; {remedy}"
            )
        key = "model.name" if compressed else "model.pretrained"
        if model.pretrained is True and not classes:
            raise UserError(f"{key}: {model.name} has no classifier; {remedy}")
        if (model.pretrained is True or compressed) and classes != self.data.num_classes:
            raise UserError(
                f"{key}: the classifier of {model.name} is for {counted(classes, 'class')}, "
                f"and data.name={self.experiment.data.name} has {self.data.num_classes}; {remedy}"
            )

    def _fetched(self, pretrained: bool | str, what: str) -> bool | str:
        """`pretrained`, except that nothing is fetched for a dry run."""
        if self.experiment.data.name == "fake" and pretrained is True:
            warnings.warn(f"data.name=fake is a dry run: the {what} keeps random weights", stacklevel=3)
            return False
        return pretrained

    def compacted(self, network: Backbone, kept: Kept) -> Backbone:
        """The sub-network as a backbone of its own, to be trained further."""
        return compact_backbone(network, kept)

    def add_row(
        self, name: str, network: Backbone, kept: Kept | None, sources: tuple[int, ...] | None = None, **columns: Any
    ) -> None:
        """Put a network into the final table; what is evaluated is the compacted, standalone model.

        Args:
            name: of the row.
            network: holds the weights; `kept` what to cut out of it.
            sources: the numbers its blocks had in the dense network, for the picture; default: those of `kept`.
            columns: further ones of the table.
        """
        plain = compact(network, kept).float()  # after a training in half precision too
        if kept is not None:
            sources = kept.sources
        self.networks.append(Network(name, plain, ArchSpec.of(plain), columns, sources))

    def add_variant(self, name: str, build: Callable[[], Any]) -> None:
        """Offer a network for export beside those of the table: one that does more than a plain ViT.

        Args:
            name: for `vitc export --variant`.
            build: makes it; a class of `artifact.KINDS`.
        """
        self.variants[name] = build

    @property
    def template(self) -> Backbone:
        """The experiment's model without weights."""
        return self._template

    @property
    def dense_spec(self) -> ArchSpec:
        """The experiment's model, uncompressed, with the classes of its data."""
        return replace(self._template.spec, num_classes=self.data.num_classes)

    def teacher_recipe(self) -> tuple[VisionData, OptimizerConfig]:
        """Of the dense stage: the experiment's data and optimizer but for the keys of `teacher`, on all images."""
        config, data = self.experiment.teacher, self.experiment.data
        changed = replace(data, **_given(config, "batch_size", "mixup", "cutmix", "smoothing"))
        if data.few_shot:
            changed = replace(changed, few_shot=False, num_samples=None, unlabeled=None)
        recipe = replace(self.optimizer, **_given(config, "lr", "weight_decay", "warmup_epochs"))
        return (self.data if changed == data else self._data(changed)), recipe

    # The end of the run

    def rows(self) -> tuple[Row | None, list[Row]]:
        """Evaluate every network on the evaluation split, once; the dense row and the others."""
        latency = self.latency.of_rows(self.networks)
        for network in self.networks:
            network.columns |= {LATENCY: latency[network.name]} if network.name in latency else {}
        modules = {network.name: network.module for network in self.networks}
        evaluation = evaluate(test_trainer(self.experiment), modules, self.data.num_classes, self.data)
        self.images, self.left_out = evaluation.images, evaluation.left_out
        rows = [
            Row(name=network.name, macs=network.macs, params=costs.params(network.spec),
                **evaluation.accuracy[network.name], columns=network.columns | network.executed)
            for network in self.networks
        ]  # fmt: skip
        dense = [row for row in rows if row.name == self.dense_name]
        others = [row for row in rows if row.name != self.dense_name or "width" in row.columns]
        if dense:
            self._warn_of_order(dense[0].top1)
        return (dense[0] if dense else None), others

    def _warn_of_order(self, top1: float) -> None:
        """Of a dense network that others trained: it may count its classes in another order."""
        config, model = self.experiment, self.experiment.model
        others = model.pretrained or is_directory_name(model.name) or config.teacher.run is not None
        own = config.teacher.train or config.data.name == "fake"
        if others and not own and near_chance(top1, self.data.num_classes):
            warnings.warn(
                f"the pretrained dense model has {top1:.2f} % on its own data, hardly more than chance: does it count "
                f"the classes in another order? Here it is {shown(self.data.classes)}; data.classes gives another one",
                stacklevel=3,
            )

    def _data(self, config: DataConfig) -> VisionData:
        spec = self._template.spec
        size = {"input_size": (spec.in_chans, *spec.img_size)}
        said: dict[str, Any] = self._template.pretrained_cfg or {}
        preset = resolve_data_config(size, pretrained_cfg=said)
        preset.pop("input_size")
        return VisionData(
            config, img_size=spec.img_size, in_chans=spec.in_chans, seed=self.experiment.seed,
            accumulate=self.experiment.trainer.accumulate_grad_batches, classes=self._classes,
            exif=bool(said.get("exif")), **preset,
        )  # fmt: skip


def _given(section: Any, *keys: str) -> dict[str, Any]:
    return {key: value for key in keys if (value := getattr(section, key)) is not None}


def dense_of_run(path: str, classes: Sequence[str]) -> Backbone:
    """The dense network of another run, of its stage `dense`, with its classifier in the order of these classes.

    Raises:
        UserError: where the run has none, it is not finished, or it knows other classes.
    """
    directory = RunDirectory(path)
    experiment = directory.experiment()
    folder = directory.stage("dense")
    if not (folder / "done.json").exists():
        raise UserError(f"teacher.run: {path} has no finished dense stage; train it with method.name=dense first")
    must_be_whole(file := selected_file(folder))
    weights = read_checkpoint(file)["state_dict"]
    count = next((len(weight) for name, weight in weights.items() if name.startswith(OF_CLASSIFIERS)), 0)
    model = replace(experiment.model, pretrained=False, new_head=False)
    dense = Supervised(starting_network(model, count), experiment.optimizer)
    load_selected(dense, folder)
    known = classes_of_run(directory, experiment.data, evaluated=True)
    if known is not None and count == len(classes):
        if missing := [name for name in classes if name not in {*known.names}]:
            raise UserError(f"teacher.run: {path} lacks the data's class {missing[0]!r}; it has {shown(known.names)}")
        rows = rows_of(known.names, classes)
        dense.backbone.load_state_dict(with_rows(dense.backbone.state_dict(), rows))
    return dense.backbone
