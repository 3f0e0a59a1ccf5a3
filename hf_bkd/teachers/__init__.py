"""Teachers: classifiers that answer with a distribution over class probabilities, from a posterior over weights.

`base` has what all of them share, and each kind stands in a file of its own. `curvature` is the Laplace teacher's;
`langevin_energy`, `langevin_dynamics`, `langevin_chains` and `mcmc_diagnostics` are the Langevin teacher's.
"""

from .base import Teacher
from .deterministic import Deterministic, DeterministicTeacher
from .dirichlet import DirichletStudent
from .dropout import MCDropout, MCDropoutTeacher
from .ensemble import Ensemble, EnsembleTeacher
from .estimator import SklearnTeacher
from .examples import entropies_of_all, predict_all
from .forest import Forest
from .ivon import IVON, IVONVariational
from .langevin import LangevinTeacher
from .laplace import Laplace, LaplaceTeacher
from .multi import ClassMap, MultiTeacher
from .oracle import OracleTeacher
from .predictive import Predictive
from .prompted import PromptedTeacher
from .specification import SPECIFICATIONS, FitContext, TeacherSpec, spec_by_name
from .swag import SWA, SWAG, SWAGTeacher
from .variational import Variational, VariationalTeacher, make_variational

__all__ = [
    "IVON",
    "SPECIFICATIONS",
    "SWA",
    "SWAG",
    "ClassMap",
    "Deterministic",
    "DeterministicTeacher",
    "DirichletStudent",
    "Ensemble",
    "EnsembleTeacher",
    "FitContext",
    "Forest",
    "IVONVariational",
    "LangevinTeacher",
    "Laplace",
    "LaplaceTeacher",
    "MCDropout",
    "MCDropoutTeacher",
    "MultiTeacher",
    "OracleTeacher",
    "Predictive",
    "PromptedTeacher",
    "SWAGTeacher",
    "SklearnTeacher",
    "Teacher",
    "TeacherSpec",
    "Variational",
    "VariationalTeacher",
    "entropies_of_all",
    "make_variational",
    "predict_all",
    "spec_by_name",
]
