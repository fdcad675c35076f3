from __future__ import annotations


def status() -> None:
    """x"""


def snapshot() -> None:
    """x"""


def picks() -> None:
    """x"""
