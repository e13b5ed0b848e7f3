"""One Python stage in a worker: its code is imported and called here.

Knows nothing of sockets or segments. Start reading at `Stage`.
"""

from __future__ import annotations

import array
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import sys
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from . import annotation, concurrency, context, parts, rejecting, run_state
from .codecs import codec
from .codecs.dicts import DictCodec
from .codecs.table import finish
from .codecs.values import Given, as_rows, rows_of
from .column_types import declared_schema
from .draws import Draws
from .errors import Rejected, SchemaError, StageError, Throttled, told
from .source import Source
from .stream import Stream

Item = TypeVar("Item")


@dataclasses.dataclass
class Output:
    """A batch for one port. `origin` has the index of each row's input row, where the rows are not one to one."""

    port: int
    batch: pa.RecordBatch
    origin: array.array[int] | None = None


@dataclasses.dataclass
class Share:
    """What an attempt is to do of a batch that a row function may be given in parts."""

    # The numbers in their batch of the rows that it is given.
    numbers: Sequence[int]
    # The others are run elsewhere.
    is_part: bool = False
    # After which it leaves the rows that it has not begun.
    seconds: float | None = None


@dataclasses.dataclass
class Ran:
    """What came of an attempt: `rows` are those that the function was given, `seconds` what it took for them."""

    outputs: list[Output]
    rows: int
    seconds: float = 0.0
    # Rows that the function raised for: the texts of `ERROR` frames. The outputs have nothing of them.
    failed: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class _Made:
    """The rows that one port was given, call by call."""

    def __init__(self) -> None:
        self.rows: list[Mapping[Any, Any]] = []
        # The index of each row's input row; `None` as long as every call has given one row.
        self._origin: array.array[int] | None = None

    def add(self, index: int, part: Any) -> None:
        """What the call on input row `index` gave."""
        self.add_rows(index, _rows_made(part))

    def add_rows(self, index: int, several: list[Mapping[Any, Any]]) -> None:
        if self._origin is None and (len(several) != 1 or index != len(self.rows)):
            self._origin = array.array("I", range(len(self.rows)))
        self.rows.extend(several)
        if self._origin is not None:
            self._origin.extend([index] * len(several))

    def end(self, rows_in: int) -> tuple[list[Mapping[Any, Any]], array.array[int] | None]:
        """All rows, and their origin if it is not one to one."""
        if self._origin is None and len(self.rows) != rows_in:
            self._origin = array.array("I", range(len(self.rows)))
        return self.rows, self._origin


