"""The configuration of a run. Every parameter is declared once, in the section of its topic.

In: values by name, from the command line, the flow or config.json. Out: a frozen `RunConfig`, or an
InputError that says what is wrong with which parameter. It knows neither graph nor torch.

The command line, the flow's parameters, MLflow's parameters and PARAMETERS.md are all derived from
these declarations through `parameters()`. A default that was measured says so in tests/bench.
"""

from hgt.config.comparison import BaselineConfig
from hgt.config.data import GraphConfig, SplitConfig
from hgt.config.execution import DEVICE_CHOICES, DOCKER_CPU, ExecutionConfig
from hgt.config.model import ModelConfig
from hgt.config.run_config import RunConfig, parameters
from hgt.config.sizes import parse_bytes
from hgt.config.training import BatchConfig, LossConfig, OptimizerConfig, StoppingConfig
from hgt.config.validation import (
    CHECKS,
    REQUIRED_CHECKS,
    ValidationConfig,
    most_components_90,
)

__all__ = [
    "CHECKS",
    "DEVICE_CHOICES",
    "DOCKER_CPU",
    "REQUIRED_CHECKS",
    "BaselineConfig",
    "BatchConfig",
    "ExecutionConfig",
    "GraphConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "SplitConfig",
    "StoppingConfig",
    "ValidationConfig",
    "most_components_90",
    "parameters",
    "parse_bytes",
]
