"""The one door to AWS: ``session``, ``clock``, ``errors``, ``aliases``, ``failsafe``, ``freezes``,
``isolation``, ``tables``,
``notifications``, ``permissions``, ``checklist_store``."""
