"""The dashboard: words first, every number the loop's own, and forms that change what serves."""

from __future__ import annotations

import html
import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from msgspec import Raw
from playwright.sync_api import Browser, expect

from bandit.config import Settings
from bandit.experiments import Arm, Experiment
from bandit.health import counted_of
from bandit.loop.counts import (
    COMPARED,
    COMPARED_REWARD,
    DAY,
    DRAWN,
    FEEDS,
    HOUR,
    MINUTE,
    N_SLOTS,
    REWARD,
    SEEN,
    SLOT_REWARD,
    WEIGHED,
    Stretch,
)
from bandit.loop.report import compared_reward_of, recent_of, target_of, total
from bandit.records import Item, ItemsRequest, RankRequest
from bandit.store.data import DataDirectory
from bandit.store.loop import stretches
from bandit.web.app import create_app
from bandit.web.pages.curves import (
    Bin,
    Curve,
    Point,
    Window,
    binned,
    explored_curves,
    feeds_of,
    period,
    reward_curves,
    slot_rows,
    time_ticks,
    when,
    window_of,
)
from bandit.web.pages.plot import chart, drawable, scale_of
from bandit.web.pages.scale import Linear
from bandit.web.sessions import COOKIE
from tests.browser import Watched
from tests.conftest import Api, Clock, Loop, make_key
from tests.looped import ITEMS, over, put, ranked
from tests.service import Reply, RunningService, send

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def words(reply: Reply, *, status: int = 200) -> str:
    """What a page says."""
    assert reply.status == status, reply.content[-2_000:]
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", reply.content.decode())))


def seen(api: Api, path: str = "/", **options: Any) -> str:
    return words(api.call("GET", path, headers=BROWSER), **options)


@contextmanager
def looped(path: Path, **settings: Any) -> Iterator[Loop]:
    """Service and trainer over a data directory of their own."""
    path.mkdir(exist_ok=True)
    clock = Clock()
    data = DataDirectory(Settings(path, durable=False, **settings), clock=clock)
    opened = Loop(data, clock)
    yield opened
    opened.close()
    data.close()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """A service that has learned something; whoever changes it puts it right again."""
    with looped(tmp_path_factory.mktemp("taught") / "data") as opened:
        ranked(opened, 400)
        over(opened)
        yield opened


@pytest.fixture(scope="module")
def fed(taught: Loop) -> Api:
    """The same, asked."""
    return Api(create_app(taught.service).test_client())


# ---------------------------------------------------------------- what it says


def test_a_fresh_service_says_what_to_do_first(api: Api) -> None:
    page = seen(api)
    assert "Nothing was ranked yet." in page
    assert "/v1/rank -d '{" in page
    assert "Try the demo feed" in page
    assert "What a slot earns" not in page


def test_its_words_and_numbers_are_those_of_the_loop(fed: Api, taught: Loop) -> None:
    page = seen(fed)
    reply = taught.service.loop()
    assert "It is learning." in page
    second = reply.sentences[0].text.partition(": ")[2]
    assert second[:1].upper() + second[1:] in page
    for sentence in reply.sentences[1:]:
        assert sentence.text in page
    assert "Against chance earns more" in page
    assert f"{reply.recent.feeds:,}" in page
    for item in ITEMS:
        assert str(item) in page
    published = taught.service.serving().newest
    assert published is not None
    assert f"{published[:8]} serves newest" in page


@pytest.mark.parametrize("query", ["?span=hour", "?span=day", "?span=all", "?span=no&items=no&old=x&new=-1&notice=x"])
def test_every_span_can_be_chosen(fed: Api, query: str) -> None:
    assert "What a slot earns" in seen(fed, f"/{query}")


def test_items_can_be_ordered_by_what_they_earn(fed: Api) -> None:
    page = seen(fed, "/?items=earned")
    places = [page.index(f" {item} ", page.index("first met")) for item in ("v9", "v0") if f" {item} " in page]
    assert places == sorted(places)


def test_programs_are_told_in_json(fed: Api) -> None:
    reply = fed.call("GET", "/", headers={"Accept": "application/json"})
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.body["verdict"] == "learning"
    assert reply.body["links"]["openapi"] == "/openapi.json"


