"""A 1 GiB upload: the API's peak memory, and its time against a script that hashes, writes and fsyncs the file."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from pathlib import Path

from inputs import random_dataset
from measuring import Result, median
from running_stack import RunningStack, memory_bytes, reset_peak, running_stack

import octavo

MIB = 1024**2
ROUNDS = 7
SHAPE = (3, 64, 64)
SAMPLES = 1024**3 // (4 * 3 * 64 * 64) + 1


def plain_seconds(source: Path, target: Path) -> float:
    """Read, hash, write, fsync."""
    started_at = time.perf_counter()
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(MIB):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    seconds = time.perf_counter() - started_at
    target.unlink()
    return seconds


def upload_seconds(stack: RunningStack, source: Path) -> float:
    """One request, to the answer."""
    started_at = time.perf_counter()
    dataset = stack.upload("datasets", source)
    seconds = time.perf_counter() - started_at
    stack.request("DELETE", f"/v1/datasets/{dataset}")
    return seconds


def sdk_seconds(stack: RunningStack, source: Path) -> float:
    """The same file through the SDK: hashed, sent in parts, completed."""
    with octavo.Client(stack.address.geturl(), stack.key) as client:
        started_at = time.perf_counter()
        dataset = client.datasets.upload(source, progress=False)
        seconds = time.perf_counter() - started_at
        client.datasets.delete(dataset)
    return seconds


def main() -> None:
    """Measure, print and keep."""
    result = Result("upload")
    samples: dict[str, list[float]] = {"plain": [], "one request": [], "sdk": []}
    with tempfile.TemporaryDirectory() as directory, running_stack() as stack:
        source = Path(directory) / "big.safetensors"
        api = stack.process_id("api")
        peaks = {}
        for seed in range(ROUNDS):
            random_dataset(source, SAMPLES, SHAPE, seed=seed)
            source.read_bytes()[:0]  # every side reads it from the page cache
            samples["plain"].append(plain_seconds(source, Path(directory) / "copy"))
            for name, send in (("one request", upload_seconds), ("sdk", sdk_seconds)):
                reset_peak(api)
                samples[name].append(send(stack, source))
                peaks[name] = max(peaks.get(name, 0), memory_bytes(api, "VmHWM"))
    result.samples["seconds"] = samples
    for name, seconds in samples.items():
        result.add(f"1 GiB, {name}, median", median(seconds), "s")
    for name, peak in peaks.items():
        result.add(f"API's peak memory, {name}", peak / MIB, "MiB", limit=150)
    # Rounds are paired, because the disk's speed drifts between them; the spread says how far to trust the median.
    for name in ("one request", "sdk"):
        ratios = [sent / plain for sent, plain in zip(samples[name], samples["plain"], strict=True)]
        result.add(f"{name} / plain script, median of {ROUNDS} paired rounds", median(ratios), "×", limit=2.0)
        result.add(f"{name} / plain script, lowest round", min(ratios), "×")
        result.add(f"{name} / plain script, highest round", max(ratios), "×")
    result.save()


if __name__ == "__main__":
    main()
