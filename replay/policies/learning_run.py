"""VW's native reader, run in a process of its own, and what it printed as arrays.

A process of its own, because VW aborts or exits on some input, keeps memory, and holds the GIL. The probabilities of
all actions, as they were before each event was learned from, come through a pipe and are kept in files that have no
name any more: memory does not grow with the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from replay.errors import BadPolicy

# pylibvw is what the package vowpalwabbit wraps: without pandas and the rest, it starts in a few milliseconds.
_CHILD: Final = (
    "import sys, pylibvw\n"
    "vw = pylibvw.vw(sys.argv[1:])\n"
    "vw.run_parser()\n"
    "arguments, learners = vw.get_arguments(), vw.get_enabled_learners()\n"
    "vw.finish()\n"
    "print('arguments are', arguments, file=sys.stderr)\n"
    "print('learners are', ', '.join(learners), file=sys.stderr, flush=True)\n"
)
_PIECE: Final = 1 << 20
_PAUSE_S: Final = 0.004
_NONE, _MALFORMED, _NO_DISTRIBUTION = 0, 1, 2
_SUM_TOLERANCE: Final = 1e-3

Feed = Callable[[IO[bytes]], None]


class Ran(NamedTuple):
    """What VW said of a run.

    :ivar counts: shape (events,), how many actions each event had
    :ivar pmf: shape (sum of counts,), the probability of every action, in the actions' order
    :ivar average_loss: VW's own estimate: mean of cost * probability / logged probability
    :ivar updates: how many events were learned from
    :ivar mean_update: mean weight of these; 1 unless the log was thinned, 0 if there were none
    """

    counts: NDArray[np.int32]
    pmf: NDArray[np.float32]
    average_loss: float
    updates: int
    mean_update: float
    arguments: list[str]
    learners: list[str]


def run(spec: str, arguments: list[str], feed: Feed | None, meanwhile: Callable[[], None]) -> Ran:
    """Run VW over a log to its end.

    :param spec: of the policy, for messages
    :param arguments: of VW; the log is ``-d FILE`` among them unless ``feed`` writes it
    :param feed: writes dsjson lines to VW; None where VW reads a file
    :param meanwhile: what to do while VW reads a file by itself
    :raises BadPolicy: VW refuses the arguments or the log
    """
    folder = Path(tempfile.mkdtemp(prefix="replay-vw-"))
    try:
        return _run(spec, [*arguments, "-p", "stdout", "--log_output", "stderr"], feed, meanwhile, folder)
    finally:
        # What is mapped by now stays readable.
        shutil.rmtree(folder, ignore_errors=True)


def _run(spec: str, arguments: list[str], feed: Feed | None, meanwhile: Callable[[], None], folder: Path) -> Ran:
    if feed is not None:
        arguments = [*arguments, "-d", "/dev/stdin"]
    printed = _Printed(folder)
    with (folder / "stderr").open("wb") as told:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, *arguments],
            stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=told,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert child.stdout is not None
    reader = threading.Thread(target=printed.read, args=(child.stdout,), name="vw-predictions", daemon=True)
    reader.start()
    try:
        if feed is not None:
            assert child.stdin is not None
            # VW that stopped early says why; so does its exit status.
            with contextlib.suppress(BrokenPipeError), child.stdin:
                feed(child.stdin)
        meanwhile()
        status = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        reader.join()
        child.stdout.close()
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
    said = (folder / "stderr").read_text("utf-8", "replace")
    if status != 0:
        raise BadPolicy(f"{spec}: VW stopped with status {status}: {_complaint(said)}")
    if printed.fault:
        raise BadPolicy(f"{spec}: {printed.fault}")
    counts, pmf = printed.arrays()
    updates, mean_update = _updates(said)
    return Ran(
        counts,
        pmf,
        _number(said, "average loss"),
        updates,
        mean_update,
        shlex.split(_line(said, "arguments are")),
        _line(said, "learners are").split(", "),
    )


def _updates(said: str) -> tuple[int, float]:
    weighted, mean = _number(said, "weighted update count"), _number(said, "average accepted example weight")
    if not weighted > 0 or not mean > 0:
        return 0, 0.0
    return round(weighted / mean), mean


def _number(said: str, name: str) -> float:
    found = re.findall(rf"^{name} = (\S+)", said, re.MULTILINE)
    try:
        return float(found[-1])
    except (IndexError, ValueError):
        return float("nan")


def _line(said: str, begin: str) -> str:
    found = re.findall(rf"^{begin} (.*)$", said, re.MULTILINE)
    return str(found[-1]) if found else ""


def _complaint(said: str) -> str:
    """The last of what a failing VW said: the exception, not the report before it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"\w*(Error|Exception)\b|\[?(error|critical)", line)]
    return (telling or lines or ["it said nothing"])[-1][:300]


