"""Scrapes make room: they show that queues have become shorter."""

from __future__ import annotations

from extproc.picking.admission.admitting_picker import AdmittingPicker
from extproc.picking.scheduling.signals import Signals
from extproc.signals.scraper import SignalSink


class AdmittingSink:
    """Passes on what scrapes gave, then lets in who fits."""

    def __init__(self, inner: SignalSink, picker: AdmittingPicker) -> None:
        self._inner = inner
        self._picker = picker

    def scrape_started(self, key: str) -> None:
        self._inner.scrape_started(key)

    def scraped(self, key: str, sample: Signals, began: float) -> None:
        self._inner.scraped(key, sample, began)
        self._picker.scraped(key)

    def scrape_failed(self, key: str, error: str, alive: bool, now: float) -> None:
        self._inner.scrape_failed(key, error, alive, now)
        self._picker.scraped(key)
