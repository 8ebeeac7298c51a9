"""Pictures that are kept up to date while something runs: a rollout, or the metrics of what serves.

Knows how to wait with a person at the buttons. Each poll runs in a worker thread, so that the front end stays answered.
"""

import asyncio

from buddy_ops.aws.clock import in_thread
from buddy_ops.aws.session import Target
from buddy_ops.core.outcome import Outcome
from buddy_ops.core.plan import Approval
from buddy_ops.deployment.announcements import announce_rollout
from buddy_ops.deployment.observation import Observation, Order, Rollout
from buddy_ops.deployment.rollout import run_rollout
from buddy_ops.deployment.rollout_plan import RolloutPlan
from buddy_ops.health import monitor
from buddy_ops.health.metrics import MINUTE
from buddy_ops.health.monitor import MetricsWindow
from buddy_ops.notebook import _widgets, controls
from buddy_ops.notebook.charts import RolloutChart


async def deploy_and_watch(target: Target, plan: RolloutPlan, approval: Approval) -> Outcome:
    """Run an approved deployment under a live chart, and notify the team when it starts and when it ends.

    AWS, Raises: as ``run_rollout``.
    """
    rollout = run_rollout(target, plan, approval)
    return await watch_rollout(target, announce_rollout(target, plan, rollout))


async def watch_rollout(target: Target, rollout: Rollout) -> Outcome:
    """Drive a rollout to its end under a picture that updates in place; leaves exactly one picture in the notebook.

    Each poll runs in a worker thread, since an AWS call may block for 30 s, and each frame is drawn in one; so the
    buttons above the picture answer at once, where a person is there to press them. Interrupting leaves the alias as it
    is, under its lease; running the cell again resumes.
    """
    picture, given = RolloutChart(target), controls.attach_controls(target)
    order: Order | None = None
    try:
        while True:
            observation, outcome = await in_thread(_step, rollout, order)
            if outcome is not None:
                picture.end(outcome)
                return outcome
            assert observation is not None
            picture.add(observation)
            await in_thread(picture.show)
            order = await given.until(observation)
    except (KeyboardInterrupt, asyncio.CancelledError):
        picture.caption = "Interrupted. Traffic stays as it is until the lease fires; run this cell again to resume."
        raise
    finally:
        given.close()
        picture.show(final=True)


def _step(rollout: Rollout, order: Order | None) -> tuple[Observation | None, Outcome | None]:
    # StopIteration cannot cross an await.
    try:
        return rollout.send(order), None
    except StopIteration as end:
        return None, end.value


async def watch_metrics(
    target: Target, minutes: float = 60, until: str = "", watch_minutes: float = 0
) -> MetricsWindow:
    """Show a window's picture and, where a person looks on and it ends now, keep it up to date.

    Args:
        minutes: the window's length.
        until: its end, ISO 8601; empty: as late as CloudWatch is complete.
        watch_minutes: for how long the picture is kept up to date, if a person is there.

    AWS: lambda:GetAlias, cloudwatch:GetMetricData, ListMetrics, logs:StartQuery, GetQueryResults, reads only.

    Raises:
        InvalidInput: ``alias-missing``, ``invalid-parameters``.
    """
    picture, look = RolloutChart(target), None
    stop = target.clock.now() + watch_minutes * MINUTE * (_widgets.is_attended() and not until)
    try:
        while True:
            look = await in_thread(monitor.read_window, target, minutes, until, look)
            busiest = sorted(look.seen, key=lambda each: -each.counts.requests)[:2]
            first, *rest = sorted((each.version for each in busiest), key=int)
            picture.rows, picture.versions, picture.caption = (
                list(look.rows),
                (first, rest[0] if rest else first),
                str(look),
            )
            await in_thread(picture.show)
            now = target.clock.now()
            if now >= stop:
                return look
            await target.clock.wait(now.replace(second=0, microsecond=0) + MINUTE)
    finally:
        picture.show(final=True)
