"""From counts to a verdict.

``metrics`` and ``logs`` read CloudWatch, ``evidence`` feeds ``judge`` (whose arithmetic is ``sequential_test``),
``alarms`` defines the CloudWatch alarms, ``monitor`` shows the key metrics of any window.
"""
