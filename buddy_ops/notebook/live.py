"""Charts that update while something runs: a rollout, or the metrics of the live version.

Each poll runs in a worker thread, so that the buttons stay responsive.
"""

from buddy_ops.aws.clock import in_thread
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Stopped
from buddy_ops.core.outcome import Outcome
from buddy_ops.core.plan import Approval
from buddy_ops.core.text import exact_percent, floor_minute
from buddy_ops.deployment._after_rollback import is_stopped_by_interrupt
from buddy_ops.deployment.announcements import announce_rollout
from buddy_ops.deployment.observation import Observation, Order, Rollout, StageOrder
from buddy_ops.deployment.rollout import run_rollout
from buddy_ops.deployment.rollout_plan import RolloutPlan
from buddy_ops.health import monitor
from buddy_ops.health.metrics import MINUTE
from buddy_ops.health.monitor import MetricsWindow
from buddy_ops.notebook import _widgets, controls
from buddy_ops.notebook._chart_output import preload_drawing
from buddy_ops.notebook.charts import RolloutChart
from buddy_ops.notebook.interrupts import describe_stopped_traffic, interrupts


async def deploy_and_watch(target: Target, plan: RolloutPlan, approval: Approval) -> Outcome:
    """Run an approved deployment under a live chart, and notify the team when it starts and when it ends.

    AWS, Raises: as ``run_rollout``.
    """
    rollout = run_rollout(target, plan, approval)
    return await watch_rollout(target, announce_rollout(target, plan, rollout))


async def watch_rollout(target: Target, rollout: Rollout) -> Outcome:
    """Drive a rollout to its end under a chart that updates in place; exactly one chart stays in the notebook.

    Interrupting leaves the alias as it is, under its failsafe; running the cell again resumes. After a rollback it ends
    the count of the last requests and the test of stable, and the rollout with them.

    AWS: as ``run_rollout``.

    Raises:
        Stopped: it was interrupted; the message says what happens to the traffic.
        What the rollout raises.
    """
    # At once: matplotlib is imported while the first poll waits for AWS.
    preload_drawing()
    chart = RolloutChart(target)
    buttons = controls.attach_controls(target)
    observation: Observation | None = None
    order: StageOrder | None = None
    try:
        while True:
            # In a worker thread: an AWS call may block for 30 s, and the buttons must stay responsive.
            step = await in_thread(_step, rollout, order)
            if isinstance(step, Outcome):
                chart.end(step)
                return step
            observation = step
            chart.add(observation)
            # Drawing takes up to half a second: the buttons do not wait for it.
            await in_thread(chart.show)
            given = await buttons.until(observation)
            order = None
            # With the stage that the person saw: the rollout may be in another one when the order reaches it.
            if given is not None:
                order = StageOrder(given, observation.stage, observation.weight)
    except interrupts():
        if is_stopped_by_interrupt(observation):
            # The traffic is back: only what is still read ends early.
            outcome = _finish(rollout)
            chart.end(outcome)
            return outcome
        # The cell's last output must tell the operator what happens to the traffic now.
        chart.caption = _interrupted(target, observation)
        raise Stopped(chart.caption) from None
    finally:
        buttons.close()
        chart.show(final=True)


def _step(rollout: Rollout, order: Order | StageOrder | None) -> Observation | Outcome:
    """The next observation, or how the rollout ended: StopIteration cannot cross an await."""
    try:
        return rollout.send(order)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def _finish(rollout: Rollout) -> Outcome:
    """How a rollout ended that has nothing left to do but to read on."""
    while True:
        step = _step(rollout, "stop")
        if isinstance(step, Outcome):
            return step


def _interrupted(target: Target, observation: Observation | None) -> str:
    """What an operator must read after stopping the cell."""
    if observation is not None and observation.monitored_until is not None:
        return (
            f"Stopped. The new version is healthy and stays at {exact_percent(observation.weight)}. "
            "Nothing rolls it back automatically now. "
            f"Until {observation.monitored_until:%H:%M} UTC you can run this cell again to resume the monitoring."
        )
    if observation is not None and observation.evidence is not None:
        evidence = observation.evidence
        says = describe_stopped_traffic(target, observation.weight, evidence.new, evidence.stable)
    else:
        says = describe_stopped_traffic(target)
    return f"Stopped. {says or 'The traffic has not changed. Run this cell again to resume.'}"


async def watch_metrics(
    target: Target, minutes: float = 60, until: str = "", watch_minutes: float = 0
) -> MetricsWindow:
    """Show a window's chart and, where a person is there and it ends now, keep it up to date.

    Args:
        minutes: the window's length.
        until: its end, ISO 8601; empty: as late as CloudWatch is complete.
        watch_minutes: for how long the chart is updated, if a person is there.

    AWS: lambda:GetAlias, cloudwatch:GetMetricData, ListMetrics, logs:StartQuery, GetQueryResults, reads only.

    Raises:
        InvalidInput: ``alias-missing``, ``invalid-parameters``.
    """
    chart = RolloutChart(target)
    window: MetricsWindow | None = None
    last_update = target.clock.now()
    # A window of the past does not change.
    if _widgets.is_attended() and not until:
        last_update += watch_minutes * MINUTE
    try:
        while True:
            window = await in_thread(monitor.read_window, target, minutes, until=until, before=window)
            chart.show_window(window)
            await in_thread(chart.show)
            now = target.clock.now()
            if now >= last_update:
                return window
            await target.clock.wait(floor_minute(now) + MINUTE)
    finally:
        chart.show(final=True)
