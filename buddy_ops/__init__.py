"""Buddy Ops: ship, watch, roll back and recover Lambda functions. Import the module that you need; it imports none."""

__version__ = "0.1.0"

import os

# pydantic would look for plugins of its own in the metadata of every installed package: 25 ms of every rollback.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
