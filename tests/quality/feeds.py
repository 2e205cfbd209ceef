"""Scenarios in the simulated world of `replay.simulate`."""

from __future__ import annotations

from typing import Final

from tests.quality.scenario import Scenario

SCENARIOS: Final[list[Scenario]] = []
