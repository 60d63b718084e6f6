"""Every fault has an owner: the one error tree of Octavo.

    OctavoError
    ├── UserError                 what was sent cannot be served: explained, never retried
    │   ├── RequestError          the HTTP request itself
    │   │   ├── AuthenticationRequired, ApiKeyInvalid
    │   │   ├── NotFound, MethodNotAllowed
    │   │   ├── RequestInvalid, MalformedJson, BodyTooLarge, UnsupportedMediaType, RangeNotSatisfiable
    │   │   ├── SpecInvalid, DataRequired, WrongKind, NoSuggestion, SuggestionRefused
    │   │   └── Conflict: IdempotencyKeyReused, JobAlreadyFinished, NoReport, ObjectInUse
    │   ├── UploadError           the transfer: UploadTooLarge, SizeMismatch, ChecksumMismatch, PartConflict …
    │   ├── ModelError            the file: ModelIsPickle, ModelIsStateDict, ModelCorrupt, ModelUnsafe …
    │   ├── DatasetError          the data: DatasetCorrupt, DatasetMismatch, DatasetEmpty, DatasetNotFinite …
    │   └── RunError              the run: NothingToQuantize, RaiseMismatch, ModelFailed, limits exceeded
    └── ServiceError              the service failed: retried with backoff, then an honest failure

Each class docstring is its default message; `code` is stable and documented, `hint` says what to do next.
HTTP status codes live in one table in `api/error_responses.py`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field


class FieldError(BaseModel):
    """One wrong place in what was sent."""

    pointer: str = Field(description="JSON pointer to the wrong place, such as `/qat/epochs`.")
    code: str
    detail: str


class JobError(BaseModel):
    """Why a job failed, as stored with the job and shown to the user."""

    code: str = Field(description="Stable machine word, such as `dataset_not_finite`.")
    message: str = Field(description="What was wrong and where, in one or two sentences.")
    hint: str | None = Field(default=None, description="What to do next.")
    owner: str = Field(description="`user`: what was sent cannot be served; `service`: the service failed.")
    step: str | None = Field(default=None, description="The step that was running.")


class OctavoError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str | None] = None

    def __init__(
        self, message: str | None = None, *, hint: str | None = None, errors: list[FieldError] | None = None
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.hint = hint or self.default_hint
        self.errors = errors or []
        super().__init__(self.message)

    def to_job_error(self, step: str | None = None) -> JobError:
        """The error as it is stored with a job."""
        owner = "user" if isinstance(self, UserError) else "service"
        return JobError(code=self.code, message=self.message, hint=self.hint, owner=owner, step=step)


class UserError(OctavoError):
    """What was sent cannot be served."""

    code = "user_error"


class ServiceError(OctavoError):
    """The service failed; this is not your fault."""

    code = "service_error"
    default_hint = "Try again; if it persists, show the operator the request id."


# --- the request -----------------------------------------------------------------------------------------------------


class RequestError(UserError):
    """The request cannot be served."""

    code = "bad_request"


class AuthenticationRequired(RequestError):
    """No API key was sent."""

    code = "authentication_required"
    default_hint = "Send `Authorization: Bearer <key>`; the embedded server keeps its key in <data-dir>/api-key."


class ApiKeyInvalid(RequestError):
    """This API key is not known here."""

    code = "api_key_invalid"
    default_hint = "Check OCTAVO_API_KEY; the embedded server keeps its key in <data-dir>/api-key."


class NotFound(RequestError):
    """Nothing is stored under this id or path."""

    code = "not_found"


class MethodNotAllowed(RequestError):
    """This path does not take this HTTP method."""

    code = "method_not_allowed"


class RequestInvalid(RequestError):
    """A field, parameter or header of the request is not valid."""

    code = "request_invalid"


class MalformedJson(RequestError):
    """The request body is not JSON."""

    code = "malformed_json"


class BodyTooLarge(RequestError):
    """The request body is larger than this path takes."""

    code = "body_too_large"


class UnsupportedMediaType(RequestError):
    """The request body has a type that this path does not take."""

    code = "unsupported_media_type"


class RangeNotSatisfiable(RequestError):
    """The file has no bytes in this range."""

    code = "range_not_satisfiable"


class SpecInvalid(RequestError):
    """The spec is not valid."""

    code = "spec_invalid"


class DataRequired(RequestError):
    """This method needs a dataset that the spec does not name."""

    code = "data_required"


class WrongKind(RequestError):
    """This id names an object of another kind."""

    code = "wrong_kind"


class NoSuggestion(RequestError):
    """The report has no such warning, or the warning suggests no change of the spec."""

    code = "no_suggestion"
    default_hint = "`apply` takes the numbers of warnings, from 0, in `report.warnings` that carry a `suggestion`."


class SuggestionRefused(RequestError):
    """The suggestion would change more than how the model is quantized, which no report may."""

    code = "suggestion_refused"
    default_hint = "Give what you want of it as `changes`."


class NoArtifact(RequestError):
    """The job has no such artifact."""

    code = "no_artifact"


class CandidatesMismatch(RequestError):
    """The candidates do not take the same inputs, so that they cannot be measured against each other."""

    code = "candidates_mismatch"
    default_hint = "Inputs are matched by name, or else by position; their axes, fixed sizes and kinds must agree."


class Conflict(RequestError):
    """The request does not fit the present state."""

    code = "conflict"


class IdempotencyKeyReused(Conflict):
    """This Idempotency-Key was already used with another request."""

    code = "idempotency_key_reused"
    default_hint = "Use a new key for a new request; the same key repeats the first answer only for the same body."


class JobAlreadyFinished(Conflict):
    """The job has finished and cannot be cancelled."""

    code = "job_already_finished"


class NoReport(Conflict):
    """The job has no report whose suggestions could be applied."""

    code = "no_report"
    default_hint = "Wait until it has succeeded, or leave `apply` out and say in `changes` what shall differ."


class JobNotSucceeded(Conflict):
    """The job has not succeeded, so that it has no artifacts."""

    code = "job_not_succeeded"
    default_hint = "Wait until it has, or name another."


class ObjectInUse(Conflict):
    """An unfinished job still needs this object."""

    code = "object_in_use"
    default_hint = "Wait for the job, or cancel it, then delete again."


# --- uploads ---------------------------------------------------------------------------------------------------------


class UploadError(UserError):
    """The upload cannot be accepted."""

    code = "upload_rejected"


class UploadTooLarge(UploadError):
    """The upload is larger than this server accepts."""

    code = "upload_too_large"


class SizeMismatch(UploadError):
    """The bytes received are not as many as were announced."""

    code = "size_mismatch"


class ChecksumMismatch(UploadError):
    """The bytes received do not have the checksum that was announced."""

    code = "checksum_mismatch"
    default_hint = "The bytes changed on the way or the file changed while it was read: hash it again and resend."


class PartConflict(UploadError):
    """This part was already sent with other bytes."""

    code = "part_conflict"
    default_hint = "GET the upload to see which parts have arrived; start a new upload if the file changed."


class PartsMissing(UploadError):
    """Not every part of the upload has arrived."""

    code = "parts_missing"
    default_hint = "GET the upload to see which parts have arrived, send the rest, then complete it."


class UploadClosed(UploadError):
    """The upload is complete or has expired and takes no more parts."""

    code = "upload_closed"


# --- models ----------------------------------------------------------------------------------------------------------

EXPORT_LINES = """\
    import torch
    model.eval()
    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (example_input,), dynamic_shapes=({0: batch},))
    torch.export.save(program, "model.pt2")"""

_EXPORT_HINT = (
    f"Export the module and upload the .pt2 (the SDK's models.upload(module, inputs) does it):\n{EXPORT_LINES}"
)


class ModelError(UserError):
    """The file is not a model that Octavo can read."""

    code = "model_unreadable"
    default_hint: ClassVar[str | None] = _EXPORT_HINT


class ModelIsPickle(ModelError):
    """This is a pickled module, not an exported program; unpickling would run code from the file."""

    code = "model_is_pickle"


class ModelIsStateDict(ModelError):
    """This is a state_dict: weights without the network that uses them."""

    code = "model_is_state_dict"
    default_hint = f"Load it into your module first (model.load_state_dict(...)), then export that:\n{EXPORT_LINES}"


class ModelIsTorchScript(ModelError):
    """This is a TorchScript archive, not an exported program."""

    code = "model_is_torchscript"


class ModelIsOnnx(ModelError):
    """This is an ONNX file, which can be measured but not quantized."""

    code = "model_is_onnx"
    default_hint = (
        "`method: benchmark` measures the file as it is. To quantize the network, export the PyTorch module itself and "
        f"upload the .pt2:\n{EXPORT_LINES}"
    )


class ModelWeightsApart(ModelError):
    """The ONNX file keeps its weights in another file, which is not here."""

    code = "model_weights_apart"
    default_hint = (
        "Save it in one file: onnx.save(onnx.load(path), whole), or torch.onnx.export(…, external_data=False)."
    )


class ModelCorrupt(ModelError):
    """The .pt2 is truncated or corrupt."""

    code = "model_corrupt"
    default_hint = "Export and save it again; compare its SHA-256 with the file that loads on your machine."


class ModelUnsafe(ModelError):
    """The .pt2 carries pickled code, which Octavo never runs."""

    code = "model_unsafe"


class ModelUnsupported(ModelError):
    """The exported program uses something Octavo cannot run."""

    code = "model_unsupported"
    default_hint: ClassVar[str | None] = None


# --- datasets --------------------------------------------------------------------------------------------------------

_DATASET_HINT = (
    "Save named arrays whose first axis is the sample, keyed by the model's input names: "
    'numpy.savez("data.npz", x=images, labels=labels) or safetensors.numpy.save_file({...}, "data.safetensors").'
)


class DatasetError(UserError):
    """The file is not a dataset that Octavo can read."""

    code = "dataset_unreadable"
    default_hint = _DATASET_HINT


class DatasetCorrupt(DatasetError):
    """The dataset file is truncated or corrupt."""

    code = "dataset_corrupt"
    default_hint = "Save it again; compare its SHA-256 with the file that loads on your machine."


class DatasetHasObjects(DatasetError):
    """The dataset holds an object array, which only unpickling could read."""

    code = "dataset_object_array"
    default_hint = "Convert it to a numeric array first: ragged samples must be padded to one shape."


class DatasetEmpty(DatasetError):
    """The dataset has no samples."""

    code = "dataset_empty"


class DatasetInconsistent(DatasetError):
    """The dataset's arrays do not have the same number of samples."""

    code = "dataset_inconsistent"


