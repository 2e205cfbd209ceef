"""Where the time of a ranking goes: ``python -m tests.bench.stages`` prints microseconds by stage.

It puts stopwatches around the functions of the rank path, the log and the web app, in place, so that what
is timed is the code that serves. A stopwatch costs some 0.2 microseconds.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

_STAGES: tuple[tuple[str, str, str], ...] = (
    # label (indented: part of the one above), where, name
    ("Ranker.rank", "bandit.ranking.ranker.Ranker", "rank"),
    ("  read control records", "bandit.ranking.ranker.Ranker", "sync"),
    ("  candidates to rows", "bandit.ranking.candidates.CandidateCache", "resolve"),
    ("    what is known of them", "bandit.statistics.knowledge.Knowledge", "of"),
    ("  event id", "bandit.ranking.ranker.Ranker", "new_event_id"),
    ("  seed", "bandit.ranking.ranker", "seed_of"),
    ("  read the viewer", "bandit.statistics.viewers.ViewerReader", "read"),
    ("  dense columns", "bandit.ranking.ranker", "dense_columns"),
    ("  digest of the columns", "bandit.ranking.ranker", "digest_of"),
    ("  rules", "bandit.slate.ruling", "rule"),
    ("  resolve shared features", "bandit.ranking.ranker", "resolve_shared"),
    ("  hash shared features", "bandit.ranking.ranker", "hash_resolved"),
    ("  score", "bandit.ranking.ranker", "score"),
    ("    prepare", "bandit.ranking.scorer", "prepare"),
    ("    kernel", "bandit.ranking.scorer", "score_prepared"),
    ("  limit exploration", "bandit.ranking.ranker", "limited"),
    ("  draw the slate", "bandit.ranking.ranker", "draw_slate"),
    ("  build the reply", "bandit.ranking.ranker", "_reply"),
    ("Ranker.log", "bandit.ranking.ranker.Ranker", "log"),
    ("  append, durable", "bandit.store.log.EventLog", "append"),
)
_HTTP_STAGES = (
    "WSGI app, /v1/rank",
    "  decode the body",
    "  Service.rank",
    "  metrics",
    "  encode the reply",
    "WSGI app, an empty route",
)
_SQL = ("BEGIN", "SELECT ts", "INSERT", "COMMIT")


class Stopwatch:
    """Sums of microseconds by label, kept by request."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self.rows: list[dict[str, float]] = []

    def around(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter_ns

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.now[label] += (clock() - started) / 1000

        return timed

    def lap(self) -> None:
        self.rows.append(dict(self.now))
        self.now.clear()

    def column(self, label: str, *, without: Sequence[str] = ()) -> list[float]:
        """Microseconds of a stage by request, less those of some of its parts."""
        return [row.get(label, 0.0) - sum(row.get(part, 0.0) for part in without) for row in self.rows]


class _TimedConnection:
    """A writer connection that times each statement by its first words."""

    def __init__(self, connection: Any, watch: Stopwatch) -> None:
        self._connection = connection
        self._watch = watch

    def execute(self, sql: str, *parameters: Any) -> Any:
        label = next((words for words in _SQL if sql.startswith(words)), "other SQL")
        return self._watch.around(f"    {label}", self._connection.execute)(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _find(where: str) -> Any:
    """A module, or a class of one."""
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError:
        module, _, name = where.rpartition(".")
        return getattr(importlib.import_module(module), name)


@contextmanager
def watched(watch: Stopwatch, service: Any) -> Iterator[list[str]]:
    """Stopwatches in place; gives the labels of stages that no longer exist."""
    missing = []
    with ExitStack() as stack:
        for label, where, name in _STAGES:
            owner = _find(where)
            function = getattr(owner, name, None)
            if function is None:
                missing.append(label.strip())
                continue
            timed = watch.around(label, function)
            static = isinstance(vars(owner).get(name), staticmethod)
            stack.enter_context(mock.patch.object(owner, name, staticmethod(timed) if static else timed))
        log = service.data.log
        if log._writer is not None:
            log._writer = _TimedConnection(log._writer, watch)
        yield missing
        if isinstance(log._writer, _TimedConnection):
            log._writer = log._writer._connection


def measure_ranking(service: Any, requests: list[Any], *, rounds: int) -> tuple[Stopwatch, list[str]]:
    """Stages of rank and log, called in process by one thread."""
    watch = Stopwatch()
    for request in requests:
        service.rank(request)
    ranker = service.ranker
    with watched(watch, service) as missing:
        for _ in range(rounds):
            for request in requests:
                ranker.log(ranker.rank(request))
                watch.lap()
    return watch, missing


def measure_http(service: Any, bodies: list[bytes], *, rounds: int) -> Stopwatch:
    """Stages of the WSGI app, called in process: what the server itself adds is not in it."""
    web_app: Any = importlib.import_module("bandit.web.app")
    answering: Any = importlib.import_module("bandit.web.answering")
    native: Any = importlib.import_module("bandit.web.native")
    watch = Stopwatch()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(service, "rank", watch.around("  Service.rank", service.rank)))
        stack.enter_context(
            mock.patch.object(native.records, "decode", watch.around("  decode the body", native.records.decode))
        )
        encode = watch.around("  encode the reply", answering.encode)
        stack.enter_context(mock.patch.object(answering, "encode", encode))
        app = web_app.create_app(service)

        @app.post("/empty")
        def empty() -> bytes:
            return b"{}"

        def call(path: str, body: bytes) -> None:
            environ = {
                "REQUEST_METHOD": "POST", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "",
                "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
                "REMOTE_ADDR": "127.0.0.1", "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/json",
                "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO(), "wsgi.version": (1, 0),
                "wsgi.url_scheme": "http", "wsgi.multithread": True, "wsgi.multiprocess": True,
                "wsgi.run_once": False,
            }  # fmt: skip
            statuses: list[str] = []

            def start_response(status: str, *_: Any) -> Callable[[bytes], object]:
                statuses.append(status)
                return statuses.append  # type: ignore[return-value]

            b"".join(app.wsgi_app(environ, start_response))
            assert statuses[0].startswith("200"), statuses

        whole = watch.around("WSGI app, /v1/rank", call)
        nothing = watch.around("WSGI app, an empty route", call)
        counted = watch.around("  metrics", _count)
        for number in range(rounds + 1):
            for body in bodies:
                whole("/v1/rank", body)
                nothing("/empty", body)
                counted(native)
                watch.lap()
            if number == 0:
                watch.rows.clear()
    return watch


def _count(native: Any) -> None:
    from bandit.web import metrics

    native._scored.inc(0)
    metrics.REQUESTS.labels("/v1/rank", "200").inc(0)
    metrics.SECONDS.labels("/v1/rank").observe(0.001)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(watch: Stopwatch, labels: list[str]) -> Iterator[str]:
    """Lines of a table; what a stage's parts leave over is its ``rest``."""

    def line(label: str, values: list[float]) -> str:
        return f"{label:<34}{quantile(values, 0.1):9.1f}{quantile(values, 0.5):9.1f}{quantile(values, 0.9):9.1f}"

    yield f"{'microseconds':<34}{'p10':>9}{'p50':>9}{'p90':>9}"
    for at, label in enumerate(labels):
        depth = len(label) - len(label.lstrip())
        yield line(label, watch.column(label))
        following = labels[at + 1 :]
        parts = []
        for other in following:
            other_depth = len(other) - len(other.lstrip())
            if other_depth <= depth:
                break
            if other_depth == depth + 2:
                parts.append(other)
        if parts:
            yield line(f"{' ' * depth}  (rest)", watch.column(label, without=parts))


def main() -> None:
    """Print the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that the 200 requests are ranked")
    parser.add_argument(
        "--not-durable", action="store_true", help="no fsync: while it waits, others take the caches from this process"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics"
        metrics.mkdir()
        # As in a worker: prometheus-client looks at it when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        from tests.bench.workload import as_in_a_worker, make_data, make_workload, opened

        workload = make_workload()
        path = Path(folder) / "data"
        make_data(path, workload, n_events=100)
        with opened(path, durable=not arguments.not_durable) as service, as_in_a_worker():
            watch, missing = measure_ranking(service, workload.requests(), rounds=arguments.rounds)
            labels = [label for label, _, _ in _STAGES] + [f"    {words}" for words in _SQL]
            print("\n".join(report(watch, labels)), end="\n\n")
            http = measure_http(service, workload.bodies, rounds=arguments.rounds)
            print("\n".join(report(http, list(_HTTP_STAGES))))
            if missing:
                print("\nno longer there, so not timed:", ", ".join(missing))


if __name__ == "__main__":
    main()
