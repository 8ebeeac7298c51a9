"""Read-only questions: ``status`` (what is live), ``setup`` (doctor), ``checklists``, ``readiness``."""
