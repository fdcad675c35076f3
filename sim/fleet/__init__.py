"""A fleet of simulated pods on a virtual clock, behind the picking core of production.

No socket, task or clock: time is a number that jumps from event to event.
"""
