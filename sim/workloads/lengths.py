"""Distributions of lengths and times."""

from __future__ import annotations

import enum
import math
import random
from dataclasses import dataclass


class Shape(enum.StrEnum):
    FIXED = "fixed"
    NORMAL = "normal"
    LOGNORMAL = "lognormal"
    EXPONENTIAL = "exponential"


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution given by its own mean and standard deviation, cut to ``low`` .. ``high``."""

    shape: Shape
    mean: float
    deviation: float = 0.0
    low: float = 1.0
    high: float = math.inf

    def draw(self, rng: random.Random) -> float:
        match self.shape:
            case Shape.FIXED:
                value = self.mean
            case Shape.NORMAL:
                value = rng.gauss(self.mean, self.deviation)
            case Shape.LOGNORMAL:
                variance = math.log(1 + (self.deviation / self.mean) ** 2)
                value = rng.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))
            case Shape.EXPONENTIAL:
                value = rng.expovariate(1 / self.mean)
        return min(self.high, max(self.low, value))

    def count(self, rng: random.Random) -> int:
        """Drawn as a whole number."""
        return round(self.draw(rng))


NONE = Spread(Shape.FIXED, 0, low=0)
ONE = Spread(Shape.FIXED, 1)


def lognormal(mean: float, deviation: float, low: float, high: float) -> Spread:
    return Spread(Shape.LOGNORMAL, mean, deviation, low, high)
