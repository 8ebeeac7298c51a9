"""No AWS, no notebook: ``errors``, ``plan``, ``checklist``, ``outcome``, ``settings``, ``parameters``, ``project``,
``rules``, ``journal``, ``files``, ``extras``, ``redaction``, ``text``, ``progress``.
"""