def test_what_ids_and_titles_hold_never_becomes_markup(loop: Loop, api: Api) -> None:
    nasty = "<script>alert(1)</script>\"'"
    features = b'{"title": "<script>alert(2)</script>", "creator": "<img src=x>", "tags": ["</td><b>"]}'
    loop.service.put_items(ItemsRequest([Item(nasty, Raw(features))]))
    for _ in range(3):
        loop.service.rank(RankRequest(candidates=[nasty], slots=1))
    over(loop)
    reply = api.call("GET", "/", headers=BROWSER)
    assert "<script>alert(2)</script>" in words(reply), "it is shown, as text"
    assert b"<script>alert" not in reply.content
    assert b"<img" not in reply.content
    hosted = api.call("GET", "/", headers=BROWSER | {"Host": "localhost:1\"><script>"})
    assert b"<script>" not in hosted.content


# ---------------------------------------------------------------- config and experiment


def test_versions_of_the_config_can_be_compared(loop: Loop, api: Api) -> None:
    put(loop, slots=3)
    put(loop, slots=3, floor=0.5)
    page = seen(api, "/?old=1&new=2")
    assert '- "slots": 10,' in page
    assert '+ "slots": 3,' in page
    assert "floor" not in page[page.index("From version 1 to 2:") :]
    assert "nothing changed" in seen(api, "/?old=2&new=2")
    for wrong in ("old=1&new=99", "old=1", "old=%D9%A1&new=1", "old=1e3&new=" + "9" * 400):
        assert "There is no such version; there are 1 to 3." in seen(api, f"/?{wrong}")


def test_arms_of_an_experiment_are_told(loop: Loop, api: Api) -> None:
    assert "Experiment" not in seen(api)
    arms = [Arm("now", 0.5), Arm("greedy", 0.5, {"explorer": {"kind": "greedy"}})]
    put(loop, experiment=Experiment("quick", arms, "now"))
    assert "no feed has ended yet" in seen(api)
    ranked(loop, 60)
    over(loop)
    page = seen(api)
    assert "Experiment quick" in page
    assert re.search(r"now champion [0-9.]+ \([0-9.]+ to [0-9.]+\) 50 % \d+", page), page[page.index("quick") :][:500]


# ---------------------------------------------------------------- forms


