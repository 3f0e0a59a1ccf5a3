"""Names that changed work for a release, and say what they are called now."""

import pytest

import hf_bkd
from hf_bkd import UserError
from hf_bkd.utils.deprecation import renamed_arguments


@renamed_arguments(old="new")
def double(new):
    return 2 * new


def test_an_argument_is_taken_by_its_old_name():
    assert double(new=2) == double(2) == 4
    with pytest.warns(DeprecationWarning, match="argument old of double is now called new"):
        assert double(old=2) == 4
    with pytest.warns(DeprecationWarning), pytest.raises(UserError, match="given new twice, also as old"):
        double(old=2, new=3)


def test_views_have_a_number_by_its_old_name():
    with pytest.warns(DeprecationWarning, match="argument number of Views is now called num_views"):
        views = hf_bkd.Views(number=3)
    with pytest.warns(DeprecationWarning, match="Views.number is now called Views.num_views"):
        assert views.number == views.num_views == 3


@pytest.mark.parametrize(("old", "new"), hf_bkd.RENAMED.items())
def test_a_public_name_is_found_by_its_old_name(old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called hf_bkd.{new}"):
        assert getattr(hf_bkd, old) is getattr(hf_bkd, new)
