"""What becomes of candidates that are only measured, stage by stage: read, exported, verified, measured, reported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import torch
from torch import Tensor

from shared.benchmark_report import BenchmarkReport, CandidateResult, ComparisonResult, FormResult
from shared.benchmark_spec import BenchmarkSpec
from shared.errors import ModelFailed, ModelUnsupported, RaiseMismatch
from shared.job import Step
from shared.job_report import DataSource
from shared.quantization_spec import RUNTIMES, Runtime
from worker.candidate_names import RUNTIME_NAMES
from worker.comparison import compare_latency
from worker.conclusion import conclude
from worker.datasets import Samples
from worker.environment import describe_environment
from worker.handover import hand_over, take_over
from worker.inference import (
    TRACED_SAMPLES,
    BatchRange,
    Reference,
    batch_of,
    batch_range,
    run_model,
    sample_bytes,
    usual_batch_size,
)
from worker.job_folder import JobFolder, JobInputs
from worker.latency import Candidate as Bound
from worker.progress import Course, ProgressTracker, Report
from worker.quantization import collect_garbage, freeze, load_program, raise_program, verify_raised
from worker.runtimes import called
from worker.steps.benchmark import measure_combinations
from worker.steps.candidates import (
    Candidate,
    Form,
    Opener,
    by_candidate,
    forms_of,
    joined_specs,
    open_candidates,
    require_sizes,
)
from worker.steps.contenders import has_images, room_for
from worker.steps.evaluate import Yardstick, choose_yardstick
from worker.steps.export import export_float, problem_of, wanted_runtimes
from worker.steps.load import JobData, LoadedModel, open_datasets
from worker.steps.package import write_report
from worker.steps.slow_models import Kind
from worker.steps.verify_forms import FormVerifier, OpenedForm, open_form
from worker.synthetic import SYNTHETIC_SAMPLES, index_limits, random_samples

_MAX_PROBLEM = 500
BENCHMARK_WEIGHTS = {Step.LOAD: 3.0, Step.EXPORT: 4.0, Step.VERIFY: 6.0, Step.BENCHMARK: 8.0}
"""What each step is expected to take, as a share of the whole."""


@dataclass
class FormsHandover:
    """All that is known of a benchmark between two stages."""

    course: Course
    candidates: list[Candidate]
    samples: Samples
    source: DataSource
    batch: BatchRange
    batch_size: int
    forms: list[Form]
    yardstick: Yardstick | None = None
    reference: str = ""
    """The form that the others are held against."""
    results: dict[str, FormResult] = field(default_factory=dict)


def make_forms(folder: JobFolder, report: Report) -> None:
    """The first stage of a benchmark: read the candidates and the data, and freeze what torch is to run frozen."""
    inputs = folder.read_inputs()
    spec = _asked(inputs)
    runtimes = wanted_runtimes(spec.runtimes)
    torch.set_num_threads(inputs.threads)  # only now: a thread from before the lockdown would be outside of it
    tracker = ProgressTracker(report, BENCHMARK_WEIGHTS)
    with tracker.step(Step.LOAD, "Reading the candidates") as advance:
        candidates = open_candidates(folder, inputs.candidates)
        specs = joined_specs(candidates)
        batch = batch_range(specs)
        datasets = open_datasets(folder, inputs, specs, tracker, lambda *_: None)
        if "evaluation" in datasets:
            samples: Samples = datasets["evaluation"]
        else:
            require_sizes(specs)
            samples = random_samples(specs, _limits(candidates), SYNTHETIC_SAMPLES, spec.seed)
        source: DataSource = "evaluation" if datasets else "synthetic"
        _warn_about(samples, source, batch, tracker)
        example = batch_of(samples, batch.clamp(TRACED_SAMPLES))
        forms: list[Form] = []
        for position, candidate in enumerate(candidates):
            advance(position, len(candidates), f"Reading {candidate.file.name}")
            forms += _made(position, candidate, candidate.fed(example), runtimes, folder) or _not_here(
                position, candidate, folder, asked=spec.runtimes
            )
    _require_forms(candidates, forms)
    size = usual_batch_size(batch, sample_bytes(samples.read(0, 1).inputs))
    hand_over(folder, FormsHandover(tracker.course, candidates, samples, source, batch, size, forms))


def export_forms(folder: JobFolder, report: Report) -> None:
    """Export every .pt2 to ONNX where a runtime is wanted that reads that, and hand over to the stage that verifies."""
    _, handover, tracker = _taken_up(folder, report)
    exported = [
        form
        for form in handover.forms
        if form.problem is None and form.path.suffix == ".onnx" and form.path.parent == folder.tmp
    ]
    problems: dict[int, str | None] = {}
    with tracker.step(Step.EXPORT, "Exporting to ONNX") as advance:
        positions = sorted({form.candidate for form in exported})
        for position in positions:
            advance(len(problems), len(positions), f"Exporting {handover.candidates[position].file.name}")
            form = next(each for each in exported if each.candidate == position)
            problems[position] = problem_of(_export_of(form, handover))
            collect_garbage()
    forms = [replace(form, problem=problems[form.candidate]) if form in exported else form for form in handover.forms]
    hand_over(folder, replace(handover, course=tracker.course, forms=forms))


def verify_forms(folder: JobFolder, report: Report) -> None:
    """Open every form in its runtime and hold it against the first candidate's, and hand over to what measures."""
    inputs, handover, tracker = _taken_up(folder, report)
    spec, opener = _asked(inputs), Opener(handover.candidates)
    with tracker.step(Step.VERIFY, "Opening the candidates in their runtimes") as advance:
        opened, reference = _reference(handover, opener, inputs.threads)
        reference_form = opened.form
        data = JobData(handover.samples, handover.source, None, None)
        yardstick = choose_yardstick(reference, data, tracker, metric=spec.metric)
        verifier = FormVerifier(opener, reference, opened, yardstick, threads=inputs.threads)
        results: dict[str, FormResult] = {}
        groups = by_candidate(handover.forms)
        for done, (position, forms) in enumerate(groups.items()):
            candidate = handover.candidates[position]

            def inside(part: float, whole: float, done: int = done, name: str = candidate.file.name) -> None:
                advance(done + part / whole, len(groups), f"Comparing {name}")

            results |= verifier.verify(candidate, forms, inside)
            if position != reference_form.candidate:
                opener.forget(position)
            collect_garbage()
    if "missing" in results[reference_form.name].labels:
        raise ModelFailed(f"{reference_form.name}, which all are held against: {results[reference_form.name].note}")
    hand_over(
        folder,
        replace(handover, course=tracker.course, yardstick=yardstick, reference=reference_form.name, results=results),
    )


