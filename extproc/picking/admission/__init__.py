"""Admission: who is let in, who waits and who is refused when a pool is full.

All of it is pure: time comes from the caller, and so do the wake-ups.
"""
