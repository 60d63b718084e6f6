"""What the artifacts of a job take, found without opening them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from shared.database.object_repository import ObjectRepository
from shared.database.records import JobRecord
from shared.errors import NoArtifact, NotFound
from shared.job_report import ExampleInput
from shared.model_file import ModelDescription, TensorDescription
from shared.onnx_file import MAX_INPUTS

_Inputs = Annotated[list[ExampleInput], Field(min_length=1, max_length=MAX_INPUTS)]
_inputs: TypeAdapter[list[ExampleInput]] = TypeAdapter(_Inputs)


def artifact_inputs(objects: ObjectRepository, job: JobRecord) -> list[TensorDescription]:
    """What its model takes; where that is deleted, the sizes of the sample in its report, which must be there.

    Raises NoArtifact where the report, perhaps one that an older version let pass, does not say what can be fed.
    """
    try:
        return ModelDescription.model_validate(objects.get(job.spec["model"]).description).inputs
    except NotFound:
        assert job.report is not None
        try:
            samples = _inputs.validate_python(job.report.get("inputs"))
        except ValidationError as error:
            raise NoArtifact(
                f"The model of {job.id} is deleted, and its report does not say what its artifacts take.",
                hint="Upload the model again and quantize it anew: the artifacts of that job can be measured.",
            ) from error
        return [_of_sample(each) for each in samples]


def _of_sample(sample: ExampleInput) -> TensorDescription:
    """A sample has the smallest batch that the model takes: one more than 1 is most likely the only one."""
    batch = None if sample.shape[0] == 1 else sample.shape[0]
    return TensorDescription(name=sample.name, shape=[batch, *sample.shape[1:]], dtype=sample.dtype)
