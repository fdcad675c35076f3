"""What one engine step costs: the only place where speed is decided."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class CostModel:
    """Linear step times, fitted to published runs of a 32B model on two H100 (docs/simulate.md).

    A step that computes ``p`` prompt tokens beside ``n`` decoding sequences takes
    ``p / prefill_tokens_per_second`` plus, where ``n > 0``, ``base + per_sequence * n``; never less
    than ``base``, the time that reading the weights takes. An adapter that must first be brought
    into a slot stalls the step that needs it, as it does in vLLM.
    """

    prefill_tokens_per_second: float = 13_000.0
    decode_base_seconds: float = 0.012
    decode_per_sequence_seconds: float = 0.0003
    adapter_load_seconds: float = 0.2

    def __post_init__(self) -> None:
        if not self.prefill_tokens_per_second > 0:
            raise ValueError("prefill_tokens_per_second must be above 0")
        if not self.decode_base_seconds > 0:
            raise ValueError("decode_base_seconds must be above 0, or steps would take no time")
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < float("inf"):
                raise ValueError(f"{field.name} must be a finite number that is not negative")

    def step_seconds(self, prefill_tokens: int, decodes: int, adapter_loads: int = 0) -> float:
        """How long a step takes, in seconds."""
        seconds = prefill_tokens / self.prefill_tokens_per_second
        if decodes:
            seconds += self.decode_base_seconds + self.decode_per_sequence_seconds * decodes
        elif seconds < self.decode_base_seconds:
            seconds = self.decode_base_seconds
        return seconds + adapter_loads * self.adapter_load_seconds

    def slower(self, factor: float) -> CostModel:
        """The same pod on hardware that takes ``factor`` times as long for everything."""
        return replace(
            self,
            prefill_tokens_per_second=self.prefill_tokens_per_second / factor,
            decode_base_seconds=self.decode_base_seconds * factor,
            decode_per_sequence_seconds=self.decode_per_sequence_seconds * factor,
            adapter_load_seconds=self.adapter_load_seconds * factor,
        )
