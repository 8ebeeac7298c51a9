"""The one door to AWS: ``session``, ``clock``, ``errors``, ``aliases``, ``versions``, ``failsafe``, ``freezes``,
``isolation``, ``tables``, ``notifications``, ``permissions``, ``checklist_store``, ``dead_letters``."""
