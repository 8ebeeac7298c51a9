"""Execute notebooks and keep what they did: ``supervisor``, ``engine``, ``execution``, ``archive``, ``stores``,
``pages``, ``diff``.
"""
