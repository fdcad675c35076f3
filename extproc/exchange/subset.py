"""The subset hint: which endpoints a gateway allows (endpoint picker protocol).

See :mod:`pools.contract` for its names and for where it is written.
"""

from __future__ import annotations

from extproc.wire import ext_proc_pb2 as pb
from pools.contract import SUBSET_KEY, SUBSET_NAMESPACE


def subset_of(metadata: pb.Metadata) -> tuple[str, ...] | None:
    """``ip`` or ``ip:port``, in the gateway's order; None where there is no hint.

    The protocol asks for a list; some gateways send a comma-joined string. A hint of any other
    type allows nothing, like an empty list: sending the request anywhere might break what the hint
    is there for.
    """
    hints = metadata.filter_metadata
    if SUBSET_NAMESPACE not in hints:
        return None
    fields = hints[SUBSET_NAMESPACE].fields
    if SUBSET_KEY not in fields:
        return None
    value = fields[SUBSET_KEY]
    kind = value.WhichOneof("kind")
    if kind == "list_value":
        entries = [item.string_value for item in value.list_value.values]
    elif kind == "string_value":
        entries = value.string_value.split(",")
    elif kind == "null_value":
        return None
    else:
        entries = []
    return tuple(entry for entry in map(str.strip, entries) if entry)