class LabelsMismatch(DatasetError):
    """There are not as many labels as samples."""

    code = "labels_mismatch"
    default_hint = "Give one label a sample, in the same order."


class DatasetMismatch(DatasetError):
    """The dataset's keys, shapes or dtypes do not fit the model's inputs."""

    code = "dataset_mismatch"


class DatasetNotFinite(DatasetError):
    """The dataset holds NaN or infinite values."""

    code = "dataset_not_finite"
    default_hint = (
        "Find them with numpy.isfinite(array).all(axis=tuple(range(1, array.ndim))) and drop or mend the samples."
    )


class TrainingTooSmall(DatasetError):
    """The training data has fewer samples than a batch of the model."""

    code = "training_too_small"
    default_hint = "Give more samples, or export the model with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)."


class LabelsUnusable(DatasetError):
    """The labels do not fit the metric or the loss."""

    code = "labels_unusable"
    default_hint = (
        "The array `labels` holds a class index a sample for top1, top5 and cross_entropy, and for mse as many numbers "
        "as the model gives."
    )


# --- the run ---------------------------------------------------------------------------------------------------------


class RunError(UserError):
    """The job cannot be done as asked."""

    code = "run_failed"


class NothingToQuantize(RunError):
    """The model has no operator that this method quantizes."""

    code = "nothing_to_quantize"


