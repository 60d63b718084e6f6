"""/v1/models and /v1/datasets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api import examples
from api.idempotency import IdempotencyKeyHeader, Once
from api.objects.schemas import PREFIXES, Dataset, Model
from api.objects.service import ObjectService
from api.openapi import answer, file_body, problems
from api.services import Services, ServicesDependency
from api.wire import After, Filename, Limit, Name, Page, cursor_of, id_behind
from shared import errors
from shared.database.records import ObjectKind

router = APIRouter(prefix="/v1")

ModelIdPath = Annotated[str, Path(max_length=60, description="`mdl_…`", examples=[examples.MODEL["id"]])]
DatasetIdPath = Annotated[str, Path(max_length=60, description="`dst_…`", examples=[examples.DATASET["id"]])]
NameQuery = Annotated[Name | None, Query(description="What people call it; the file's name when left out.")]
FilenameQuery = Annotated[Filename | None, Query(description="The file's name, for those who read the list.")]

_UPLOAD_ERRORS = (
    errors.RequestInvalid,
    errors.ChecksumMismatch,
    errors.UploadTooLarge,
    errors.UnsupportedMediaType,
    errors.IdempotencyKeyReused,
    errors.DiskFull,
)


@router.post(
    "/models",
    operation_id="createModel",
    tags=["models"],
    summary="Upload a model in one request",
    openapi_extra=file_body("The `.pt2` that `torch.export.save` wrote, or an `.onnx`, as it is."),
    responses={
        **answer(201, Model, "Stored.", "model"),
        **answer(200, Model, "This content was already here.", "model"),
        **problems(
            *_UPLOAD_ERRORS,
            errors.ModelIsPickle,
            errors.ModelIsStateDict,
            errors.ModelCorrupt,
            errors.ModelWeightsApart,
        ),
    },
)
async def create_model(
    request: Request,
    services: ServicesDependency,
    name: NameQuery = None,
    filename: FilenameQuery = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """The body is the file: `curl -T resnet18.pt2 -X POST "$OCTAVO_URL/v1/models?name=resnet18" -H "$AUTH"`.

    `Content-Digest: sha-256=:<base64>:` is checked when it is sent. Content is stored once: the same file again
    answers 200 with the model that is already here, whatever it was called.
    """
    return await _create(request, services, "model", name=name, filename=filename, key=idempotency_key)


@router.post(
    "/datasets",
    operation_id="createDataset",
    tags=["datasets"],
    summary="Upload a dataset in one request",
    openapi_extra=file_body("A `.safetensors` or `.npz` file, as it is."),
    responses={
        **answer(201, Dataset, "Stored.", "dataset"),
        **answer(200, Dataset, "This content was already here.", "dataset"),
        **problems(*_UPLOAD_ERRORS, errors.DatasetHasObjects, errors.DatasetEmpty, errors.DatasetCorrupt),
    },
)
async def create_dataset(
    request: Request,
    services: ServicesDependency,
    name: NameQuery = None,
    filename: FilenameQuery = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Named arrays whose first axis is the sample, keyed by the model's input names; optionally `labels`.

    Otherwise as for models.
    """
    return await _create(request, services, "dataset", name=name, filename=filename, key=idempotency_key)


@router.get(
    "/models",
    operation_id="listModels",
    tags=["models"],
    summary="List models, newest first",
    responses={
        **answer(200, Page[Model], "A page of models.", "models"),
        **problems(errors.RequestInvalid),
    },
)
def list_models(services: ServicesDependency, limit: Limit = 20, after: After = None) -> Page[Model]:
    """Newest first."""
    return Page[Model].model_validate(_list(services, "model", limit, after))


@router.get(
    "/datasets",
    operation_id="listDatasets",
    tags=["datasets"],
    summary="List datasets, newest first",
    responses={
        **answer(200, Page[Dataset], "A page of datasets.", "datasets"),
        **problems(errors.RequestInvalid),
    },
)
def list_datasets(services: ServicesDependency, limit: Limit = 20, after: After = None) -> Page[Dataset]:
    """Newest first."""
    return Page[Dataset].model_validate(_list(services, "dataset", limit, after))


@router.get(
    "/models/{model_id}",
    operation_id="getModel",
    tags=["models"],
    summary="Show a model",
    response_model=Model,
    responses={**answer(200, Model, "The model.", "model"), **problems(errors.NotFound)},
)
def get_model(services: ServicesDependency, model_id: ModelIdPath) -> Model | Dataset:
    """What the model takes and gives, as far as its file says."""
    return ObjectService(services).get("model", model_id)


@router.get(
    "/datasets/{dataset_id}",
    operation_id="getDataset",
    tags=["datasets"],
    summary="Show a dataset",
    response_model=Dataset,
    responses={**answer(200, Dataset, "The dataset.", "dataset"), **problems(errors.NotFound)},
)
def get_dataset(services: ServicesDependency, dataset_id: DatasetIdPath) -> Model | Dataset:
    """Its arrays, as far as the file's headers say."""
    return ObjectService(services).get("dataset", dataset_id)


@router.delete(
    "/models/{model_id}",
    operation_id="deleteModel",
    tags=["models"],
    summary="Delete a model",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Gone."}, **problems(errors.NotFound, errors.ObjectInUse)},
)
def delete_model(services: ServicesDependency, model_id: ModelIdPath) -> None:
    """Finished jobs keep their results; a model that an unfinished job needs cannot be deleted."""
    ObjectService(services).delete("model", model_id)


@router.delete(
    "/datasets/{dataset_id}",
    operation_id="deleteDataset",
    tags=["datasets"],
    summary="Delete a dataset",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Gone."}, **problems(errors.NotFound, errors.ObjectInUse)},
)
def delete_dataset(services: ServicesDependency, dataset_id: DatasetIdPath) -> None:
    """Finished jobs keep their results; a dataset that an unfinished job needs cannot be deleted."""
    ObjectService(services).delete("dataset", dataset_id)


async def _create(
    request: Request, services: Services, kind: ObjectKind, *, name: str | None, filename: str | None, key: str | None
) -> Response:
    async with services.staging.body(request, max_bytes=services.settings.uploads.max_bytes) as staged:
        once = Once.of(request, key, staged.sha256)
        service = ObjectService(services)
        found = await run_in_threadpool(service.add, kind, staged, name=name, filename=filename, once=once)
    return found.response()


def _list(services: Services, kind: ObjectKind, limit: int, after: str | None) -> dict[str, object]:
    data, has_more = ObjectService(services).page(kind, limit=limit, after=id_behind(after, PREFIXES[kind]))
    return {"data": data, "has_more": has_more, "next": cursor_of(data[-1].id) if has_more else None}
