"""Run by the peers' Python alone: one learner of another package on the requests of a file. Imports nothing of ours.

    python peer_program.py PACKAGE:LEARNER TASK.json

A task holds `requests`: dicts of `viewer` (index), `x` (names of what is known of viewer and moment), `films` (indices)
and `rewards`; `films`: the features of each film; `slots`; `seed`. What is printed last is `{"rewards": [...]}`,
the share of the shown that was liked, by request. A learner hears of the shown alone, after each request.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings

import numpy as np

warnings.filterwarnings("ignore")
logging.disable(logging.INFO)


def one_hot(task):
    """Shape (n_requests, d): a constant, and a column for each name in `x`."""
    names = sorted({name for request in task["requests"] for name in request["x"]})
    at = {name: place + 1 for place, name in enumerate(names)}
    x = np.zeros((len(task["requests"]), len(names) + 1))
    x[:, 0] = 1.0
    for row, request in enumerate(task["requests"]):
        x[row, [at[name] for name in request["x"]]] = 1.0
    return x


class Mabwiser:
    """mabwiser's MAB with an arm for each film: expectations of the candidates, the best are shown."""

    def __init__(self, name, task):
        from mabwiser.mab import MAB, LearningPolicy, NeighborhoodPolicy

        policies = {
            "egreedy": (LearningPolicy.EpsilonGreedy(0.1), None),
            "ucb1": (LearningPolicy.UCB1(0.3), None),
            "ts": (LearningPolicy.ThompsonSampling(), None),
            "softmax": (LearningPolicy.Softmax(0.1), None),
            "popularity": (LearningPolicy.Popularity(), None),
            "linucb": (LearningPolicy.LinUCB(alpha=0.3, l2_lambda=5.0), None),
            "lints": (LearningPolicy.LinTS(alpha=0.2, l2_lambda=5.0), None),
            "lingreedy": (LearningPolicy.LinGreedy(epsilon=0.05, l2_lambda=5.0), None),
            "clusters": (LearningPolicy.UCB1(0.3), NeighborhoodPolicy.Clusters(4)),
        }
        policy, neighbours = policies[name]
        self.contextual = name.startswith("lin") or neighbours is not None
        arms = list(range(len(task["films"])))
        self.mab = (
            MAB(arms, policy, neighbours, seed=task["seed"]) if neighbours else MAB(arms, policy, seed=task["seed"])
        )
        self.rng = np.random.default_rng(task["seed"])
        self.fitted = False

    def rank(self, request, x, films, slots):
        if not self.fitted:
            return self.rng.permutation(len(films))[:slots]
        expected = self.mab.predict_expectations([x]) if self.contextual else self.mab.predict_expectations()
        scores = np.array([expected[film] for film in films])
        return np.lexsort((self.rng.random(len(films)), -scores))[:slots]

    def learn(self, request, x, shown, rewards):
        given = [np.tile(x, (len(shown), 1))] if self.contextual else []
        (self.mab.partial_fit if self.fitted else self.mab.fit)(shown, rewards, *given)
        self.fitted = True


class Mab2rec:
    """mab2rec's BanditRecommender with an arm for each film; what is no candidate is excluded."""

    def __init__(self, name, task):
        from mab2rec import BanditRecommender, LearningPolicy

        policies = {
            "egreedy": LearningPolicy.EpsilonGreedy(0.1),
            "ucb1": LearningPolicy.UCB1(0.3),
            "ts": LearningPolicy.ThompsonSampling(),
            "lints": LearningPolicy.LinTS(alpha=0.2, l2_lambda=5.0),
            "lingreedy": LearningPolicy.LinGreedy(epsilon=0.05, l2_lambda=5.0),
        }
        self.contextual = name.startswith("lin")
        self.rec = BanditRecommender(policies[name], top_k=task["slots"], seed=task["seed"])
        self.n = len(task["films"])
        self.rec.set_arms(list(range(self.n)))
        self.rng = np.random.default_rng(task["seed"])
        self.fitted = False

    def rank(self, request, x, films, slots):
        if not self.fitted:
            return self.rng.permutation(len(films))[:slots]
        others = sorted(set(range(self.n)) - set(films))
        recommended = self.rec.recommend([x], excluded_arms=[others])
        return np.array([films.index(film) for film in recommended])

    def learn(self, request, x, shown, rewards):
        given = [np.tile(x, (len(shown), 1))] if self.contextual else []
        (self.rec.partial_fit if self.fitted else self.rec.fit)(shown, rewards, *given)
        self.fitted = True


