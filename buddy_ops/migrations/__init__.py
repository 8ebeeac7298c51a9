"""Table schemas: ``definitions`` (the file a team edits), ``schema`` (compatibility), ``steps``."""
