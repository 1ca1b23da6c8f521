"""The configuration of a run: frozen values, checked on construction, readable as JSON.

`Config` holds everything that decides what a run computes. Files in `configs/` have functions that
return one; `rnope_jax.cli.config_file` loads them and applies overrides from the command line.
"""

from rnope_jax.config.data import STDLIB, DataConfig, SourceConfig
from rnope_jax.config.model import ModelConfig
from rnope_jax.config.run import Config
from rnope_jax.config.training import (
    InitConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    ScheduleConfig,
    StageConfig,
)
from rnope_jax.config.watching import CheckpointConfig, EvaluationConfig, LoggingConfig

__all__ = [
    "STDLIB",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "InitConfig",
    "LoggingConfig",
    "LossConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "SourceConfig",
    "StageConfig",
]