class _Printed:
    """Reads predictions from a pipe as they come, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._counts_path, self._pmf_path = folder / "counts", folder / "pmf"
        self.fault = ""
        self._n = 0

    def read(self, pipe: IO[bytes]) -> None:
        """To the end, even after a fault: VW must not wait for a reader that is gone."""
        with contextlib.suppress(OSError):  # Where pipes cannot be made larger, it takes longer.
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIECE)
        kept: list[bytes] = []
        held = 0
        with self._counts_path.open("wb") as counts, self._pmf_path.open("wb") as pmf:
            while piece := os.read(pipe.fileno(), _PIECE):
                if self.fault:
                    continue
                kept.append(piece)
                held += len(piece)
                if held >= _PIECE // 4:
                    text = b"".join(kept)
                    end = text.rfind(b"\n") + 1
                    self._take(text[:end], counts, pmf)
                    kept, held = [text[end:]], len(text) - end
                elif len(piece) < _PIECE // 16:
                    # VW writes line by line; waking up for each would slow it down.
                    time.sleep(_PAUSE_S)
            if held and not self.fault:
                self._take(b"".join(kept), counts, pmf)

    def _take(self, text: bytes, counts: IO[bytes], pmf: IO[bytes]) -> None:
        data = np.frombuffer(text, np.uint8)
        values = np.empty(len(data) // 3 + 1, np.float32)
        sizes = np.empty(len(data) // 4 + 1, np.int32)
        n_values, n_sizes, fault = parse_predictions(data, values, sizes, _SUM_TOLERANCE)
        self._n += n_sizes
        if fault == _NO_DISTRIBUTION:
            self.fault = (
                f"VW's probabilities for event {self._n + 1} are not a distribution (they do not sum to 1); this "
                "explorer cannot be evaluated"
            )
        elif fault == _MALFORMED:
            self.fault = (
                f"what VW printed for event {self._n + 1} are not probabilities of actions; is it a --cb_explore_adf?"
            )
        values[:n_values].tofile(pmf)
        sizes[:n_sizes].tofile(counts)

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return mapped(self._counts_path, np.int32), mapped(self._pmf_path, np.float32)


def mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A file as an array, which stays when the file is removed."""
    if not path.exists() or path.stat().st_size == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r")


@njit(cache=True, nogil=True)
def parse_predictions(data, values, sizes, tolerance):  # type: ignore[no-untyped-def]
    """Lines like ``2:0.91,0:0.045,1:0.045`` in the order of the actions; empty lines are skipped.

    :param values: room for all probabilities
    :param sizes: room for the number of actions of each line
    :returns: how many values and lines were read before a fault, and the fault: 0 none, 1 no such line, 2 the
        probabilities do not sum to 1
    """
    n, n_values, n_sizes = len(data), 0, 0
    at = 0
    while at < n:
        if data[at] == 10:
            at += 1
            continue
        end = at
        size = 1
        while end < n and data[end] != 10:
            size += data[end] == 44
            end += 1
        for k in range(size):
            values[n_values + k] = -1.0
        total = 0.0
        while at < end:
            action, digits = np.int64(0), 0
            while at < end and 48 <= data[at] <= 57:
                action = 10 * action + np.int64(data[at]) - 48
                digits += 1
                at += 1
            if digits == 0 or digits > 9 or at >= end or data[at] != 58 or action >= size:
                return n_values, n_sizes, 1
            at += 1
            mantissa, scale, digits = 0.0, np.int64(0), 0
            point = False
            while at < end and (48 <= data[at] <= 57 or (data[at] == 46 and not point)):
                if data[at] == 46:
                    point = True
                else:
                    mantissa = 10.0 * mantissa + (np.int64(data[at]) - 48)
                    digits += 1
                    scale += point
                at += 1
            if at < end and data[at] == 101 and at + 1 < end:
                at += 1
                negative = data[at] == 45
                at += data[at] == 45 or data[at] == 43
                exponent = np.int64(0)
                while at < end and 48 <= data[at] <= 57:
                    exponent = 10 * exponent + np.int64(data[at]) - 48
                    at += 1
                scale += exponent if negative else -exponent
            if digits == 0 or values[n_values + action] >= 0.0 or (at < end and data[at] != 44):
                return n_values, n_sizes, 1
            probability = mantissa / 10.0**scale
            values[n_values + action] = probability
            total += probability
            at += at < end
        for k in range(size):
            if values[n_values + k] < 0.0:
                return n_values, n_sizes, 1
        if not abs(total - 1.0) <= tolerance:
            return n_values, n_sizes, 2
        n_values += size
        sizes[n_sizes] = size
        n_sizes += 1
    return n_values, n_sizes, 0


@njit(cache=True, nogil=True)
def drawn(state, pi, p, c, out):  # type: ignore[no-untyped-def]
    """VW's own draws, one for each event: 1 where ``c * pi / p`` was above the random number, in float32 as there.

    :param state: of the random numbers; the seed to begin with
    :returns: the state afterwards
    Source: VW's merand48 and explore_eval.
    """
    for i in range(len(pi)):
        state = np.uint64(0xEECE66D5DEECE66D) * state + np.uint64(2147483647)
        u = np.float32((state >> np.uint64(25)) & np.uint64(0x7FFFFF)) * np.float32(2.0**-23)
        threshold = np.float32(np.float32(pi[i]) / np.float32(p[i])) * np.float32(c)
        out[i] = u < threshold
    return state
