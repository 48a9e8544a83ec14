"""What a run is refused for at its start: checked by `vitc train`, and by `vitc slurm` before a script is written."""

from lightning_vitc.pipeline.limits import check_batch_norms, check_limits
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.planning import check_start
from lightning_vitc.runs.class_record import classes_of_run, must_keep_order
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.image_record import must_have_same_images
from lightning_vitc.schema import Experiment


def startable(
    experiment: Experiment, directory: RunDirectory, *, fresh: bool = False, measure: bool = True
) -> Pipeline:
    """The pipeline of an experiment that can start; it reads the data set, and writes nothing.

    Args:
        experiment: what is to run, on the devices that it is to run on.
        directory: of the run, which may have begun.
        fresh: what has begun is going to be deleted.
        measure: also budgets of latency, which are measured here; only where the run is going to be, by one process.

    Raises:
        UserError: for whatever would end the run before its first step.
    """
    check_start(experiment, measure)
    classes = None if fresh else classes_of_run(directory, experiment.data, evaluated=False)
    must_keep_order(classes, experiment.data)
    pipeline = Pipeline(experiment, directory, classes=classes)
    pipeline.data.setup()
    if not fresh:
        must_have_same_images(directory, pipeline.data)
    check_limits(pipeline)
    check_batch_norms(pipeline)
    return pipeline