class Stage:
    """A stage that is ready to run. `spec` is the text of an `OPEN` frame."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.name: str = spec["name"]
        self._seed: int = spec["seed"]
        self._ports: list[str] = spec["ports"] or ["out"]
        # With several outputs, a result is a dict of them.
        self._has_ports: bool = spec.get("has_ports", len(self._ports) > 1)
        returns: Mapping[str, Any] = spec.get("returns") or {}
        self._declared = [declared_schema(returns.get(port) or []) for port in self._ports]
        # Nobody reads the rows of a stage that works by its side effects: it need not give any.
        self._unread: bool = spec.get("unread", False)
        # A row that a row function raises for is left out, and told.
        self._skips: bool = spec.get("skips", False)
        # The same for a row that it rejects, however often what it raises for is tried.
        self._may_reject: bool = spec.get("may_reject", self._skips)
        self._failed: dict[int, dict[str, Any]] = {}
        self.row: int | None = None
        self.partition: int | None = None  # Of a stage with state.
        target = find(spec["module"], spec["function"])
        self.is_class = isinstance(target, type)
        if not self.is_class:
            _check_arguments(target, spec)
        self._is_async = annotation.is_async(target)
        self._instance: Any = self._complete(target, **spec["with"]) if self.is_class else None
        function = self._instance if self.is_class else target
        if not callable(function):
            raise StageError(
                f"`{spec['module']}:{spec['function']}` cannot be called; a class needs a `__call__` method"
            )
        bound = self.is_class or not spec["with"]
        self._call: Callable[..., Any] = function if bound else functools.partial(target, **spec["with"])
        self.convention, as_table = _convention(spec, function)
        self._codecs = [codec(self.convention, declared, as_table=as_table) for declared in self._declared]
        self._draws = Draws()
        self._finished: dict[int, pa.Schema] = {}  # By port.
        self._rows_codecs = [DictCodec(declared) for declared in self._declared]
        self._crew = self._hire(spec)
        if self._is_async and self._crew is None and not spec["source"]:
            self._call = functools.partial(self._complete, self._call)
        self._source = self._open_source(spec) if spec["source"] else None
        self._stream = Stream(self._call, self._by_port) if self.convention == "stream" else None

    def run(self, batch: pa.RecordBatch, sequence: int, share: Share | None = None) -> Ran:
        """Calls the function on one batch, or on each row of it. When it raises, `row` is the row at fault."""
        context.enter_batch(self._seed, self.name, sequence, self.partition)
        self.row = None
        if self.convention == "row" and self.partition is None:
            return self._run_rows(batch, share or Share(range(batch.num_rows)))
        context.seed_batch()
        if self.convention == "row":
            return self._run_in_turn(batch)
        if self._stream is not None:
            return Ran(self._yielded(self._stream.give(batch)), batch.num_rows)
        argument, given = self._codecs[0].give(batch)
        rejections = rejecting.Batch(batch.num_rows, argument)
        rejecting.enter(rejections)
        try:
            result = self._call(argument)
        finally:
            rejecting.enter(None)
        failed = self._rejected(rejections)
        if result is None and not self._has_ports and not self._unread:
            raise SchemaError(
                f"returned `None`, but `as: {self.convention}` gives rows back; is a `return` missing? "
                "(A result without rows is an empty one of its kind)"
            )
        return Ran(self._taken(result, given), batch.num_rows, failed=failed)

    def _rejected(self, rejections: rejecting.Batch) -> list[dict[str, Any]]:
        """The texts of the rows that a function has rejected that sees whole batches."""
        rejected = rejections.rejected()
        if not rejected or self._may_reject:
            return [told(Rejected(reason), row) for row, reason in rejected]
        self.row, reason = rejected[0]
        raise Rejected(reason)

    def finish(self, sequence: int) -> list[Output]:
        """What a stage with state gives at its end: a stream until it returns, a class by `finish()` if it has one."""
        context.enter_attempt(self._seed, self.name, sequence, self.partition)
        self.row = None
        if self._stream is not None:
            return self._yielded(self._stream.end())
        last = getattr(self._instance, "finish", None)
        if last is None:
            return []
        result, given = self._complete(last), Given(None)
        if self.convention != "row":
            return self._taken(result, given)
        outputs = []
        for port, part in self._by_port(result):
            output = self._row_output(port, _rows_made(part), array.array("I"), given)
            if output is not None:
                outputs.append(Output(port, output.batch))
        return outputs

    def has_snapshots(self) -> bool:
        """Whether the code can give its state, and can be given it."""
        return all(hasattr(self._instance, name) for name in ("get_state", "set_state"))

    def get_state(self) -> Any:
        return self._instance.get_state()

    def set_state(self, state: Any) -> None:
        self._instance.set_state(state)

    def _yielded(self, batches: list[tuple[int, pa.RecordBatch]]) -> list[Output]:
        return [Output(port, self._finish(port, batch)) for port, batch in batches]

    def _taken(self, result: Any, given: Given) -> list[Output]:
        """What a function gave that sees whole batches."""
        outputs = []
        for port, part in self._by_port(result):
            taken = None if part is None else self._codecs[port].take(part, given)
            if taken is not None:
                outputs.append(Output(port, self._finish(port, taken)))
        return outputs

    def join(self, batch: pa.RecordBatch, sequence: int) -> Ran:
        """Makes one batch of what the function gave for rows that were run apart."""
        context.enter_batch(self._seed, self.name, sequence)
        self.row = None
        rows, packed = parts.unpack(batch)
        given = Given(rows)
        for name in rows.schema.names:
            given.objects(name)
        return Ran(self._outputs_of(enumerate(parts.calls(packed, given)), rows.num_rows, given), rows.num_rows)

    def pull(self, sequence: int, caught_up: Callable[[], None]) -> tuple[list[Output], bool]:
        """Batch number `sequence` of a source, and whether the source is exhausted. `caught_up`: see `Source.pull`."""
        if self._source is None:
            raise StageError(f"`{self.name}` is not a source")
        self.row = None
        batch, end = self._source.pull(sequence, caught_up)
        return ([] if batch is None else [Output(0, self._finish(0, batch))]), end

    def close(self) -> None:
        """Calls `close()` of the class, if it has one."""
        if self._source is not None:
            self._source.close()
        if self._stream is not None:
            self._stream.close()
        if self._crew is not None:
            self._crew.close()
        close = getattr(self._instance, "close", None)
        if close is not None:
            self._complete(close)

    @property
    def at_once(self) -> int:
        """For how many rows of a batch the function may be called at once."""
        return 1 if self._crew is None else self._crew.at_once

    def _hire(self, spec: Mapping[str, Any]) -> concurrency.Crew | None:
        """What calls the function for several rows at once, if that is to be."""
        at_once: int | None = spec.get("concurrency")
        if self._is_async and self.convention == "stream":
            raise StageError("an `async def` function cannot be `as: stream`: its batches come one after the other")
        if at_once is not None and self.convention != "row":
            raise StageError(
                f"`concurrency` is for functions that are called for one row, and this one takes whole batches "
                f"(`as: {self.convention}`): remove the key; if it is an `async def`, it can gather what it waits for"
            )
        if self._is_async and self.convention == "row" and not (spec["source"] or spec["has_state"]):
            at_once = at_once or concurrency.DEFAULT
        if at_once is None or at_once == 1:
            return None
        if not self._is_async:
            return concurrency.Threads(at_once, self._call_on)
        from . import event_loop

        return event_loop.Tasks(at_once, self._await_on)

    def _complete(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """What a function of the user's code gives, in the event loop if that code is `async`."""
        if not self._is_async and not annotation.is_async(function):
            return function(*arguments, **named)
        from . import event_loop

        return event_loop.call(function, *arguments, **named)

    def _open_source(self, spec: Mapping[str, Any]) -> Source:
        return Source(
            self._call,
            self._codecs[0],
            self._declared[0],
            spec["batch_rows"],
            spec["batch_bytes"],
            functools.partial(context.enter_attempt, self._seed, self.name),
        )

    def _run_rows(self, batch: pa.RecordBatch, share: Share) -> Ran:
        began = time.perf_counter()
        given = Given(batch)
        self._failed = {}
        if self._crew is None and not share.is_part and share.seconds is None:
            outputs = self._run_all(batch, share.numbers, given)
            return Ran(outputs, batch.num_rows, time.perf_counter() - began, list(self._failed.values()))
        run_some = self._run_some if self._crew is None else self._run_at_once
        calls, rows = run_some(batch, share, given)
        # A part must be such that its rows make a batch, like any other attempt.
        outputs = self._outputs_of(calls.items(), rows, given)
        seconds = time.perf_counter() - began
        if share.is_part or rows < batch.num_rows:
            outputs = [Output(0, parts.pack(calls, given))]
        return Ran(outputs, rows, seconds, list(self._failed.values()))

    def _run_all(self, batch: pa.RecordBatch, numbers: Sequence[int], given: Given) -> list[Output]:
        try:
            made = self._made_of_all(batch, numbers, given)
        except Exception:
            if not self._draws.were_missed():
                raise
        else:
            if not self._draws.were_missed():
                return self._outputs(made, batch.num_rows, given)
        self._failed = {}
        run_state.state.begin()  # All rows are run again.
        return self._outputs(self._made_of_all(batch, numbers, given), batch.num_rows, given)

    def _run_in_turn(self, batch: pa.RecordBatch) -> Ran:
        """Calls a function with state on each row, once: to run a row again would change the state again."""
        given = Given(batch)
        made = self._made_of(rows_of(batch, given))
        return Ran(self._outputs(made, batch.num_rows, given), batch.num_rows)

    def _made_of_all(self, batch: pa.RecordBatch, numbers: Sequence[int], given: Given) -> list[_Made]:
        return self._made_of(self._apart(self._draws.each(rows_of(batch, given), numbers)))

    def _made_of(self, rows: Iterator[dict[str, Any]]) -> list[_Made]:
        made = [_Made() for _ in self._ports]
        if self.partition is None:
            context.enter_rows(lambda: len(made[0].rows) if self.row is None else self.row)
        called = 0 if self._has_ports else self._run_while_one_to_one(rows, made[0])
        for index, row in enumerate(rows, called):
            self.row = index
            try:
                call = self._call_on(row)
            except Exception as error:
                self._skip(index, error)
                continue
            for port, several in call:
                made[port].add_rows(index, several)
        self.row = None
        return made

    def _call_on(self, row: dict[str, Any]) -> parts.Call:
        return [(port, _rows_made(part)) for port, part in self._by_port(self._call(row))]

    def _skip(self, index: int, error: Exception) -> None:
        """Goes on without a row that the function raised for, if the stage may."""
        if not self._leaves_out(error):
            raise error
        run_state.forget_row()
        self._failed[index] = told(error, index)

    def _leaves_out(self, error: BaseException) -> bool:
        """Whether the stage goes on without a row that the function has raised this for."""
        if isinstance(error, Rejected):
            return self._may_reject
        return self._skips and not isinstance(error, Throttled)

    def _apart(self, rows: Iterator[Item]) -> Iterator[Item]:
        """The rows. Where those that fail are left out, they are apart: what these do to the state does not count."""
        return run_state.each(rows) if self._may_reject else rows

    def _run_some(self, batch: pa.RecordBatch, share: Share, given: Given) -> tuple[dict[int, parts.Call], int]:
        """Calls the function row by row until the time is over, but on one row at least.

        Returns what the calls gave, by the row's place, and how many rows there were calls for.
        """
        calls: dict[int, parts.Call] = {}
        rows = 0
        until = _end_of(share)
        context.enter_rows(lambda: self.row)
        for number, row in run_state.each(zip(share.numbers, rows_of(batch, given), strict=True)):
            context.seed_row(number)
            self.row = rows
            try:
                calls[rows] = self._call_on(row)
            except Throttled:
                if rows == 0 or share.seconds is None:
                    raise
                run_state.forget_row()
                break  # The rows before it are done, and the next attempt begins with this one.
            except Exception as error:
                self._skip(rows, error)
            rows += 1
            if time.perf_counter() >= until:
                break
        self.row = None
        return calls, rows

    def _run_at_once(self, batch: pa.RecordBatch, share: Share, given: Given) -> tuple[dict[int, parts.Call], int]:
        """The same for several rows at once, and for the first ones in any case. They share the random generators."""
        assert self._crew is not None, "only called with one"
        context.seed_batch()
        begun = self._crew.run(rows_of(batch, given), _end_of(share), self._leaves_out)
        first = begun.first_error()
        rows = begun.rows
        if first is not None:
            self.row, error = first
            if not isinstance(error, Throttled) or self.row == 0 or share.seconds is None:
                raise error
            rows, self.row = self.row, None  # Those after it are run again with it.
        self._failed = {row: text for row, text in sorted(begun.failed.items()) if row < rows}
        calls = {row: call for row, call in sorted(begun.calls.items()) if row < rows}
        for row in calls:
            run_state.count(begun.done[row])
        return calls, rows

    async def _await_on(self, row: dict[str, Any]) -> parts.Call:
        from . import event_loop

        result = await event_loop.complete(self._call(row))
        return [(port, _rows_made(part)) for port, part in self._by_port(result)]

    def _outputs_of(self, calls: Iterable[tuple[int, parts.Call]], rows_in: int, given: Given) -> list[Output]:
        made = [_Made() for _ in self._ports]
        for index, call in calls:
            for port, several in call:
                made[port].add_rows(index, several)
        return self._outputs(made, rows_in, given)

    def _outputs(self, made: list[_Made], rows_in: int, given: Given) -> list[Output]:
        outputs = [self._row_output(port, *made[port].end(rows_in), given) for port in range(len(made))]
        return [output for output in outputs if output is not None]

    def _run_while_one_to_one(self, rows: Iterator[dict[str, Any]], made: _Made) -> int:
        """Calls the function row by row, and ends early after a row that gives anything but one dict.

        Returns how many rows were taken from `rows`. This is the usual case and spends no time on anything else.
        """
        call, append = self._call, made.rows.append
        self.row = None
        try:
            for row in rows:
                part = call(row)
                if type(part) is not dict:
                    break
                append(part.copy())
            else:
                return len(made.rows)
            self.row = len(made.rows)
            made.add(self.row, part)
        except Exception as error:
            self.row = len(made.rows)
            self._skip(self.row, error)
        except BaseException:
            self.row = len(made.rows)
            raise
        return self.row + 1

    def _row_output(
        self, port: int, rows: list[Mapping[Any, Any]], origin: array.array[int] | None, given: Given
    ) -> Output | None:
        try:
            batch = self._rows_codecs[port].batch_of(rows, given)
            return None if batch is None else Output(port, self._finish(port, batch), origin)
        except SchemaError as error:
            if error.row is not None:
                self.row = error.row if origin is None else next(iter(origin[error.row : error.row + 1]), None)
            raise

    def _finish(self, port: int, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What is sent of `batch`. One that looks like what came out the last time is finished as it is."""
        last = self._finished.get(port)
        if last is None or not batch.schema.equals(last, check_metadata=True):
            batch = finish(batch, self._declared[port])
            self._finished[port] = batch.schema
        return batch

    def _by_port(self, result: Any) -> Iterable[tuple[int, Any]]:
        """What a result has for each port."""
        if not self._has_ports or result is None:
            return [(0, result)]
        if not isinstance(result, Mapping):
            made = "yielded" if self.convention == "stream" else "returned"
            raise SchemaError(
                f"{made} `{type(result).__name__}`, but a stage with `ports` gives a dict of port and rows: "
                f"`{{{self._ports[0]!r}: …}}`"
            )
        for name in result:
            if name not in self._ports:
                raise SchemaError(f"there is no port {name!r}; `ports` declares {', '.join(self._ports)}")
        return [(self._ports.index(name), part) for name, part in result.items()]


def _end_of(share: Share) -> float:
    """When an attempt that begins now is to leave the rows that it has not begun."""
    return math.inf if share.seconds is None else time.perf_counter() + share.seconds


def close_loop() -> None:
    """Ends what is left in the worker's event loop, if it has one."""
    event_loop = sys.modules.get(f"{__package__}.event_loop")
    if event_loop is not None:
        event_loop.close()


def find(module: str, name: str) -> Any:
    """What `module:name` names."""
    target: Any = importlib.import_module(module)
    for part in name.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            near = difflib.get_close_matches(part, [known for known in dir(target) if not known.startswith("_")], n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise StageError(f"module `{module}` has no `{name}`{hint}") from None
    return target


def _check_arguments(target: Any, spec: Mapping[str, Any]) -> None:
    """What `with` gives must fit the function: otherwise every row would seem to be at fault."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # Not to be known of some functions that are written in C.
        return
    try:
        signature.bind(*([] if spec["source"] else [None]), **spec["with"])
    except TypeError as error:
        raise StageError(f"`{spec['module']}:{spec['function']}` cannot be called as the stage says: {error}") from None


def _convention(spec: Mapping[str, Any], function: Callable[..., Any]) -> tuple[str, bool]:
    chosen = spec.get("as")
    if chosen is None and spec["source"]:
        return annotation.DEFAULT, False
    inferred, as_table = annotation.infer(function)
    if chosen is None and inferred == "stream":  # How a stage is run depends on it, and is known before its code is.
        raise StageError("its first parameter is an iterator: say `as: stream` in the file to give it all batches")
    return (chosen, as_table) if chosen is not None else (inferred, as_table)


def _rows_made(part: Any) -> list[Mapping[Any, Any]]:
    """The rows that a call on one row gave: none, one or many. Copies: user code may go on to change what it gave."""
    if type(part) is dict:
        return [part.copy()]
    if part is None:
        return []
    if type(part) is list:
        return as_rows(part)
    if isinstance(part, Mapping):
        return [dict(part)]
    if inspect.isawaitable(part) or isinstance(part, AsyncIterable):
        if inspect.iscoroutine(part):
            part.close()  # Or Python warns that nobody awaits it.
        raise SchemaError(f"returned `{type(part).__name__}`, to be awaited, but the function is no `async def`")
    if isinstance(part, (str, bytes)) or not isinstance(part, Iterable):
        raise SchemaError(
            f"returned `{type(part).__name__}`, but `as: row` gives a dict, several, or `None` for no row"
        )
    return as_rows(part)