def measure_forms(folder: JobFolder, report: Report) -> None:
    """Measure all forms that run against each other, and write the report."""
    inputs, handover, tracker = _taken_up(folder, report)
    spec, results = _asked(inputs), handover.results
    opener = Opener(handover.candidates)
    running = [form for form in handover.forms if "missing" not in results[form.name].labels]
    measured = _with_room(running, opener, tracker)
    own = [form.name for form in measured if form.candidate == 0]
    right = [form.name for form in measured if "wrong" not in results[form.name].labels]
    reference = Reference(_never_run, (), handover.batch, handover.batch_size)

    def against_each_other(
        candidates: Mapping[str, Bound],
        *,
        batch_size: int,
        threads: int,
        max_seconds: float,
        advance: Callable[[float], None],
    ) -> ComparisonResult:
        return compare_latency(
            candidates,
            own=own,
            right=right,
            batch_size=batch_size,
            threads=threads,
            max_seconds=max_seconds,
            seed=spec.seed,
            advance=advance,
        )

    with tracker.step(Step.BENCHMARK, "Measuring latency") as advance:
        latency = measure_combinations(
            reference,
            {form.name: opener.contender(form) for form in measured},
            handover.samples,
            spec.benchmark,
            against_each_other,
            kinds=[_kind(forms, right) for forms in by_candidate(measured).values()],
            ends_at_seconds=inputs.measuring_ends_at(tracker.elapsed_seconds),
            tracker=tracker,
            advance=advance,
        )
    candidates = [
        CandidateResult(
            name=candidate.file.name,
            source=candidate.file.source,
            size_bytes=candidate.path.stat().st_size,
            forms=[results[form.name] for form in handover.forms if form.candidate == position],
        )
        for position, candidate in enumerate(handover.candidates)
    ]
    assert handover.yardstick is not None
    write_report(
        folder,
        BenchmarkReport(
            method="benchmark",
            conclusion=conclude(latency[0], results, handover.reference),
            fastest=latency[0].fastest,
            reference=handover.reference,
            data=handover.source,
            samples=handover.samples.count,
            candidates=candidates,
            latency=latency,
            warnings=tracker.warnings,
            spec=spec.model_dump(mode="json")
            | {"metric": handover.yardstick.metric, "runtimes": wanted_runtimes(spec.runtimes)},
            environment=describe_environment(_qengine(handover), inputs.sandbox_level, threads=inputs.threads),
            timings=tracker.timings,
        ),
    )


