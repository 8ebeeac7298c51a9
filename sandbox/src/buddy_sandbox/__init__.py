"""An embedded AWS for Buddy: one process on a loopback port, with simulated traffic and virtual time.

moto keeps what it keeps well (SSM, SNS, SQS, S3, IAM, STS, DynamoDB). What the runbooks depend on and moto lacks is
served by modules of our own: ``functions`` (Lambda), ``cloudwatch``, ``logs``, ``scheduler``. Nothing outside this
package imports it, except the command line.
"""
