"""Asking pods which models they serve, so that a request finds its pool by the model alone.

``GET /v1/models`` lists the base model and every adapter that is loaded, on vLLM, SGLang and
TensorRT-LLM alike. A pod that does not tell (it wants a key, or has no such path) keeps what it
told last, and why is shown where people look.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.picking.model_index import ModelIndex
from extproc.signals.fetch import Fetch, ScrapeError, fetch_within

PATH = "/v1/models"
QUESTION = "models"
"""What this is called where people look."""
TIMEOUT = 2.0
"""Seconds for one answer."""


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_DECODER = msgspec.json.Decoder(_Models)


def model_names(body: bytes) -> list[str]:
    """The names in an answer of the OpenAI API's model list. Raises ValueError if it is none."""
    return [model.id for model in _DECODER.decode(body).data]


class ServedModels:
    """Puts what pods tell into the index; to be called by a
    :class:`extproc.signals.polling.Poller`."""

    def __init__(
        self, index: ModelIndex, fetch: Fetch, troubled: Callable[[str, str, str], None]
    ) -> None:
        """``troubled`` is called with an endpoint's key, :data:`QUESTION`, and why it was not
        answered (empty: it was)."""
        self._index = index
        self._fetch = fetch
        self._troubled = troubled

    async def __call__(self, key: str, address: str) -> None:
        try:
            url = f"http://{address}{PATH}"
            names = model_names(await fetch_within(self._fetch, url, TIMEOUT))
        except (ScrapeError, ValueError) as error:
            self._index.silent(key)
            self._troubled(key, QUESTION, str(error))
        else:
            self._index.reported(key, names)
            self._troubled(key, QUESTION, "")