class KernelsSaturate(RunError):
    """The int8 kernels of this CPU do not compute what they should, mostly because their sums saturate."""

    code = "kernels_saturate"
    default_hint: ClassVar[str | None] = "Set activation.reduce_range to true, or leave qengine at auto."


class RuntimeNotInstalled(RunError):
    """An artifact is wanted for a runtime that the worker does not have."""

    code = "runtime_not_installed"
    default_hint: ClassVar[str | None] = (
        "Leave it out of `runtimes`, or ask the operator to install octavo-server[onnxruntime] or [openvino]."
    )


class RaiseMismatch(RunError):
    """The model rebuilt as modules does not give the original's output, so it is not quantized."""

    code = "raise_mismatch"
    default_hint = (
        "In-place operations on views are the usual cause: replace x.add_(y) and x[...] = y by new tensors, "
        "then export again."
    )


class ModelFailed(RunError):
    """The model raised an error on this data."""

    code = "model_failed"


class JobTimedOut(RunError):
    """The job ran longer than its time limit."""

    code = "job_timed_out"
    default_hint = "Use fewer samples or epochs, or ask the operator to raise OCTAVO_WORKER__WALL_LIMIT_SECONDS."


class JobOutOfMemory(RunError):
    """The job needed more memory than its limit."""

    code = "job_out_of_memory"
    default_hint = (
        "Use a smaller batch or a smaller model, or ask the operator to raise OCTAVO_WORKER__MEMORY_LIMIT_BYTES."
    )


