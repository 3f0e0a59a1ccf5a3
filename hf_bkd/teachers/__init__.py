"""Teachers: classifiers that answer with a distribution over class probabilities, from a posterior over weights.

`base` has what all of them share, and each kind stands in a file of its own. `curvature` is the Laplace teacher's;
`langevin_energy`, `langevin_dynamics`, `langevin_chains` and `mcmc_diagnostics` are the Langevin teacher's.
"""

from .base import Predictive, Teacher, predict_all
from .deterministic import DeterministicTeacher
from .dropout import MCDropoutTeacher
from .ensemble import EnsembleTeacher
from .langevin import LangevinTeacher
from .laplace import LaplaceTeacher
from .multi import ClassMap, MultiTeacher
from .oracle import OracleTeacher
from .variational import VariationalTeacher, make_variational

__all__ = [
    "ClassMap",
    "DeterministicTeacher",
    "EnsembleTeacher",
    "LangevinTeacher",
    "LaplaceTeacher",
    "MCDropoutTeacher",
    "MultiTeacher",
    "OracleTeacher",
    "Predictive",
    "Teacher",
    "VariationalTeacher",
    "make_variational",
    "predict_all",
]
