"""Read-only questions: ``status`` (what is live), ``setup`` (doctor), ``checklists``, ``readiness``.

All four run their checks with ``findings``. ``proof`` (doctor --prove) also writes, to scratch resources only;
``proof_report`` archives what it found.
"""
