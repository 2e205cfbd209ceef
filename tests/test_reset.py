"""A fresh model by request: what serves, what is learned from then on, and what replay makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandit.learning.trainer import HalfLearned, Trainer
from bandit.service import Service
from bandit.store.bases import bases
from bandit.store.models import newest_models
from replay.rebuild import rebuild
from tests.conftest import Api, Loop
from tests.service import RunningService

V1 = "/personalizer/v1.0"


def learn(api: Api, loop: Loop, first: int, n: int = 20) -> None:
    for number in range(first, first + n):
        api.call("POST", f"{V1}/rank", {"actions": [{"id": "a"}, {"id": "b"}], "eventId": f"e{number}"})
        api.call("POST", f"{V1}/events/e{number}/reward", {"value": 1.0})
    loop.end_windows()


def learned(service: Service) -> int:
    return service.model().learned_slots


def test_what_was_learned_is_gone_and_learning_goes_on(api: Api, loop: Loop) -> None:
    learn(api, loop, 0)
    fresh = newest_models(loop.data.log, 100)[-1].digest
    assert learned(loop.service) == 20
    # Nobody steps the trainer meanwhile.
    assert loop.service.reset_model(wait_s=0.0) is False
    loop.learn()
    model = loop.service.model()
    assert (model.learned_slots, model.version) == (0, fresh)
    since = api.call("GET", f"{V1}/model/properties").body
    learn(api, loop, 20)
    assert learned(loop.service) == 20
    assert api.call("GET", f"{V1}/model/properties").body["creationTime"] == since["creationTime"]
    result = rebuild(loop.data.path)
    assert result.ok, result
    assert result.published > 1
    assert result.before > 0, "what was published before the reset cannot be built again, and is not asked for"


def test_events_that_are_open_teach_the_fresh_model(api: Api, loop: Loop) -> None:
    api.call("POST", f"{V1}/rank", {"actions": [{"id": "a"}, {"id": "b"}], "eventId": "e1"})
    loop.learn()
    loop.service.reset_model(wait_s=0.0)
    api.call("POST", f"{V1}/events/e1/reward", {"value": 1.0})
    loop.end_windows()
    assert learned(loop.service) == 1
    assert rebuild(loop.data.path).ok


def test_a_trainer_that_ends_goes_on_with_it(api: Api, loop: Loop) -> None:
    learn(api, loop, 0)
    loop.service.reset_model(wait_s=0.0)
    while loop.trainer.step():
        pass
    n_bases = len(bases(loop.data.log))
    loop.trainer.close()
    loop.trainer = Trainer(loop.data, clock=loop.clock)
    loop.learn()
    assert len(bases(loop.data.log)) == n_bases, "begun once"
    learn(api, loop, 20)
    assert learned(loop.service) == 20
    assert rebuild(loop.data.path).ok


def test_what_cannot_be_written_is_tried_again(api: Api, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(api, loop, 0)
    loop.service.reset_model(wait_s=0.0)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(type(loop.data.bases), "write", full)
        with pytest.raises(HalfLearned, match="no space left"):
            loop.learn()
    loop.trainer.close()
    loop.trainer = Trainer(loop.data, clock=loop.clock)
    loop.learn()
    assert learned(loop.service) == 0
    assert rebuild(loop.data.path).ok


def test_a_rollback_ends_with_it(api: Api, loop: Loop) -> None:
    learn(api, loop, 0)
    version = loop.service.model().version
    learn(api, loop, 20)
    api.call("POST", "/v1/model/rollback", {"to": version})
    loop.service.reset_model(wait_s=0.0)
    loop.learn()
    assert learned(loop.service) == 0
    assert loop.service.model().serving.serves == "newest"


def test_while_it_runs(tmp_path: Path) -> None:
    with RunningService(tmp_path / "data", durable="no") as running:
        assert running.call("DELETE", f"{V1}/model").status == 204
        assert running.call("GET", "/v1/model").body["learned_slots"] == 0
        ranked = running.call("POST", f"{V1}/rank", {"actions": [{"id": "a"}]})
        assert ranked.status == 201


def test_arms_that_learn_apart_all_begin_anew(api: Api, loop: Loop) -> None:
    config = api.call("GET", "/v1/config")
    arms = [{"name": "one", "share": 0.5}, {"name": "two", "share": 0.5, "config": {"default_reward": 1.0}}]
    experiment = {"name": "apart", "champion": "one", "arms": arms, "learn_from": "own"}
    body = config.body | {"experiment": experiment}
    reply = api.call("PUT", "/v1/config", body, headers={"If-Match": config.headers["ETag"]})
    assert reply.status == 200, reply.content
    learn(api, loop, 0, 40)
    loop.service.reset_model(wait_s=0.0)
    loop.learn()
    assert learned(loop.service) == 0
    learn(api, loop, 40, 40)
    assert 0 < learned(loop.service) < 40
    assert rebuild(loop.data.path).ok
