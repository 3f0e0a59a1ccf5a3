"""What the targets of a batch need beside the student's inputs: views of its images, or the inputs of a teacher."""

from typing import Any

import datasets
import numpy as np
from transformers import default_data_collator

from ..data.columns import EXAMPLE_ID, is_label
from ..data.preprocessing import Pool, StoredImages
from ..data.preprocessors import Preprocessor, ready_columns
from ..data.views import Views
from ..soft_labels.belonging import shared_views
from ..soft_labels.identity import Identity
from ..utils.errors import UserError
from .prepared_rows import AskedRows, AsTheyAre, Prepare
from .supervision import StoredLabels


def shown_views(dataset: Any, stored: StoredLabels, prepare: Prepare) -> tuple[Views | None, Pool | None]:
    """Return the views that the labels are of, and the images that these mix others with.

    Raises:
        UserError: the student's preprocessor can't show them, or images that are mixed are not here.
    """
    layouts = [each.layout for each in stored.stored.values()]
    if not any(each.record is not None and each.record.views for each in layouts):
        return None, None
    if getattr(prepare, "of_pictures", None) is None:
        raise UserError(
            "the soft labels were made for augmented views of each image, and what makes the student's inputs can't "
            "show them: pass processing_class, an image processor, a transform or ImagePreprocessor(mean=..., std=...)"
        )
    ids = np.asarray(dataset.with_format(None)[EXAMPLE_ID][:], np.int64) if EXAMPLE_ID in dataset.features else None
    views = shared_views(layouts, None, ids)
    if views.mixing is None:
        return views, None
    return views, Pool.of(ids, StoredImages(dataset, prepare.columns[0], prepare.mode))


def reader_of_pictures(teacher: Any) -> Preprocessor | None:
    """Return what makes a teacher's inputs of pictures that are decoded already, if it brings its own processor."""
    if getattr(teacher, "processing_class", None) is None or not hasattr(teacher, "preprocessor_for"):
        return None
    features = datasets.Features({"image": datasets.Image()})
    own = teacher.preprocessor_for(datasets.Dataset.from_dict({"image": []}, features=features))
    return own if own is not None and own.of_pictures is not None else None


def asked_rows(teacher: Any, dataset: Any, student: Prepare) -> AskedRows:
    """Return what an online teacher is asked about rows, as `add_soft_labels` would ask it about them.

    One that doesn't say what it reads is asked about the student's inputs.
    """
    if not hasattr(teacher, "preprocessor_for"):
        return AskedRows(None, Identity(student.columns))
    own = teacher.preprocessor_for(dataset)
    if own is None:
        own = AsTheyAre(ready_columns(teacher.network, dataset), default_data_collator)
    columns = [name for name in own.columns if not is_label(name, dataset.features[name])]
    return AskedRows(None if _reads_the_same(own, student) else own, Identity(tuple(columns)) if columns else None)


def _reads_the_same(one: Prepare, other: Prepare) -> bool:
    """Return whether two networks get the same images, so that they need be prepared only once."""
    return all(getattr(each, "kind", None) == "image" for each in (one, other)) and one.reads_as(other)
