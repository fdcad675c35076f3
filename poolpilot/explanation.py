"""One decision in words and tables: who was considered, who was left out and why, who won."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]


def explanation(decision: Json) -> RenderableType:
    """``decision`` is what ``/debug/decisions/ID`` answers."""
    parts: list[RenderableType] = [_head(decision), Text()]
    if decision.get("considered"):
        parts += [_steps(decision), Text(), _candidates(decision)]
    else:
        parts.append(
            Text("Its candidates were not kept: large pools keep those of one decision in 16.")
            if decision["candidates"]
            else Text("There were no endpoints to choose from.")
        )
    return Group(*parts, Text(), _end(decision))


def line(decision: Json) -> str:
    """One decision on one line, for following them."""
    endpoint = (decision.get("endpoints") or ["-"])[0]
    target = decision["target_model"]
    model = decision["model"] if target in ("", decision["model"]) else target
    told = [f"{decision['queued_ms']:.0f} ms queued"] if decision["queued_ms"] >= 1 else []
    if prompt := decision.get("prompt_tokens"):
        told.append(f"{decision['cached_tokens'] / prompt:.0%} of {prompt} tokens cached")
    time = decision["at"].partition("T")[2]
    return (
        f"{time}  {decision['id']}  {model}  {decision['outcome']}  {endpoint}  {', '.join(told)}"
    ).rstrip()


def _head(decision: Json) -> Text:
    outcome = decision["outcome"]
    text = Text()
    text.append(f"{decision['id']}", style="bold")
    text.append(f" at {decision['at']} UTC, request {decision['request_id'] or '(no id)'}\n")
    text.append(
        f"pool {decision['pool']}, profile {decision['profile']}, model {decision['model']}"
    )
    if decision["target_model"] not in ("", decision["model"]):
        text.append(f" as {decision['target_model']}")
    text.append(f", priority {decision['priority']}\n")
    if outcome == "routed":
        first, *others = decision["endpoints"]
        text.append(f"sent to {first}", style="bold")
        if others:
            text.append(f", or else {', '.join(others)}")
        if prefill := decision.get("prefill_endpoint"):
            text.append(f"; prefilled at {prefill}")
        text.append(
            f"\nabout {decision['prompt_tokens']} prompt tokens, {decision['cached_tokens']} of "
            f"them cached there; {decision['expected_output_tokens']} output tokens expected"
        )
    else:
        text.append(f"refused: {outcome} ({decision['status']})", style="bold red")
        text.append(f" {decision.get('message', '')}")
    text.append(
        f"\nwaited {decision['queued_ms']:g} ms, decided in {decision['decided_in_us']:g} us"
    )
    return text


def _steps(decision: Json) -> Table:
    table = _table("step", "kept", "left out", "because")
    for step in decision["steps"]:
        removed = step.get("removed", [])
        table.add_row(
            step["name"],
            str(len(step["kept"])) if step["kept"] else step.get("note", ""),
            _few(removed),
            step.get("because", ""),
        )
    return table


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _candidates(decision: Json) -> Table:
    scorers = decision.get("scored_by", [])
    total = decision.get("scores", {})
    table = _table(
        "endpoint",
        "queue",
        "KV",
        "in flight",
        "to prefill",
        "cached",
        *[f"{one['scorer']} x{one['weight']:g}" for one in scorers],
        *(["total"] if total else []),
    )
    picked = (decision.get("endpoints") or [""])[0]
    rows = sorted(decision["considered"], key=lambda row: -total.get(row["endpoint"], -1.0))
    for row in rows:
        key = row["endpoint"]
        table.add_row(
            key,
            str(row["queue"]),
            f"{row['kv_usage']:.0%}",
            str(row["in_flight"]),
            str(row["prefill_tokens"]),
            str(row["cached_tokens"]),
            *[_score(one["scores"].get(key)) for one in scorers],
            *([_score(total.get(key))] if total else []),
            style="bold" if key == picked else None,
        )
    return table


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _end(decision: Json) -> Text:
    completed = decision["completed"]
    if decision["outcome"] != "routed":
        return Text("The client was told so at once.")
    if completed is None:
        return Text("It has not ended yet, or nobody reported its end.")
    served = completed["served"] or "nobody"
    text = f"answered {completed['code']} by {served} after {completed['duration_s']:.3f} s"
    if completed["attempts"] > 1:
        text += f", {completed['attempts']} attempts"
    if completed["flags"]:
        text += f", Envoy's flags {','.join(completed['flags'])}"
    if completed["completion_tokens"] is not None:
        text += (
            f"; {completed['prompt_tokens']} prompt tokens ({completed['cached_tokens'] or 0} "
            f"cached), {completed['completion_tokens']} output tokens"
        )
    return Text(text)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading)
    return table