class Keyed:
    """A service with keys on, and people who are signed in."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.api = Api(create_app(loop.service).test_client(use_cookies=False))
        self._keys = {scope: make_key(loop.data, scope, now=loop.clock.now) for scope in ("read", "admin")}

    def session(self, scope: str) -> dict[str, str]:
        body = urlencode({"key": self._keys[scope], "next": "/"}).encode()
        cookie = self.api.call("POST", "/signin", body, headers=FORM).headers["Set-Cookie"].partition(";")[0]
        assert cookie.startswith(COOKIE)
        return BROWSER | {"Cookie": cookie}

    def token(self, session: dict[str, str]) -> str:
        page = self.api.call("GET", "/", headers=session).content.decode()
        return page.partition('name="csrf-token" content="')[2].partition('"')[0]

    def send(self, path: str, session: dict[str, str], **fields: str) -> Reply:
        return self.api.call("POST", path, urlencode(fields).encode(), headers=FORM | session)

    def models(self) -> list[str]:
        return self.loop.service.serving().kept


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with looped(tmp_path_factory.mktemp("keyed") / "data", keys="on") as opened:
        ranked(opened, 60)
        yield Keyed(opened)


def test_with_keys_on_one_signs_in_first(keyed: Keyed) -> None:
    reply = keyed.api.call("GET", "/?span=all", headers=BROWSER)
    assert (reply.status, reply.headers["Location"]) == (303, "/signin?next=%2F%3Fspan%3Dall")
    assert keyed.api.call("GET", "/").status == 401
    assert "X-API-Key: KEY" in words(keyed.api.call("GET", "/", headers=keyed.session("read")))


def test_an_admin_rolls_back_and_releases(keyed: Keyed) -> None:
    session = keyed.session("admin")
    token = keyed.token(session)
    old = keyed.models()[1]
    assert f'value="{old}"' in keyed.api.call("GET", "/", headers=session).content.decode()
    reply = keyed.send("/models/rollback", session, csrf=token, to=old, reason="  it is\nworse ")
    assert (reply.status, reply.headers["Location"]) == (303, "/?notice=rolled-back#models")
    serving = keyed.loop.service.serving()
    assert (serving.pinned, serving.reason) == (old, "it is worse")
    page = words(keyed.api.call("GET", "/?notice=rolled-back", headers=session))
    assert "Done: the model that you chose serves" in page
    assert "rolled back by the operator: it is worse" in page
    reply = keyed.send("/models/release", session, csrf=token, reason="")
    assert (reply.status, reply.headers["Location"]) == (303, "/?notice=released#models")
    assert keyed.loop.service.serving().serves == "newest"


def test_who_may_only_read_can_change_nothing(keyed: Keyed) -> None:
    session = keyed.session("read")
    page = keyed.api.call("GET", "/", headers=session)
    assert b"/models/rollback" not in page.content
    assert "Rolling back needs a key with the scope admin" in words(page)
    reply = keyed.send("/models/rollback", session, csrf=keyed.token(session), to=keyed.models()[1])
    assert "needs a key with the scope 'admin'" in words(reply, status=403)
    assert keyed.loop.service.serving().pinned is None


@pytest.mark.parametrize("wrong", ["", "0" * 32, "of another"])
def test_a_form_without_the_token_of_the_session_is_refused_on_a_page(keyed: Keyed, wrong: str) -> None:
    session = keyed.session("admin")
    token = keyed.token(keyed.session("read")) if wrong == "of another" else wrong
    for path in ("/models/rollback", "/models/release"):
        reply = keyed.send(path, session, csrf=token, to=keyed.models()[1])
        assert "must come from a page of this service" in words(reply, status=403)
    assert keyed.loop.service.serving().pinned is None


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"to": "ffff0000"}, 404, "no kept model is 'ffff0000'"),
        ({"to": "a"}, 404, "too short"),
        ({"to": "<script>alert(1)</script>"}, 404, "no kept model is '<script>"),
        ({}, 400, "the form"),
        ({"to": "a" * 65}, 400, "the form"),
        ({"to": "abcd", "reason": "a" * 100_000}, 400, "the form"),
    ],
)
def test_a_form_that_cannot_be_followed_is_answered_on_a_page(
    keyed: Keyed, fields: dict[str, str], status: int, said: str
) -> None:
    session = keyed.session("admin")
    reply = keyed.send("/models/rollback", session, csrf=keyed.token(session), **fields)
    assert said.lower() in words(reply, status=status).lower()
    assert b"<script>alert" not in reply.content


def test_programs_are_refused_as_everywhere(api: Api) -> None:
    reply = api.call("POST", "/models/rollback", urlencode({"to": "ffff0000"}).encode(), headers=FORM)
    assert (reply.status, reply.body["error"]["code"]) == (404, "unknown_model")


# ---------------------------------------------------------------- what is broken


@pytest.fixture
def damaging(taught: Loop) -> Iterator[sqlite3.Connection]:
    """What was counted, to be damaged; it is put right in the end."""
    tables = ("loop_stretches", "loop_state")
    with closing(sqlite3.connect(taught.data.log.path, isolation_level=None)) as log:
        kept = {table: log.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        log.execute("PRAGMA ignore_check_constraints = ON")
        yield log
        for table, rows in kept.items():
            log.execute(f"DELETE FROM {table}")
            log.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE loop_stretches SET groups = x'00'",
        "UPDATE loop_stretches SET slots = 'no'",
        "UPDATE loop_stretches SET groups = 7",
        "UPDATE loop_stretches SET counts = '{'",
        "UPDATE loop_stretches SET gauges = '[]'",
        "UPDATE loop_state SET body = '{\"check\": 1}'",
        "UPDATE loop_state SET body = x'ff00'",
        "INSERT INTO loop_stretches SELECT span_s, 'x', counts, gauges, groups, slots FROM loop_stretches LIMIT 1",
    ],
)
def test_where_counts_are_damaged_the_rest_is_told(fed: Api, damaging: sqlite3.Connection, damage: str) -> None:
    damaging.execute(damage)
    page = seen(fed)
    assert "It cannot be said whether it is learning." in page
    assert "damaged" in page
    assert "Roll back" in page
    assert "What was in force when" in page
    assert fed.call("GET", "/healthz/loop").status == 503


def test_numbers_that_are_none_are_no_fault(fed: Api, damaging: sqlite3.Connection) -> None:
    for value in (np.nan, np.inf, -np.inf, 1e308):
        groups, slots = np.full((32, 11), value).tobytes(), np.full((20, 6), value).tobytes()
        damaging.execute("UPDATE loop_stretches SET groups = ?, slots = ?", (groups, slots))
        with np.errstate(all="ignore"):
            assert "Models" in seen(fed)


def test_tables_that_are_gone_are_no_fault_of_ours(loop: Loop, api: Api) -> None:
    ranked(loop, 20)
    over(loop)
    for table in ("tallies", "attribute_names", "loop_arms", "arm_models", "loop_stretches", "models", "trainer"):
        with closing(sqlite3.connect(loop.data.log.path)) as log, log:
            log.execute(f"ALTER TABLE {table} RENAME TO gone")
        assert "What was in force when" in seen(api), table
        with closing(sqlite3.connect(loop.data.log.path)) as log, log:
            log.execute(f"ALTER TABLE gone RENAME TO {table}")


def test_without_a_log_there_is_no_page_but_an_answer(api: Api, data: DataDirectory) -> None:
    path = data.log.path
    data.log.close()
    moved = path.rename(path.with_name("gone.db"))
    path.mkdir()
    page = seen(api, status=503)
    assert "It cannot be said whether it is learning." in page
    path.rmdir()
    moved.rename(path)


# ---------------------------------------------------------------- curves


def test_a_window_is_made_of_the_finest_stretches_that_are_kept() -> None:
    at = 20_000 * DAY + 5_000.0
    assert window_of("hour", at=at, since=0.0) == ("hour", MINUTE, at - at % MINUTE - HOUR, at)
    assert window_of("day", at=at, since=0.0) == ("day", HOUR, at - at % HOUR - DAY, at)
    for ago, step in ((HOUR, MINUTE), (4 * HOUR, HOUR), (10 * DAY, HOUR), (30 * DAY, DAY)):
        window = window_of("all", at=at, since=at - ago)
        assert (window.step_s, window.begin % step) == (step, 0)
        assert window.begin <= at - ago
    assert window_of("all", at=at, since=None).end == at
    assert window_of("all", at=at, since=at + 5).begin <= at


def stretch(feeds: float, worth: float = 0.0) -> Stretch:
    found = Stretch(counts={"feeds": feeds})
    found.groups[:, 0] = feeds / 32
    found.groups[:, 1] = feeds / 32
    found.groups[:, 2] = worth * feeds / 32
    return found


@pytest.mark.parametrize(("feeds", "n"), [(1_000.0, 31), (1.0, 10)])
def test_points_stand_for_enough(feeds: float, n: int) -> None:
    begin = 30_000_000 * MINUTE
    kept = {begin + k * MINUTE: stretch(feeds) for k in range(61)}
    window = window_of("hour", at=begin + 60.0 * MINUTE + 5, since=None)
    bins = binned(kept, window)
    assert n <= len(bins) <= n + 3
    assert sum(feeds_of(bins)) == pytest.approx(61 * feeds)
    assert bins[0].begin == window.begin
    assert all(one.end == other.begin for one, other in pairwise(bins))


def test_times_without_feeds_have_no_value() -> None:
    begin = 30_000_000 * MINUTE
    kept = {begin + k * MINUTE: stretch(500.0, 0.5) for k in (*range(10), *range(50, 60))}
    bins = binned(kept, window_of("hour", at=begin + 59.0 * MINUTE, since=None))
    (served,) = reward_curves(bins)
    values = [point.value for point in served.points]
    assert None in values
    assert {value for value in values if value is not None} == {0.5}
    assert served.whole.value == 0.5


def test_curves_are_what_the_loop_counts(taught: Loop) -> None:
    counted = counted_of(taught.data)
    window = window_of("all", at=counted.state.at, since=counted.state.since)
    bins = binned(stretches(taught.data.log, window.step_s, since=window.begin), window)
    everything = total(counted.days.values())
    curves = {curve.kind: curve for curve in reward_curves(bins)}
    assert set(curves) == {"served", "best", "caller", "chance"}
    served, chance = compared_reward_of(everything), target_of(everything, "chance")
    assert curves["served"].whole[1:] == pytest.approx(served)
    assert curves["chance"].whole[1:] == pytest.approx(chance)
    explored = explored_curves(bins)
    counts = recent_of(counted)[1].counts
    assert explored[0].whole.value == pytest.approx(counts["explored"] / counts["slots"])
    rows = slot_rows(everything)
    assert [row.number for row in rows] == [1, 2, 3]
    assert {row.drawn for row in rows} == {400}
    for row in rows:
        assert 0.0 < row.propensity <= 1.0
        assert row.chances == pytest.approx(11 - row.number, abs=0.01)


def test_what_is_hardly_known_is_pooled_until_it_says_something() -> None:
    rng = np.random.default_rng(5)
    window = Window("hour", MINUTE, 30_000_000.0 * MINUTE, 30_000_029.0 * MINUTE)
    kept = {}
    for k in range(30):
        one = Stretch(counts={"feeds": 3_200.0})
        n, product, weight = 100.0, *WEIGHED["chance"]
        one.groups[:, [FEEDS, N_SLOTS, COMPARED]] = n
        one.groups[:, [REWARD, COMPARED_REWARD]] = 0.5 * n + rng.normal(0.0, 1.0, (32, 1))
        one.groups[:, weight] = n
        one.groups[:, product] = 0.1 * n + rng.normal(0.0, 0.9 * n, 32)
        kept[int(window.begin) + k * MINUTE] = one
    bins = binned(kept, window)
    curves = {curve.kind: curve for curve in reward_curves(bins)}
    chance, half = curves["chance"], curves["chance"].pooled // 2
    assert half > 0
    assert curves["served"].pooled == 1
    place = len(bins) // 2
    around = total(one.stretch for one in bins[place - half : place + half + 1])
    assert chance.points[place][1:] == pytest.approx(target_of(around, "chance"))
    assert chance.whole[1:] == pytest.approx(target_of(total(kept.values()), "chance"))


def test_slots_that_were_never_drawn_are_left_out() -> None:
    one = Stretch()
    one.slots[0, [DRAWN, SEEN, SLOT_REWARD]] = 10, 5, 2.5
    one.slots[1, DRAWN] = np.nan
    one.slots[2, DRAWN] = 4
    rows = slot_rows(one)
    assert [(row.number, row.seen, row.reward) for row in rows] == [(1, 0.5, 0.5), (3, 0.0, None)]


def points(*values: float | None, width: float | None = None) -> list[Point]:
    return [
        Point(k + 0.5, value, *((None, None) if width is None or value is None else (value - width, value + width)))
        for k, value in enumerate(values)
    ]


def test_what_is_hardly_known_neither_sets_the_scale_nor_is_drawn() -> None:
    served = Curve("served", "served", points(0.4, 0.5, 0.45, 0.5, width=0.02), Point(2.0, 0.45))
    chance = Curve("chance", "chance", points(0.1, 0.2, 0.1, -9.0, width=0.05), Point(2.0, 0.1))
    wild = Curve("caller", "caller", points(9.0, -9.0, 9.0, -9.0, width=20.0), Point(2.0, 0.0))
    chance.points[3] = chance.points[3]._replace(low=-20.0, high=2.0)
    scale = scale_of([served, chance, wild])
    assert -0.5 < scale.low < scale.high < 1.0
    drawn = drawable([served, chance, wild], scale)
    assert [curve.kind for curve in drawn] == ["served", "chance"]
    assert [point.value for point in drawn[1].points] == [0.1, 0.2, 0.1, None]
    assert drawable([wild], Linear(0.0, 1.0)) == [wild], "the first is always drawn"


def test_a_chart_says_what_it_shows_and_holds_no_markup_of_others() -> None:
    bins = [Bin(float(k), k + 1.0, Stretch()) for k in range(3)]
    curve = Curve("<b>", "served", points(0.1, None, 0.3, width=0.05), Point(1.0, 0.2))
    svg = str(chart([curve], bins, title="A & B", feeds=[1.0, 0.0, 2.0]))
    assert "<b>" not in svg
    assert 'role="img"' in svg
    assert "&lt;b&gt;: 0.100 at first, 0.300 at last" in svg
    assert "style=" not in svg
    assert svg.count("<title>") == 3
    assert "nan" not in svg


@pytest.mark.parametrize("length", [60.0, 3_600.0, 86_400.0, 40 * 86_400.0, 4_000 * 86_400.0, 1e12, 0.0, np.nan])
def test_ticks_are_few_and_on_the_axis(length: float) -> None:
    begin = 1_800_000_123.0
    ticks = time_ticks(begin, begin + length)
    assert len(ticks) <= 8
    assert all(-1e-9 <= tick.at <= 1 + 1e-9 for tick in ticks)
    assert length in (0.0, 1e12) or np.isnan(length) or ticks


def test_times_that_no_calendar_holds_are_a_dash() -> None:
    assert when(1e20) == when(float("nan")) == "–"
    assert "–" in period(Bin(1e20, 1e20 + 60, Stretch()))


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("dashboard") / "data", durable="no") as started:
        config = started.call("GET", "/v1/config")
        body = config.body | {"reward_window_s": 0.5, "floor": 0.1}
        assert started.call("PUT", "/v1/config", body, headers={"If-Match": config.headers["ETag"]}).status == 200
        yield started


@pytest.fixture
def watched(running: RunningService, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Watched]:
    opened = Watched(browser, running.url, **getattr(request, "param", {}))
    yield opened
    assert opened.faults == []
    opened.close()


def feed(running: RunningService, n: int) -> None:
    """Feeds in which three of ten items are liked, answered at once."""
    rng = random.Random(n)
    connection = running.connect()
    with closing(connection):
        for number in range(n):
            candidates = rng.sample([str(item) for item in ITEMS], len(ITEMS))
            reply = send(connection, "POST", "/v1/rank", {"candidates": candidates, "slots": 3,
                                                          "user": {"id": f"u{number % 80}"}})  # fmt: skip
            items = [
                {"id": one["id"], "reward": float(one["id"] >= "v7"), "seen": True, "final": True}
                for one in reply.body["ranking"]
            ]
            body = {"event_id": reply.body["event_id"], "items": items}
            assert send(connection, "POST", "/v1/feedback", body).status == 202


def test_it_is_fed_and_says_so_without_being_loaded_again(watched: Watched, running: RunningService) -> None:
    page = watched.open("/")
    expect(page.locator("h1")).to_have_text("Nothing was ranked yet.")
    page.set_viewport_size({"width": 360, "height": 740})
    assert not watched.is_wider_than_its_window()
    assert page.locator(".copy button").count() == 3
    config = running.call("GET", "/v1/config")
    body = config.body | {"rules": []}
    assert running.call("PUT", "/v1/config", body, headers={"If-Match": config.headers["ETag"]}).status == 200
    feed(running, 450)
    expect(page.locator("h1")).to_have_text("It is learning.", timeout=30_000)
    assert page.locator("#curves").count() == 1
    assert page.locator(".copy").count() == 0
    assert not watched.is_wider_than_its_window()


@pytest.mark.parametrize(
    "watched", [{"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}], indirect=True
)
def test_by_keyboard_alone_a_model_is_rolled_back_and_released(watched: Watched, running: RunningService) -> None:
    page = watched.open("/")
    assert not watched.is_wider_than_its_window()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(80):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if page.evaluate("document.activeElement.matches('.back > summary')"):
            break
    wanted = page.evaluate("document.activeElement.parentElement.querySelector('[name=to]').value")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("tried by hand")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".done")).to_contain_text("the model that you chose serves")
    assert page.url.endswith("/?notice=rolled-back#models")
    serving = running.call("GET", "/v1/model").body["serving"]
    assert (serving["pinned"], serving["reason"]) == (wanted, "tried by hand")
    reply = running.call("POST", "/v1/rank", {"candidates": ["v1", "v2"]})
    assert reply.body["model_version"] == wanted
    page.get_by_role("button", name="Serve the newest again").click()
    expect(page.locator(".done")).to_contain_text("the newest model serves again")
    assert running.call("GET", "/v1/model").body["serving"]["pinned"] is None


@pytest.mark.parametrize("watched", [{"java_script_enabled": False}], indirect=True)
def test_without_javascript_all_of_it_can_be_used(watched: Watched) -> None:
    page = watched.open("/")
    page.get_by_role("link", name="Hour").click()
    assert page.url.endswith("/?span=hour")
    assert page.locator(".spans a[aria-current]").first.inner_text() == "Hour"
    assert page.locator("svg[role=img]").first.get_attribute("aria-label")
    page.get_by_role("button", name="What changed?").click()
    assert "reward_window_s" in page.locator(".diff").inner_text() or "rules" in page.locator(".diff").inner_text()


def test_what_somebody_is_typing_is_not_taken_away(watched: Watched) -> None:
    page = watched.open("/")
    page.locator(".back summary").first.click()
    page.locator(".back input[name=reason]").first.fill("not yet")
    page.locator("h1").click()
    page.evaluate("window.scrollTo(0, 0)")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(".refreshing")).to_contain_text("Refreshed every 5 seconds.")
    assert page.locator(".back input[name=reason]").first.input_value() == "not yet"
