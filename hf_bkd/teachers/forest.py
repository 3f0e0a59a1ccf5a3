"""A random forest (Breiman 2001) that is fitted on a table by the command line, as a specification."""

from dataclasses import dataclass
from typing import Any

from ..models.estimator_files import skops_io
from ..utils.checks import check_count
from ..utils.errors import UserError
from .base import Teacher
from .estimator import SklearnTeacher
from .specification import FitContext, TeacherSpec, option


@dataclass(frozen=True)
class Forest(TeacherSpec):
    """A random forest of scikit-learn, whose trees are the draws; words become one column for each of them.

    Args:
        trees: S >= 1.
        min_samples_leaf: examples that a leaf has at least.
        out_of_bag: whether the rows that it is fitted on are answered by the trees that were fitted without them.
    """

    kind = "forest"
    method = SklearnTeacher.method
    reads_tables = True

    trees: int = option(500, "number of trees")
    min_samples_leaf: int = option(1, "examples that a leaf has at least")
    out_of_bag: bool = option(True, "answer the rows it is fitted on by the trees that were fitted without them")

    def __post_init__(self):
        super().__post_init__()
        check_count(trees=self.trees, min_samples_leaf=self.min_samples_leaf)

    def fit(self, context: FitContext) -> Teacher:
        rows = context.train_rows()
        skops_io("saving")  # which the fit would be in vain without
        words = [name for name, each in rows.features.items() if getattr(each, "dtype", "") in TEXTS]
        forest = self.estimator(words, context.seed, context.problem_type == "regression")
        return SklearnTeacher.fit(forest, rows, out_of_bag=self.out_of_bag)

    def estimator(self, words: list[str], seed: int, of_numbers: bool = False) -> Any:
        """Return a forest that is not fitted yet.

        Args:
            words: names of the columns that hold words.
            seed: of the trees.
            of_numbers: whether it predicts numbers.
        """
        try:
            from sklearn.compose import make_column_transformer
            from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
            from sklearn.pipeline import make_pipeline
            from sklearn.preprocessing import OneHotEncoder
        except ImportError as error:
            raise UserError("a forest needs scikit-learn: pip install 'hf_bkd[tables]'") from error
        kind = RandomForestRegressor if of_numbers else RandomForestClassifier
        forest = kind(self.trees, min_samples_leaf=self.min_samples_leaf, random_state=seed)
        if not words:
            return forest
        encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=2)
        return make_pipeline(make_column_transformer((encoder, words), remainder="passthrough"), forest)


TEXTS = ("string", "large_string")
