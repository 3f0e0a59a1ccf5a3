"""Every message whose advice is code is followed by a test, but for those that are listed with a reason."""

from . import (  # noqa: F401
    test_commands,
    test_data,
    test_networks,
    test_soft_labels,
    test_training,
    test_two_sides,
)
from .following import CODE, FOLLOWED, messages

NOT_FOLLOWED = {  # a piece of the message -> why
    "is a folder here: pass --push_to_hub with": "pushes to a Hub, as tests/hub does",
    "holds PEFT's adapters without their network": "needs PEFT, which the tests do not install",
    "diverged, its {} is": "needs a study whose student diverges; a lower learning rate is no promise",
    "most often the memory is too small": "needs a machine whose memory is too small",
}


NOT_YET = (  # came with tables, several labels, numbers and tokens, and wait for tests of their own
    "is fitted on the dataset alone: omit --model",
    "the dataset has several columns of labels",
    "holds lists of whole numbers, which may be the labels",
    "are the labels that are there or a zero or one for each",
    "the dataset has the columns of words",
    "or fit a pipeline that begins with SimpleImputer",
    "the estimator is a classifier, and the column",
    "weights by entropy mean nothing for regression",
    "for class indices pass problem_type=",
    "a network with one output can't tell classes apart",
    "for labels that are each there or not, or for numbers, pass",
    "labels that are each there or not must be 0 to 1",
    "the variance of the numbers around the network's is unknown",
    "is not fitted, for it has no",
    "is no fitted estimator",
    "holds an estimator of scikit-learn, which is no network",
    "since a fold lacks some",
    "holds soft labels of",
    "was made for the tokens of another tokenizer",
    "the teacher predicts",
    "the teacher reads a table, and gets",
    "the Laplace bridge is to a distribution over classes",
    "needs {} numbers: use structure='kron'",
    "a forest is fitted on a table",
    "holds the sum of the variances of several numbers",
)


def test_every_advice_is_followed_or_listed():
    left = []
    for message in messages():
        known = [piece for piece in (*FOLLOWED, *NOT_FOLLOWED, *NOT_YET) if piece in message.text]
        if CODE.search(message.remedy) and not known:
            left.append(f"{message.place}: {message.text}")
    assert not left, "\n".join(left)


def test_what_is_followed_or_listed_is_a_message_still():
    texts = [message.text for message in messages()]
    for piece in (*FOLLOWED, *NOT_FOLLOWED, *NOT_YET):
        assert any(piece in text for text in texts), piece
    assert not set(FOLLOWED) & set(NOT_FOLLOWED)
