"""The roles of people and pipelines in an AWS account."""

from typing import Literal

Role = Literal["reader", "auditor", "responder", "deployer"]
