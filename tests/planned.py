"""Memory plans for tests: of one form, and such as no planner made."""

from hgt.config import RunConfig
from hgt.memory.plan import MemoryPlan, Planner
from hgt.training.step_form import StepForm


def plan_of_form(graph, config, probe, form):
    """The plan of one form of the step, whether it fits or not."""
    return Planner.of(graph, config, probe.type).plan(probe, form)


def made_up_plan(device="cpu", phases=None, form=None):
    phases = {"step": 1000, "inference": 2000, "evaluation": 3000} if phases is None else phases
    form = form or StepForm.of(RunConfig())
    return MemoryPlan(device, 1 << 40, phases, {}, form, max(phases.values(), default=0))
