"""What can be known to be wrong with a job before it is accepted: ids, kinds, shapes, labels."""

from __future__ import annotations

from collections.abc import Sequence

from shared.benchmark_spec import BenchmarkSpec
from shared.database.object_repository import ObjectRepository
from shared.dataset_file import LABELS, DatasetDescription, check_fits
from shared.errors import (
    DataRequired,
    DatasetMismatch,
    FieldError,
    LabelsUnusable,
    ModelIsOnnx,
    NotFound,
    OctavoError,
)
from shared.job_spec import Spec, dataset_roles, models_of
from shared.model_file import ModelDescription, TensorDescription
from shared.quantization_spec import QatSpec

_CLASS_LABELS = frozenset({"top1", "top5", "cross_entropy"})
_INTEGERS = ("int", "uint")


def check_spec(objects: ObjectRepository, spec: Spec, inputs: Sequence[TensorDescription] | None = None) -> None:
    """Raise NotFound, ModelIsOnnx, DatasetMismatch, DataRequired or LabelsUnusable, with a pointer into the spec.

    `inputs` are what the data must fit; those of the model where it is quantized.
    """
    models = [described_model(objects, model_id, field, keep=True) for field, model_id in models_of(spec).items()]
    if not isinstance(spec, BenchmarkSpec):
        inputs = _quantizable(models[0]).inputs
    datasets: dict[str, DatasetDescription] = {}
    for role, dataset_id in dataset_roles(spec).items():
        datasets[role] = DatasetDescription.model_validate(_description(objects, dataset_id, role, keep=True))
        try:
            check_fits(inputs or (), datasets[role], role=role)
        except DatasetMismatch as error:
            raise at(role, error) from error
    _check_metric(spec, datasets)
    if isinstance(spec, QatSpec) and "training" in datasets and spec.qat.loss in {"cross_entropy", "mse"}:
        hint = "Add `labels` that fit to the training data, or set qat.loss to distillation, which needs none."
        _check_labels("training", datasets["training"], spec.qat.loss, hint)


def described_model(objects: ObjectRepository, model_id: str, field: str, *, keep: bool = False) -> ModelDescription:
    """What the file of a model says of itself; NotFound, with a pointer to the field that names it."""
    return ModelDescription.model_validate(_description(objects, model_id, field, keep=keep))


def _quantizable(model: ModelDescription) -> ModelDescription:
    if model.format == "onnx":
        raise at("model", ModelIsOnnx())
    return model


def _description(objects: ObjectRepository, object_id: str, field: str, *, keep: bool) -> dict[str, object]:
    try:
        return objects.get(object_id, keep=keep).description
    except NotFound as error:
        kind = "model" if field.endswith("model") else "dataset"
        message = f"No {kind} has the id {object_id!r}, which the spec names as `{field}`."
        raise at(
            field, NotFound(message, hint=f"`octavo {kind}s list`, or GET /v1/{kind}s, lists what is here.")
        ) from error


def _check_metric(spec: Spec, datasets: dict[str, DatasetDescription]) -> None:
    if spec.metric == "auto":
        return
    # The order in which the worker looks for data to evaluate on.
    role = next((role for role in ("evaluation", "calibration", "training") if role in datasets), None)
    hint = "Give labelled held-out samples as `evaluation`, or leave the metric out: fidelity needs no labels."
    if role is None:
        error = DataRequired(f"The metric {spec.metric} needs a labelled dataset, and the spec names none.", hint=hint)
        raise at("evaluation", error)
    _check_labels(role, datasets[role], spec.metric, hint)


def _check_labels(role: str, dataset: DatasetDescription, purpose: str, hint: str) -> None:
    if not dataset.labels:
        raise at(role, LabelsUnusable(f"{purpose} needs labels, and the {role} dataset has none.", hint=hint))
    labels = dataset.arrays[LABELS]
    if purpose in _CLASS_LABELS and (len(labels.shape) != 1 or not labels.dtype.startswith(_INTEGERS)):
        raise at(
            role,
            LabelsUnusable(
                f"{purpose} needs one integer label a sample; the {role} dataset's labels are {labels.dtype} of shape "
                f"{labels.shape}.",
                hint="Give class indices: one-hot labels become indices by labels.argmax(axis=1).",
            ),
        )


def at(field: str, error: OctavoError) -> OctavoError:
    """The error with a pointer to the field that is wrong."""
    error.errors = [FieldError(pointer=f"/{field}", code=error.code, detail=error.message)]
    return error
