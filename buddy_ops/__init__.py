"""Buddy Ops: ship, watch, roll back and recover the Buddy skill. Import the room that you need; this imports none."""

__version__ = "0.1.0"
