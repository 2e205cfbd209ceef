"""Telling logs apart."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.errors import BadLog, BadQuestion
from replay.readers import kind_of, open_log
from tests.replay.logs import cb
from tests.replay.test_readers_obd import written as obd_written

LINE = json.dumps(cb()).encode()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("log.json", LINE, "dsjson"),
        ("log.dsjson", LINE, "dsjson"),
        ("log.jsonl", LINE, "dsjson"),
        ("log", b"\xef\xbb\xbf\n" + LINE, "dsjson"),
        ("log.txt", LINE, "dsjson"),
        ("log.json.gz", gzip.compress(LINE), "dsjson"),
        ("log.gz", gzip.compress(LINE), "dsjson"),
        ("log.csv", b"a,b\n", "obd"),
        ("log.db", b"SQLite format 3\0 and more", "service"),
        ("any", b"PAR1....", "parquet"),
        ("any.npz", b"PK\x03\x04....", "obp"),
    ],
)
def test_files_are_told_by_content_and_name(tmp_path, name, content, kind):
    path = tmp_path / name
    path.write_bytes(content)
    assert kind_of(path) == kind


def test_directories_are_told_by_what_they_hold(tmp_path):
    assert kind_of(obd_written(tmp_path)) == "obd"
    service = tmp_path / "data"
    service.mkdir()
    (service / "log.db").write_bytes(b"")
    assert kind_of(service) == "service"
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    pq.write_table(pa.table({"a": [1]}), parquet / "0.parquet")
    assert kind_of(parquet) == "parquet"


def test_what_is_no_log_is_refused_with_what_is_allowed(tmp_path):
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("hello")
    (tmp_path / "hello.txt").write_text("hello")
    for name, said in (
        ("missing.json", "does not exist"),
        ("empty.json", "is empty"),
        ("folder", "is empty"),
        ("other", "holds no log of a known kind"),
        ("hello.txt", "is no log of a known kind"),
    ):
        with pytest.raises(BadLog) as error:
            open_log(tmp_path / name)
        assert said in error.value.message
        assert "a service's data directory, a dsjson file" in error.value.message


def test_a_directory_of_several_logs_names_them(tmp_path):
    for policy in ("random", "bts"):
        (tmp_path / policy).mkdir()
        obd_written(tmp_path / policy)
    with pytest.raises(BadLog, match=r"several logs; name one of .*bts/men, .*random/men"):
        open_log(tmp_path)
    with pytest.raises(BadLog, match="describes the items"):
        open_log(tmp_path / "bts" / "men" / "item_context.csv")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.json.gz").write_bytes(b"")
    assert kind_of(tmp_path / "x") == "dsjson"


def test_several_files_are_one_log_if_they_are_of_one_kind(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_bytes(LINE)
    log = open_log([tmp_path / "b.json", tmp_path / "a.json"])
    assert log.name == f"{tmp_path / 'b.json'} and 1 more"
    pq.write_table(pa.table({"a": [1]}), tmp_path / "c.parquet")
    with pytest.raises(BadLog, match=r"a.json is dsjson and .*c.parquet is parquet"):
        open_log([tmp_path / "a.json", tmp_path / "c.parquet"])
    with pytest.raises(BadLog, match=r"a.json is named twice"):
        open_log([tmp_path / "a.json", tmp_path / "a.json"])
    with pytest.raises(BadLog, match="of which one is read at a time"):
        open_log([obd_written(tmp_path), tmp_path], kind="obd")
    with pytest.raises(BadLog, match="there is no log"):
        open_log([])


def test_kinds_options_and_formulas_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "log.json"
    path.write_bytes(LINE)
    with pytest.raises(BadLog, match="kind='x' is not known; allowed are service, dsjson"):
        open_log(path, kind="x")
    with pytest.raises(BadLog, match="on_broken='x'"):
        open_log(path, on_broken="x")
    with pytest.raises(BadLog, match="nonsense is no option of a dsjson log"):
        open_log(path, nonsense=1)
    with pytest.raises(BadQuestion, match="needs raw signals, which only a service's log has"):
        open_log(path, reward="like*2")
    with pytest.raises(BadLog, match="does not exist"):
        open_log(tmp_path / "none", kind="dsjson")
    with pytest.raises(BadLog, match="is no Parquet"):
        open_log(path, kind="parquet")
    with pytest.raises(BadLog, match="has no column"):
        open_log(path, kind="obd")
