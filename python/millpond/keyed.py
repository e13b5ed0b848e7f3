"""A stage with state: its code once for each partition, made when the first row of the partition comes.

All rows with one key are in one partition, and a partition is in one worker; so whatever the code keeps is about its
own keys, and has seen all of their rows. Start reading at `KeyedStage`.
"""

from __future__ import annotations

import array
import contextlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from .codecs.table import one_batch
from .stage import Output, Ran, Stage


class KeyedStage:
    """The partitions of a stage that are in this worker. `spec` is the text of an `OPEN` frame; `keeping` is entered
    while the code makes what it means to keep."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        keeping: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._spec = spec
        self._keeping = keeping
        # Made at once, so that what is wrong with the code is said before the first row comes.
        self._spare: Stage | None = Stage(spec)
        self._partitions: dict[int, Stage] = {}
        self.name = self._spare.name
        self.convention = self._spare.convention
        self.is_class = self._spare.is_class
        self.at_once = self._spare.at_once
        self.has_snapshots = self._spare.has_snapshots()
        # When the code raises: the row at fault, and the rows that it was given, from and to.
        self.row: int | None = None
        self.rows: tuple[int, int] | None = None

    def run(self, batch: pa.RecordBatch, which: Mapping[str, Any], sequence: int) -> Ran:
        """Calls the code of each partition on its rows; what it gave, and how many rows it was given.

        `which` is the text of a `RUN` frame: where in `batch` the rows of this worker begin, and how many there are of
        each partition, which follow each other.
        """
        self.row = self.rows = None
        start = which["first"]
        made = []
        for partition, count in which["partitions"]:
            stage = self._partition(partition)
            try:
                outputs = stage.run(batch.slice(start, count), sequence).outputs
            except BaseException:
                self.row = None if stage.row is None else start + stage.row
                self.rows = (start, start + count) if self.row is None else (self.row, self.row + 1)
                raise
            made += [self._placed(output, start) for output in outputs]
            start += count
        return Ran(_joined(made), start - which["first"])

    def finish(self, sequence: int) -> list[Output]:
        """Lets each partition give rows at the end of its keys."""
        self.row = self.rows = None
        if not self._partitions and not self._spec["by_key"]:
            self._partition(0)  # A stream without rows has an end too.
        made: list[Output] = []
        for _, stage in sorted(self._partitions.items()):
            made += stage.finish(sequence)
        return _joined(made)

    def snapshot(self) -> bytes:
        """The states of all partitions, for `restore` in another process."""
        return pickle.dumps({number: stage.get_state() for number, stage in self._partitions.items()}, protocol=5)

    def restore(self, snapshot: bytes) -> None:
        with self._keeping():
            states = pickle.loads(snapshot)
        for number, state in states.items():
            stage = self._partition(number)
            with self._keeping():
                stage.set_state(state)

    def close(self) -> None:
        """Closes every partition; raises the first error after all of them."""
        errors = []
        for _, stage in sorted(self._partitions.items()):
            try:
                stage.close()
            except Exception as error:
                errors.append(error)
        if self._spare is not None:
            self._spare.close()
        if errors:
            raise errors[0]

    def _partition(self, number: int) -> Stage:
        stage = self._partitions.get(number)
        if stage is None:
            with self._keeping():
                stage, self._spare = self._spare or Stage(self._spec), None
            stage.partition = number
            self._partitions[number] = stage
        return stage

    def _placed(self, output: Output, start: int) -> Output:
        """`output` of rows that begin at `start`: its origin is told in rows of the batch that they are a part of."""
        if self.convention == "row":
            origin = range(output.batch.num_rows) if output.origin is None else output.origin
            output.origin = array.array("I", [start + row for row in origin])
        return output


def _joined(outputs: list[Output]) -> list[Output]:
    """The outputs by port, with those in one batch that follow each other and look alike. Those that do not are left to
    the coordinator, to which it must not matter which partitions are in one worker."""
    runs: list[list[Output]] = []
    for output in sorted(outputs, key=lambda output: output.port):
        last = runs[-1][-1] if runs else None
        if last is not None and last.port == output.port and last.batch.schema.equals(output.batch.schema):
            runs[-1].append(output)
        else:
            runs.append([output])
    return [_one(run) for run in runs]


def _one(run: list[Output]) -> Output:
    if len(run) == 1:
        return run[0]
    origin = None
    if all(output.origin is not None for output in run):
        origin = array.array("I", [row for output in run for row in output.origin or ()])
    return Output(run[0].port, one_batch(pa.Table.from_batches([output.batch for output in run])), origin)
