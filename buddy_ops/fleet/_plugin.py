"""The plugin of Dask's that brings a copy of files to each worker, also to those that come later."""

from distributed import WorkerPlugin

from buddy_ops.fleet.shipping import Copy


class CopyPlugin(WorkerPlugin):  # type: ignore[misc]  # distributed is not followed: see pyproject.toml
    """Holds a copy; a step unpacks it."""

    # The name is the content's hash: a plugin of this name holds the same bytes, and Dask need not send them again.
    idempotent = True

    def __init__(self, copy: Copy) -> None:
        self.copy = copy
        self.name = copy.name