class Obp:
    """obp's policies with an action for each film: a ranking of all, of which the candidates are kept in order."""

    def __init__(self, name, task):
        from obp import policy

        n, d = len(task["films"]), task["x"].shape[1]
        common = {"n_actions": n, "len_list": n, "random_state": task["seed"], "batch_size": 1}
        made = {
            "egreedy": lambda: policy.EpsilonGreedy(**common, epsilon=0.1),
            "bernoullits": lambda: policy.BernoulliTS(**common),
            "linegreedy": lambda: policy.LinEpsilonGreedy(**common, dim=d, epsilon=0.1),
            "linucb": lambda: policy.LinUCB(**common, dim=d, epsilon=0.3),
            "lints": lambda: policy.LinTS(**common, dim=d),
        }
        self.policy = made[name]()
        self.contextual = name.startswith("lin")

    def rank(self, request, x, films, slots):
        order = self.policy.select_action(x[None, :]) if self.contextual else self.policy.select_action()
        place = {film: at for at, film in enumerate(films)}
        kept = [place[film] for film in np.asarray(order).tolist() if film in place]
        return np.array(kept[:slots])

    def learn(self, request, x, shown, rewards):
        for film, reward in zip(shown, rewards, strict=True):
            if self.contextual:
                self.policy.update_params(film, reward, x[None, :])
            else:
                self.policy.update_params(film, reward)


class Coba:
    """coba's learners with the films' features as actions; a list is drawn slot by slot from what is left."""

    def __init__(self, name, task):
        import coba

        features = [1, "a", "ax"]
        made = {
            "linucb": lambda: coba.LinUCBLearner(alpha=0.3, features=features),
            "lints": lambda: coba.LinTSLearner(v=0.2, features=features),
            "egreedy": lambda: coba.VowpalEpsilonLearner(epsilon=0.05, features=features, seed=task["seed"]),
            "squarecb": lambda: coba.VowpalSquarecbLearner(features=features, seed=task["seed"]),
            "softmax": lambda: coba.VowpalSoftmaxLearner(features=features, seed=task["seed"]),
            "regcb": lambda: coba.VowpalRegcbLearner(features=features, seed=task["seed"]),
            "rnd": lambda: coba.VowpalRndLearner(features=features, seed=task["seed"]),
            "bag": lambda: coba.VowpalBagLearner(features=features, seed=task["seed"]),
            "cover": lambda: coba.VowpalCoverLearner(features=features, seed=task["seed"]),
        }
        from coba.safety import SafeLearner

        self.learner = SafeLearner(made[name]())
        self.films = task["films"]
        self.dense = name.startswith("lin")
        if self.dense:
            # With the films' ids the matrix of the crosses would take 31 GiB.
            names = sorted({key for film in self.films for key in film if not key.startswith("id=")})
            self.films = [tuple(float(film.get(key, 0)) for key in names) for film in self.films]
        self.rng = np.random.default_rng(task["seed"])

    def rank(self, request, x, films, slots):
        self.context = tuple(x.tolist()) if self.dense else dict.fromkeys(request["x"], 1)
        self.actions = [self.films[film] for film in films]
        left = list(range(len(films)))
        shown, self.told = [], []
        for _ in range(slots):
            actions = [self.actions[at] for at in left]
            action, probability, kwargs = self.learner.predict(self.context, actions)[:3]
            place = next(at for at, each in enumerate(actions) if each == action)
            self.told.append((action, probability, kwargs))
            shown.append(left.pop(place))
        return np.array(shown)

    def learn(self, request, x, shown, rewards):
        for (action, probability, kwargs), reward in zip(self.told, rewards, strict=True):
            self.learner.learn(self.context, action, reward, probability, **kwargs)


PACKAGES: dict = {"mabwiser": Mabwiser, "mab2rec": Mab2rec, "obp": Obp, "coba": Coba}


def main(learner, path):
    package, _, name = learner.partition(":")
    with open(path) as file:
        task = json.load(file)
    x = task["x"] = one_hot(task)
    policy = PACKAGES[package](name, task)
    got = []
    for row, request in enumerate(task["requests"]):
        places = policy.rank(request, x[row], request["films"], task["slots"])
        rewards = [request["rewards"][place] for place in places]
        assert len(set(places.tolist())) == task["slots"], places
        got.append(sum(rewards) / len(rewards))
        policy.learn(request, x[row], [request["films"][place] for place in places], rewards)
    print(json.dumps({"rewards": got}))


if __name__ == "__main__":
    main(*sys.argv[1:])