class OutputTooLarge(RunError):
    """The job wrote more than its limit."""

    code = "output_too_large"


# --- the service -----------------------------------------------------------------------------------------------------


class StorageUnavailable(ServiceError):
    """The object store does not answer."""

    code = "storage_unavailable"


class ObjectMissing(ServiceError):
    """An object that the database names is not in the object store."""

    code = "object_missing"


class ObjectCorrupt(ServiceError):
    """An object in the store no longer has the checksum it was stored with."""

    code = "object_corrupt"


class DatabaseUnavailable(ServiceError):
    """The database does not answer."""

    code = "database_unavailable"


class DiskFull(ServiceError):
    """The disk is full."""

    code = "disk_full"
    default_hint = "The operator must free space; nothing of yours was lost."


class PlanUnavailable(ServiceError):
    """No worker has answered in time."""

    code = "plan_unavailable"
    default_hint = "Ask again; or submit the job: its report says the same, and more."


class WorkerLost(ServiceError):
    """The worker that ran the job went away."""

    code = "worker_lost"


class WorkerCrashed(ServiceError):
    """The process that ran the job was killed twice, by a signal or by lack of memory."""

    code = "worker_crashed"


class SandboxUnavailable(ServiceError):
    """This node cannot lock a job down as far as the operator requires."""

    code = "sandbox_unavailable"


class InternalError(ServiceError):
    """An error nobody foresaw."""

    code = "internal_error"


class StaleFence(ServiceError):
    """Another attempt at the job has begun; this one's writes are refused."""

    code = "stale_fence"


# --- the tree as a whole ---------------------------------------------------------------------------------------------


def class_of(code: str) -> type[OctavoError] | None:
    """The class with this code; None when there is none."""
    waiting: list[type[OctavoError]] = [OctavoError]
    while waiting:
        kind = waiting.pop()
        if kind.code == code:
            return kind
        waiting += kind.__subclasses__()
    return None


def owner_of(code: str) -> str | None:
    """`user` or `service`, as the class with this code says; None when there is none."""
    kind = class_of(code)
    return None if kind is None else "user" if issubclass(kind, UserError) else "service"
