"""Sampling for any number of inputs, batch by batch, in constant memory; a stopped run goes on where it stopped."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from mmtok.config import to_json
from mmtok.errors import MmtokError
from mmtok.files import new_file, write_json
from mmtok.inference.answers import Answers, contact_sheet
from mmtok.inference.inputs.given import Given, Inputs
from mmtok.inference.job import Job
from mmtok.inference.manifest import MANIFEST, Manifest
from mmtok.inference.probabilities import write_probabilities
from mmtok.inference.records import Record, Records
from mmtok.progress import Progress, say
from mmtok.show import read_value, write_value

RECORDS = "samples.jsonl"
SHOWN = 8  # samples in the gallery


@dataclasses.dataclass(frozen=True)
class Done:
    """A sample after its batch: its answers, or why there are none."""

    given: Given
    answers: Answers | None


def batches(inputs: Inputs, job: Job, *, batch_size: int) -> list[range]:
    """Returns the numbers of the samples of each batch: as many as have `batch_size` answers together."""
    size = max(batch_size // job.draws, 1)
    total = len(inputs.names)
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def work(job: Job, inputs: Inputs, folder: Path, manifest: Manifest) -> int:
    """Makes what is missing of a folder: files, `samples.jsonl`, `manifest.json` and `gallery.png`.

    Every batch holds the same samples and has the same shape however often the run was stopped, so the files are the
    same to the byte.

    Args:
      job: What to make.
      inputs: Of what.
      folder: TARGET/NAME.ending below it, or with several answers to each sample TARGET/NAME/000.ending.
      manifest: Of this run.

    Returns:
      How many samples failed.

    Raises:
      MmtokError: the folder was made by another run, or cannot be written.
    """
    records = _begin(folder, manifest)
    todo = [
        batch
        for batch in batches(inputs, job, batch_size=manifest.batch_size)
        if _unfinished(batch, records, job, inputs, folder)
    ]
    total = len(inputs.names)
    with Progress("sample", total=total, unit="samples", start=total - sum(map(len, todo))) as progress:

        def write(done: Sequence[Done]) -> None:
            records.append([_written(item, folder, job) for item in done])
            progress.update(len(done))

        _overlapped(job, inputs, todo, write, batch_size=manifest.batch_size)
    records.sort()
    _gallery(folder, records, job, inputs)
    return sum("error" in record for record in records)


def repeat(job: Job, inputs: Inputs, folder: Path, manifest: Manifest, *, only: Sequence[str], out: Path) -> int:
    """Makes outputs of a finished run again, the same to the byte, in the batches in which they were made.

    Args:
      job: What was made.
      inputs: Of what.
      folder: Of that run.
      manifest: Of that run.
      only: Names of samples; empty means all that did not fail.
      out: Where to write them.

    Returns:
      How many samples were made.

    Raises:
      MmtokError: no such sample, it failed then, or one of the inputs of its batch has changed.
    """
    records = Records(folder / RECORDS)
    wanted = {record["number"] for record in records if record["name"] in only or (not only and "error" not in record)}
    names = {inputs.names[number] for number in wanted}
    for name in only:
        if name not in names:
            raise MmtokError(f"{folder}: no sample '{name}' was made there")
    todo = [b for b in batches(inputs, job, batch_size=manifest.batch_size) if not wanted.isdisjoint(b)]

    def write(done: Sequence[Done]) -> None:
        before = {record["number"]: record for record in records.read([item.given.number for item in done])}
        for item in done:
            _check_same(item.given, before[item.given.number], folder)
        for item in done:
            if item.given.number in wanted:
                _written(item, out, job)

    _overlapped(job, inputs, todo, write, batch_size=manifest.batch_size)
    return len(wanted)


def _check_same(given: Given, before: Record, folder: Path) -> None:
    if given.inputs != before["inputs"] or bool(given.error) != ("error" in before):
        raise MmtokError(
            f"{folder}: the inputs of sample '{given.name}' have changed since; it was computed together with those"
            " asked for, so put them back"
        )


def _overlapped(
    job: Job,
    inputs: Inputs,
    todo: Sequence[range],
    write: Callable[[Sequence[Done]], None],
    *,
    batch_size: int,
) -> None:
    """Reads the next batch and writes the last one while one is computed."""
    rows = min(max(batch_size // job.draws, 1), len(inputs.names))
    with ThreadPoolExecutor(1) as pool:
        reading: deque[Future[list[Given]]] = deque(pool.submit(inputs.read, batch) for batch in todo[:1])
        writing: deque[Future[None]] = deque()
        for place in range(len(todo)):
            given = reading.popleft().result()
            reading.extend(pool.submit(inputs.read, batch) for batch in todo[place + 1 : place + 2])
            done = _computed(job, inputs, given, rows=rows, batch_size=batch_size)
            while writing:
                writing.popleft().result()
            writing.append(pool.submit(write, done))
        while writing:
            writing.popleft().result()


def _computed(job: Job, inputs: Inputs, given: Sequence[Given], *, rows: int, batch_size: int) -> list[Done]:
    """Answers those samples of a batch that can be read; what is wrong with the others stands in their `error`."""
    good = [item for item in given if not item.error]
    answers = None
    if good:
        padded = [*good, *good[-1:] * (rows - len(good))]  # one shape for all batches: compiled once
        numbers = [item.number for item in padded]
        try:
            answers = job.run(
                [item.values for item in padded],
                numbers=numbers,
                taken=inputs.tokens(numbers),
                batch_size=batch_size,
            )
        except MmtokError:
            judged = [dataclasses.replace(item, error=item.error or job.problem(item.values)) for item in given]
            if judged == given:
                raise
            return _computed(job, inputs, judged, rows=rows, batch_size=batch_size)
    each, starts = job.answers, {item.number: place * job.answers for place, item in enumerate(good)}
    return [
        Done(item, answers.take(range(starts[item.number], starts[item.number] + each), draws=each))
        if answers and not item.error
        else Done(item, None)
        for item in given
    ]


def _begin(folder: Path, manifest: Manifest) -> Records:
    """Opens a folder, new or of the same run."""
    path = folder / MANIFEST
    if path.exists():
        records = Records(folder / RECORDS)
        for left in folder.rglob(".*.tmp"):  # by a run that was killed
            left.unlink()
        if len(records):
            manifest.check_same(Manifest.read(folder), folder=folder)
            say(f"sample: {folder} holds {len(records)} samples already")
            return records
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MmtokError(f"{folder}: is not empty and holds no {MANIFEST} of such a run; use another folder")
    write_json(path, to_json(manifest))
    return Records(folder / RECORDS)


def _unfinished(batch: range, records: Records, job: Job, inputs: Inputs, folder: Path) -> bool:
    """Whether a batch is to be made: it is not recorded whole, files are gone, or what failed can be read by now."""
    if not all(number in records for number in batch):
        return True
    found = records.read(batch)
    if any(_gone(record, folder) for record in found):
        return True
    failed = inputs.read([record["number"] for record in found if "error" in record])
    return any(not (item.error or job.problem(item.values)) for item in failed)


def _gone(record: Record, folder: Path) -> bool:
    return any(not (folder / file).is_file() for files in record.get("files", ()) for file in files.values())


def _written(done: Done, folder: Path, job: Job) -> Record:
    """Writes the answers to a sample and returns its record."""
    given = done.given
    record = {"number": given.number, "name": given.name, "inputs": given.inputs}
    if done.answers is None:
        return {**record, "error": given.error}
    many, answers = job.answers > 1, done.answers
    names = [f"/{given.name}" + f"/{place:03d}" * many for place in range(job.answers)]
    files = [
        write_answer(answers, place, folder, after=name, probabilities=job.probabilities)
        for place, name in enumerate(names)
    ]
    return {**record, "files": files}


def write_answer(
    answers: Answers, place: int, folder: Path, *, before: str = "", after: str = "", probabilities: bool = False
) -> dict[str, str]:
    """Writes each value of an answer in its natural format.

    Args:
      answers: Of which one is written.
      place: Which one.
      folder: Where to write.
      before: What stands before the target's name in the path below `folder`.
      after: What stands behind it; the ending is added.
      probabilities: Whether those of its tokens are written too.

    Returns:
      Target -> path below `folder`.
    """
    paths = {
        name: write_value(folder / f"{before}{name}{after}", value, answers.targets[name].show)
        for name, value in answers[place].items()
    }
    if probabilities:
        paths["probabilities"] = folder / f"{before}probabilities{after}.npz"
        write_probabilities(paths["probabilities"], answers.tokens, answers.targets, row=place)
    return {name: str(path.relative_to(folder)) for name, path in paths.items()}


def _gallery(folder: Path, records: Records, job: Job, inputs: Inputs) -> None:
    """Draws the first samples from what was given and what was written."""
    shown = list(itertools.islice((record for record in records if "files" in record), SHOWN))
    if not shown:
        return
    numbers = [record["number"] for record in shown]
    tokens = inputs.tokens(numbers)
    given = job.prepare([item.values for item in inputs.read(numbers)])
    if tokens:
        decoded = job.model.decode(tokens)
        sources = {name: job.model.modalities[name].source for name in tokens}
        given = [{sources[name]: value for name, value in values.items() if value is not None} for values in decoded]
    made = [
        {
            name: read_value(str(folder / file), job.outputs[name].show)
            for name, file in record["files"][0].items()
            if name in job.outputs
        }
        for record in shown
    ]
    labels = [record["name"] for record in shown]
    note = f"{len(shown)} of {len(inputs.names)} samples"
    pixels = contact_sheet(given, made, job.model.sources, job.outputs, labels=labels, note=note)
    with new_file(folder / "gallery.png") as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", optimize=True)
