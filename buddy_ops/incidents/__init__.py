"""From damage to review:
``assessment``, ``containment``, ``damage``, ``repair``, ``schema_rollback``, ``timeline``, ``review``."""
