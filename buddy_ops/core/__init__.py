"""No AWS, no notebook: ``errors``, ``plan``, ``outcome``, ``settings``, ``project``, ``rules``, ``journal``,
``redaction``, ``text``, ``progress``."""
