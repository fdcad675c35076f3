"""Pools, endpoints and profiles as JSON, made from the same objects that picks use."""

from __future__ import annotations

from extproc.config.profiles_file import ProfilesFile
from extproc.picking.fleet import Member, PoolView
from extproc.picking.scheduling.load import Load
from extproc.picking.scheduling.profile import Profile
from extproc.picking.scheduling.signals import SIGNAL_NAMES
from pools.model import AbsentEndpoint

Json = dict[str, object]


def pool_row(view: PoolView, now: float) -> Json:
    """One pool, for people."""
    pool = view.pool
    return {
        "pool": str(pool.name),
        "profile": view.profile.name,
        "failure_mode": pool.failure_mode.value,
        "endpoints": [member.candidate.key for member in view.members],
        "ready": [
            member.candidate.key
            for member in view.members
            if not member.candidate.endpoint.draining and member.share(now) > 0
        ],
        "in_flight": sum(member.candidate.in_flight for member in view.members),
        "models": sorted(view.resolver.names),
        "origin": str(pool.origin) if pool.origin is not None else None,
    }


def endpoint_row(member: Member, now: float) -> Json:
    """One endpoint: what it says, how old that is, and what picks make of it.

    ``waiting``, ``running`` and the like are as scraped (null: the server does not say); ``queue``
    and ``kv_usage_assumed`` are what picks see.
    """
    candidate, health = member.candidate, member.health
    endpoint, signals = candidate.endpoint, candidate.signals
    adapters, cache = signals.adapters, signals.cache
    fault = member.held or health.fault
    return {
        "endpoint": candidate.key,
        "name": endpoint.name,
        "pools": [str(view.name) for view in member.views],
        "labels": dict(endpoint.labels),
        "draining": endpoint.draining,
        "running": signals.running,
        "waiting": signals.waiting,
        "kv_usage": signals.kv_usage,
        "adapters": sorted(adapters.active) if adapters is not None else [],
        "adapters_waiting": sorted(adapters.waiting) if adapters is not None else [],
        "max_adapters": adapters.capacity if adapters is not None else None,
        "kv_block_size": cache.block_size if cache is not None else None,
        "kv_blocks": cache.blocks if cache is not None else None,
        "fresh": candidate.fresh,
        "age_s": {
            name: round(now - candidate.times[name], 3)
            for name in SIGNAL_NAMES
            if name in candidate.times
        },
        "scrapes": member.scrapes,
        "scrape_failures": member.scrape_failures,
        "scrape_error": member.scrape_error or None,
        "troubles": dict(member.troubles),
        "picked": candidate.picked,
        "in_flight": candidate.in_flight,
        "in_flight_tokens": candidate.tokens,
        "prefill_tokens": candidate.prefill_tokens,
        "expected_output_tokens": candidate.output_tokens,
        "adapters_loaded": sorted(candidate.adapters),
        "time_to_first_token_s": candidate.time_to_first_token,
        "slowness": round(candidate.slowness, 2),
        "error_rate": round(candidate.error_rate, 4),
        "sent_since_scrape": candidate.unseen,
        "queue": candidate.queue,
        "kv_usage_assumed": round(candidate.kv_usage, 4),
        "standing": member.standing(now).value,
        "share": round(member.share(now), 3),
        "last_fault": fault.value if fault is not None else None,
        "ejections": health.ejections,
    }


def load_row(member: Member, load: Load) -> Json:
    """What the prefix index knows of an endpoint."""
    index = load.index
    entries = index.entries_of(member.candidate)
    return {
        "prefix_entries": entries,
        "prefix_capacity": index.capacity_of(member.candidate),
        "prefix_told": load.exact.knows(member.candidate),
    }


def index_row(load: Load) -> Json:
    """How much is remembered of prompts."""
    index = load.index
    return {
        "entries": len(index),
        "max_entries": index.max_entries,
        "block_tokens": index.block_tokens,
    }


def absent_row(absent: AbsentEndpoint) -> Json:
    """A server that was described or found and gets nothing, and why."""
    return {
        "name": absent.name,
        "reason": absent.reason,
        "pool": str(absent.pool) if absent.pool is not None else None,
        "address": absent.address or None,
        "origin": str(absent.origin) if absent.origin is not None else None,
    }


def profile_row(profile: Profile) -> Json:
    """The steps of a profile, in their order."""
    prefill = profile.prefill
    return {
        "name": profile.name,
        "filters": [
            {"name": one.name, "because": one.because or None, "reasons": dict(one.reasons)}
            for one in profile.filters
        ],
        "scorers": [{"name": one.name, "weight": one.weight} for one in profile.scorers],
        "picker": profile.picker.name,
        "prefill": {
            "min_uncached_tokens": prefill.min_uncached_tokens,
            "profile": profile_row(prefill.profile),
        }
        if prefill is not None
        else None,
    }


def profiles_row(file: ProfilesFile | None) -> Json | None:
    """The profiles file, for people; None: there is none."""
    if file is None:
        return None
    return {
        "file": str(file.path),
        "default": file.current.default,
        "pools": {str(pool): name for pool, name in file.current.pools.items()},
        "problems": [str(problem) for problem in file.problems],
    }
