"""What each command's exit codes mean. The documentation is made from it, and tests compare it with the commands."""

from collections.abc import Mapping

DONE = "done"
FAILED = "FAILED: an AWS call or a file failed; the error says what was changed"
INVALID = "INVALID INPUT: wrong usage, or something that does not exist; nothing was changed"
REFUSED = "REFUSED: not approved, or not allowed; nothing was changed"

_ANY = {1: FAILED, 2: INVALID}
_LOCAL = {2: INVALID}

COMMANDS: Mapping[str, Mapping[int, str]] = {
    "run": {
        0: "SUCCEEDED",
        **_ANY,
        1: f"{FAILED}; or the run was interrupted, also by a signal",
        3: "ROLLED BACK or ABORTED: the runbook worked, and the new version was rolled back",
        4: "REFUSED: approval, freeze, rules, another rollout, or a failed smoke test; no traffic was shifted",
        5: "INCONCLUSIVE: too little evidence in time, or both versions fail; stable receives all traffic",
        6: "ACTION NEEDED: a runbook that only reads found that a person must act",
    },
    "init": {
        0: "done, a dry run, or nothing to write",
        **_ANY,
        4: "REFUSED: no person confirmed an upgrade; nothing was changed",
    },
    "runbooks": {0: DONE, **_LOCAL},
    "rollback": {0: "ROLLED BACK, already rolled back, or a dry run", **_ANY, 4: REFUSED},
    "freeze": {0: DONE, **_ANY},
    "unfreeze": {0: DONE, **_ANY},
    "reenable": {0: "re-enabled, nothing was isolated, or a dry run", **_ANY, 4: REFUSED},
    "status": {
        0: "OK: every check was made and passed",
        1: "UNKNOWN: a check could not be made; or FAILED",
        2: INVALID,
        6: "action is needed; the first next step says which",
    },
    "doctor": {
        0: "OK: every check was made, and found no problem",
        1: "a problem, or a check that could not be made; or FAILED",
        2: INVALID,
        4: "REFUSED: --prove was not approved; nothing was changed",
    },
    "fleet status": {
        0: "OK: every check of every target was made and passed",
        1: "UNKNOWN: a check of a target could not be made; or FAILED",
        2: INVALID,
        6: "action is needed for at least one target",
    },
    "fleet rollback": {
        0: "ROLLED BACK: every alias was read again and serves its rollback target alone; or a dry run",
        **_ANY,
        1: f"{FAILED}; or at least one target is not rolled back",
        4: REFUSED,
    },
    "fleet audit": {
        0: "READY: a rollback of every target would work now",
        1: "UNKNOWN: a check of a target could not be made; or FAILED",
        2: INVALID,
        6: "NOT READY: at least one target has a problem",
    },
    "lab": {0: "JupyterLab was stopped", **_ANY},
    "demo": {0: "both runs ended as expected", **_ANY},
    "version": {0: DONE, **_LOCAL},
    "sandbox start": {0: DONE, **_ANY},
    "sandbox stop": {0: DONE, **_ANY},
    "sandbox status": {0: DONE, **_ANY},
    "sandbox scenario": {0: DONE, **_ANY},
    "sandbox set": {0: DONE, **_ANY},
    "runs list": {0: DONE, **_ANY},
    "runs show": {0: DONE, **_ANY},
    "runs verify": {
        0: "OK: all files match their checksums, and all signatures are right",
        1: "changed, missing, unsigned or unknown; or FAILED",
        2: INVALID,
    },
    "runs sign": {0: DONE, **_ANY, 4: "REFUSED: it has a signature already"},
    "runs index": {0: DONE, **_ANY},
    "runs prune": {
        0: "done, a dry run, answered with no, or nothing to delete",
        **_ANY,
        4: "REFUSED: no person could be asked, so nothing was deleted; or Object Lock keeps some of the runs",
    },
    "runs diff": {0: "compared, whether or not they differ", **_ANY},
}
"""The exit codes of each command by its words."""
