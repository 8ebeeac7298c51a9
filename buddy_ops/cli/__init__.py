"""The ``buddy-ops`` command: ``main`` (the command itself), ``demo``, ``sandbox`` (the local AWS sandbox
from outside)."""