def _asked(inputs: JobInputs) -> BenchmarkSpec:
    assert isinstance(inputs.spec, BenchmarkSpec)
    return inputs.spec


def _taken_up(folder: JobFolder, report: Report) -> tuple[JobInputs, FormsHandover, ProgressTracker]:
    """What is asked, what the stage before left, and progress from there."""
    inputs, handover = folder.read_inputs(), take_over(folder, FormsHandover)
    torch.set_num_threads(inputs.threads)
    return inputs, handover, ProgressTracker(report, BENCHMARK_WEIGHTS, handover.course)


def _limits(candidates: Sequence[Candidate]) -> list[int | None]:
    """Below what the integers of each input of the first candidate must lie, as far as a .pt2 tells."""
    limits: list[int | None] = [None] * len(candidates[0].specs)
    for candidate in candidates:
        if candidate.file.format == "pt2":
            found = index_limits(raise_program(load_program(candidate.path)))
            for place, limit in zip(candidate.order, found, strict=True):
                limits[place] = min(filter(None, (limit, limits[place])), default=None)
    return limits


def _made(
    position: int, candidate: Candidate, example: tuple[Tensor, ...], runtimes: Sequence[Runtime], folder: JobFolder
) -> list[Form]:
    """The candidate's forms; the program of a .pt2 is checked, and frozen."""
    if candidate.file.format != "pt2":
        return forms_of(position, candidate, runtimes, folder.tmp, with_images=False)
    program = load_program(candidate.path)
    raised = raise_program(program)
    forms = forms_of(position, candidate, runtimes, folder.tmp, with_images=has_images(raised))
    try:
        verify_raised(program, raised, example)
    except (ModelFailed, RaiseMismatch) as error:  # the other candidates are measured
        return [replace(form, problem=error.message) for form in forms]
    for at, form in enumerate(forms):
        if form.kind == "frozen":
            try:
                torch.jit.save(freeze(raised, example), form.path)
            except (ModelUnsupported, RuntimeError) as error:
                forms[at] = replace(form, problem=f"It cannot be frozen to TorchScript: {error}"[:_MAX_PROBLEM])
    collect_garbage(candidate.path.stat().st_size)
    return forms


def _export_of(form: Form, handover: FormsHandover) -> Callable[[], None]:
    candidate = handover.candidates[form.candidate]

    def export() -> None:
        raised = raise_program(load_program(candidate.path))
        model = LoadedModel(raised, candidate.specs, candidate.outputs, handover.batch, handover.batch_size)
        example = batch_of(handover.samples, handover.batch.clamp(TRACED_SAMPLES))
        export_float(model, candidate.fed(example), form.path)

    return export


