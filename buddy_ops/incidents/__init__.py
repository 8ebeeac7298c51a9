"""Incidents: assess, contain, repair, roll back across a migration, and review.

Public modules: ``assessment``, ``containment``, ``damage``, ``repair``, ``schema_rollback``, ``timeline``, ``review``.
"""
