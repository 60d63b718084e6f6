# Made by scripts/unasync.py from octavo/_async: change it there.
"""`client.jobs`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Literal, Unpack

from octavo._plan import Plan
from octavo._spec import (
    NOT_GIVEN,
    ActivationSettings,
    AnalysisSettings,
    BenchmarkOptions,
    BenchmarkSettings,
    Hardware,
    NotGiven,
    Override,
    QatSettings,
    RecoverySettings,
    WeightSettings,
    build_candidate,
    build_revision,
    build_spec,
)
from octavo._sync.events import live_events, past_events
from octavo._sync.job import Job
from octavo._sync.transport import Transport
from octavo._types import Dataset, JobData, JobEvent, Model

_PLAN_SECONDS = 60.0  #: so long the server waits for a worker's answer


class Jobs:
    """The jobs on the server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def quantize(
        self,
        model: Model | str | None = None,
        method: Literal["dynamic", "static", "qat"] | None = None,
        *,
        based_on: Job | str | None = None,
        apply: Sequence[int] = (),
        calibration: Dataset | str | None = None,
        evaluation: Dataset | str | None = None,
        training: Dataset | str | None = None,
        precision: Literal["int8", "float16"] | NotGiven = NOT_GIVEN,
        metric: Literal["auto", "top1", "top5", "mse"] | NotGiven = NOT_GIVEN,
        max_accuracy_drop: float | Literal["auto"] | NotGiven | None = NOT_GIVEN,
        qengine: Literal["auto", "x86", "onednn", "fbgemm", "qnnpack"] | NotGiven = NOT_GIVEN,
        activation: ActivationSettings | NotGiven = NOT_GIVEN,
        weight: WeightSettings | NotGiven = NOT_GIVEN,
        overrides: Sequence[Override] | NotGiven = NOT_GIVEN,
        recovery: RecoverySettings | NotGiven = NOT_GIVEN,
        qat: QatSettings | NotGiven = NOT_GIVEN,
        runtimes: Sequence[Literal["torch", "onnxruntime", "openvino"]] | NotGiven = NOT_GIVEN,
        benchmark: BenchmarkSettings | NotGiven = NOT_GIVEN,
        analysis: AnalysisSettings | NotGiven = NOT_GIVEN,
        hardware: Hardware | NotGiven = NOT_GIVEN,
        measure_on: Sequence[Hardware] | NotGiven = NOT_GIVEN,
        seed: int | NotGiven = NOT_GIVEN,
        name: str | None = None,
        metadata: Mapping[str, str] | NotGiven = NOT_GIVEN,
    ) -> Job:
        """Submit a job; it is stored when this returns. What is not given, the server chooses as an expert would.

        Args:
            model: what `client.models.upload` returned, or its id.
            method: `dynamic` needs no data; `static` (the default) needs `calibration`; `qat` needs `training`.
            based_on: an earlier job, whose spec is taken; what else is given changes it, as in `job.retry_with`.
            apply: numbers of warnings in that job's report whose suggestions to apply.
            calibration: representative inputs; 100 to 300 samples are usual.
            evaluation: held-out data, with labels if accuracy is to be measured.
            training: what QAT trains on, with labels unless it is to learn from the float model.
            precision: of dynamic's weights; `float16` halves them at next to no loss.
            metric: `auto` is top1 for integer labels, mse for float ones.
            max_accuracy_drop: absolute: 0.01 is one percentage point of top-1; `auto` is that, and of mse 1 % of the
                variance of the labels; None sets no target.
            qengine: the kernel library that int8 is made for.
            activation: how activation ranges are found.
            weight: how weights are mapped.
            overrides: layers or operators to keep in float, such as `{"layer": "layer4.*"}`, or with settings of their
                own; the last that matches wins.
            recovery: means of accuracy recovery for static; without it those that help are kept.
            qat: epochs, learning rate, loss and schedule.
            runtimes: what to make artifacts for and to measure float models in: torch, always among them, and ONNX
                Runtime or OpenVINO; without it all that the worker has.
            benchmark: batch sizes and thread counts to measure latency at.
            analysis: what the report explains layer by layer, and how long that may take.
            hardware: what the worker must have, such as `{"isa": ["avx512_vnni"], "labels": {"pool": "edge"}}`; the job
                waits until there is one, and `job.waiting_for` says for what.
            measure_on: other hardware to measure the artifacts on once they are made, each in a benchmark of its own:
                `job.measurements` tells which.
            seed: of everything random.
            name: for people.
            metadata: yours; returned as it is.

        Raises:
            TypeError: neither a model nor an earlier job is given.
            UnprocessableError: the spec is not valid; `errors` says where.
            APIError: the server did not take it.
        """
        if model is None and based_on is None:
            raise TypeError("quantize() needs a model, or an earlier job as based_on=…")
        if apply and based_on is None:
            raise TypeError("apply=… takes suggestions of an earlier job's report: name the job as based_on=…")
        spec = build_spec(
            model=model,
            method=method or ("static" if based_on is None else None),
            calibration=calibration,
            evaluation=evaluation,
            training=training,
            precision=precision,
            metric=metric,
            max_accuracy_drop=max_accuracy_drop,
            qengine=qengine,
            activation=activation,
            weight=weight,
            overrides=overrides,
            recovery=recovery,
            qat=qat,
            runtimes=runtimes,
            benchmark=benchmark,
            analysis=analysis,
            hardware=hardware,
            measure_on=measure_on,
            seed=seed,
            name=name,
            metadata=metadata,
        )
        if based_on is None:
            return self.submit(spec)
        return self.submit(build_revision(based_on if isinstance(based_on, str) else based_on.id, apply, spec))

    def plan(
        self,
        model: Model | str,
        method: Literal["dynamic", "static", "qat"] = "static",
        *,
        calibration: Dataset | str | None = None,
        evaluation: Dataset | str | None = None,
        training: Dataset | str | None = None,
        precision: Literal["int8", "float16"] | NotGiven = NOT_GIVEN,
        qengine: Literal["auto", "x86", "onednn", "fbgemm", "qnnpack"] | NotGiven = NOT_GIVEN,
        activation: ActivationSettings | NotGiven = NOT_GIVEN,
        weight: WeightSettings | NotGiven = NOT_GIVEN,
        overrides: Sequence[Override] | NotGiven = NOT_GIVEN,
        qat: QatSettings | NotGiven = NOT_GIVEN,
        runtimes: Sequence[Literal["torch", "onnxruntime", "openvino"]] | NotGiven = NOT_GIVEN,
        benchmark: BenchmarkSettings | NotGiven = NOT_GIVEN,
        analysis: AnalysisSettings | NotGiven = NOT_GIVEN,
        hardware: Hardware | NotGiven = NOT_GIVEN,
    ) -> Plan:
        """Ask what `quantize` with these arguments would do; a worker answers in seconds, and no job is made.

        Which layers will be quantized and which not, and why; what share of the arithmetic that is in each runtime;
        whether the CPU has the instructions for it; how long the job will take. The data may be left out: it only tells
        how many samples there will be. The arguments are those of `quantize` that a plan depends on.

        Raises:
            UnprocessableError: the spec is not valid, or there is nothing to quantize.
            APIError: no worker answered in time, or none has the hardware.
        """
        spec = build_spec(
            model=model,
            method=method,
            calibration=calibration,
            evaluation=evaluation,
            training=training,
            precision=precision,
            qengine=qengine,
            activation=activation,
            weight=weight,
            overrides=overrides,
            qat=qat,
            runtimes=runtimes,
            benchmark=benchmark,
            analysis=analysis,
            hardware=hardware,
        )
        return self.plan_of(spec)

    def plan_of(self, spec: Mapping[str, object]) -> Plan:
        """The same of a spec as the HTTP API takes it, such as `job.spec` of an earlier job."""
        answer = self._transport.request("POST", "/v1/plan", json=dict(spec), extra_seconds=_PLAN_SECONDS)
        return Plan.model_validate(answer.json())

    def benchmark(
        self,
        candidates: Sequence[Job | Model | str | Mapping[str, str | None]],
        *,
        evaluation: Dataset | str | None = None,
        **options: Unpack[BenchmarkOptions],
    ) -> Job:
        """Submit a benchmark of models and artifacts, alone or against each other; what is measured is job.benchmark.

        `client.benchmark` takes files as well.

        Args:
            candidates: models or their ids; jobs, or `"job_…"`, for the artifact that is recommended, and
                `"job_…:model_int8.onnx"` for a certain one; or dicts, as the HTTP API takes them, with a `name`. The
                others' outputs are held against the first's.
            evaluation: what outputs are compared on; without it random inputs.
            options: metric, runtimes, benchmark, hardware, seed, name and metadata, as for `quantize`; but torch is
                measured in only if it is among the runtimes, or none are given.

        Raises:
            UnprocessableError: the candidates take different inputs, or the spec is not valid; `errors` says where.
            APIError: the server did not take it.
        """
        built = [build_candidate(each.id if isinstance(each, Job) else each) for each in candidates]
        return self.submit(build_spec(method="benchmark", candidates=built, evaluation=evaluation, **options))

    def submit(self, spec: Mapping[str, object]) -> Job:
        """Submit what the HTTP API takes: a spec, such as `job.spec` of an earlier job, or `based_on` and changes."""
        return self._handle(self._transport.json("POST", "/v1/jobs", json=dict(spec)))

    def get(self, job_id: str) -> Job:
        """A handle on a job, by its id."""
        return self._handle(self._transport.json("GET", f"/v1/jobs/{job_id}"))

    def list(self, *, status: str | None = None, limit: int | None = None) -> Iterator[Job]:
        """The jobs, newest first; pages are fetched as they are needed."""
        for entry in self._transport.pages("/v1/jobs", params={"status": status}, limit=limit):
            yield self._handle(entry)

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; raises ConflictError if it has ended already."""
        return self._handle(self._transport.json("POST", f"/v1/jobs/{job_id}/cancel"))

    def events(self, job_id: str, *, after: int = 0, follow: bool = False) -> Generator[JobEvent, None, None]:
        """What has happened since event number `after`; with `follow` also what will, up to the job's end."""
        return (live_events if follow else past_events)(self._transport, job_id, after)

    def _handle(self, data: object) -> Job:
        return Job(self._transport, JobData.model_validate(data))
