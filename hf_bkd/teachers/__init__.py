"""Teachers that know what they don't know: a posterior over weights, asked for class probabilities."""

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
