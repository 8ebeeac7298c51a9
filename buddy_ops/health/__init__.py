"""Counts to verdict: ``metrics``, ``judge``, ``evidence``, ``alarms``, ``monitor``."""
