"""What the artifacts of a job take, found without opening them."""

from __future__ import annotations

from shared.database.object_repository import ObjectRepository
from shared.database.records import JobRecord
from shared.errors import NotFound
from shared.model_file import ModelDescription, TensorDescription


def artifact_inputs(objects: ObjectRepository, job: JobRecord) -> list[TensorDescription]:
    """What its model takes; where that is deleted, the sizes of the sample in its report, which must be there."""
    try:
        return ModelDescription.model_validate(objects.get(job.spec["model"]).description).inputs
    except NotFound:
        assert job.report is not None
        return [_of_sample(TensorDescription.model_validate(each)) for each in job.report["inputs"]]


def _of_sample(sample: TensorDescription) -> TensorDescription:
    """A sample has the smallest batch that the model takes: one more than 1 is most likely the only one."""
    batch = None if sample.shape[0] == 1 else sample.shape[0]
    return sample.model_copy(update={"shape": [batch, *sample.shape[1:]]})
