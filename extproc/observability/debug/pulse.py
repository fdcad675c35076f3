"""What tells that a page has become another one."""

from __future__ import annotations

from extproc.config.profiles_file import ProfilesFile
from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.director import Director
from inspection.live import Pulse


def pulse(
    director: Director,
    now: float,
    profiles: ProfilesFile | None = None,
    admission: AdmittingPicker | None = None,
) -> Pulse:
    """What :class:`inspection.live.Live` compares. Endpoints and queues change all the time: they
    are told of once a second."""
    world = director.world
    return {
        "world": (world.revision if world is not None else None, director.world_error),
        "fleet": int(now),
        "decisions": (director.decisions.number, len(director.ledger)),
        "queues": int(now) if admission is not None else None,
        "profiles": (id(profiles.current), profiles.problems) if profiles is not None else None,
    }