def _reference(handover: FormsHandover, opener: Opener, threads: int) -> tuple[OpenedForm, Reference]:
    """The first form of the first candidate that runs; raises ModelFailed when none does."""
    problems = []
    one = handover.samples.read(0, 1).inputs
    for form in (each for each in handover.forms if each.candidate == 0):
        try:
            opened = open_form(opener, form, one, handover.batch, threads)
            run = called(opened.session)
            outputs = run_model(run, batch_of(handover.samples, handover.batch.low), handover.batch)
        except ModelFailed as error:
            problems.append(error.message)
            continue
        names = handover.candidates[0].outputs or tuple(str(number) for number in range(len(outputs)))
        return opened, Reference(run, names, handover.batch, handover.batch_size)
    raise ModelFailed(f"The first candidate, which the others are held against, does not run: {' '.join(problems)}")


def _with_room(forms: Sequence[Form], opener: Opener, tracker: ProgressTracker) -> list[Form]:
    """As many as memory holds at once: of every candidate first one, then another one of each."""
    turns = zip_longest(*by_candidate(forms).values())
    in_turn = [form for turn in turns for form in turn if form is not None]
    sizes = [opener.contender(form).size_bytes for form in in_turn]
    room = room_for(max(sizes)) if sizes else 0
    kept = in_turn[: max(len(by_candidate(forms)), room)]
    for form in in_turn[len(kept) :]:
        tracker.warn("form_left_out", f"{form.name} is not measured: memory is short for it.")
    return [form for form in forms if form in kept]


def _not_here(position: int, candidate: Candidate, folder: JobFolder, *, asked: Sequence[Runtime] | None) -> list[Form]:
    """The forms of an artifact whose runtime this worker has not, which costs the other candidates nothing."""
    if asked is not None or position == 0:
        return []
    forms = forms_of(position, candidate, RUNTIMES, folder.tmp, with_images=False)
    return [replace(form, problem=f"This worker does not have {RUNTIME_NAMES[form.runtime]}.") for form in forms]


def _kind(forms: Sequence[Form], right: Collection[str]) -> Kind:
    """The forms of one candidate; where none computes what it should, all alike."""
    names = [form.name for form in forms]
    fit = [name for name in names if name in right]
    return Kind(fit, [name for name in names if name not in fit]) if fit else Kind(names)


def _require_forms(candidates: Sequence[Candidate], forms: Sequence[Form]) -> None:
    measured = {form.candidate for form in forms}
    for position, candidate in enumerate(candidates):
        if position not in measured:
            raise ModelUnsupported(
                f"{candidate.file.name} runs in none of the runtimes that it is to be measured in.",
                hint="Leave `runtimes` out: a .pt2 runs in all, an .onnx not in torch, an artifact in its own.",
            )


def _warn_about(samples: Samples, source: DataSource, batch: BatchRange, tracker: ProgressTracker) -> None:
    if batch.fixed is not None:
        tracker.warn("fixed_batch", f"All is measured at a batch of {batch.fixed}: a candidate takes only that.")
    if source == "synthetic":
        tracker.warn(
            "synthetic_data",
            "No dataset was given: the outputs are compared on random inputs, which say little about real ones.",
            "Give held-out samples as `evaluation`; labels are not needed to compare outputs.",
        )
    elif not samples.has_labels:
        tracker.warn(
            "no_labels",
            "The evaluation data has no labels: outputs are compared, accuracy is not measured.",
            "Add an array `labels` to the evaluation data.",
        )


def _qengine(handover: FormsHandover) -> str:
    """Whose kernels int8 in torch ran on: those of the first artifact for it."""
    made_for = (candidate.file.qengine for candidate in handover.candidates)
    return next((each for each in made_for if each is not None), str(torch.backends.quantized.engine))


def _never_run(*_inputs: Tensor) -> Tensor:
    raise AssertionError("what is measured is not compared any more")
