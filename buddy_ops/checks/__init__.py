"""Read-only questions: ``status`` (what is live), ``setup`` (doctor), ``checklists``, ``readiness``.

All four run their checks with ``findings``.
"""
