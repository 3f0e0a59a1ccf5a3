"""Views: chains of operators, which view an epoch shows, who is mixed with whom, and their record."""

import json

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from hf_bkd import UserError
from hf_bkd.data.augmentations import (
    OPERATORS,
    PARTNER,
    ColorJitter,
    CropAndFlip,
    CutMix,
    Mixup,
    RandomErasing,
    RandomResizedCrop,
)
from hf_bkd.data.views import Views
from hf_bkd.utils.random import Draws

CHAIN = (
    RandomResizedCrop(10, scale=[0.5, 1], ratio=(0.5, 2.0), flip=False),
    ColorJitter(0.4, 0.3, 0.2),
    CropAndFlip(2, flip=False),
    RandomErasing(0.5, (0.1, 0.2), (0.4, 2.5), 9),
    CutMix(0.7),
)


def random_images(number, side=12):
    return torch.randint(256, (number, 3, side, side), dtype=torch.uint8)


class TestChain:
    def test_is_its_operators_in_order_each_with_a_block_of_its_own(self):
        images, ids = random_images(30), torch.randperm(100)[:30]
        views, expected = Views(*CHAIN, seed=4), images
        for block, operator in enumerate(CHAIN[:-1], start=16):
            expected = operator(expected, Draws(ids, 4, 7, block))
        assert torch.equal(views(images, ids, 7), expected)
        others = random_images(30, 10)
        mixed = views.mix(expected, others, ids, 7)
        assert torch.equal(mixed, CHAIN[-1](expected, others, Draws(ids, 4, 7, 20)))

    def test_no_operators_change_nothing(self):
        images = random_images(5)
        assert torch.equal(Views()(images, torch.arange(5), 3), images)
        assert Views().mixing is None

    def test_two_equal_operators_draw_differently(self):
        operator, ids = ColorJitter(0.5), torch.arange(1000)
        first, second = (operator.factors(Draws(ids, 0, 0, block))[0] for block in (16, 17))
        gray = torch.full((1000, 1, 1, 1), 100, dtype=torch.uint8)
        once, twice = (Views(*[operator] * times)(gray, ids, 0).flatten() for times in (1, 2))
        assert torch.equal(once, (100 * first.float()).to(torch.uint8))
        assert torch.equal(twice, (once * second.float()).to(torch.uint8))
        assert abs(stats.pearsonr(first.numpy(), second.numpy()).statistic) < 4 / 1000**0.5

    @pytest.mark.parametrize("changed", [{"seed": 5}, {"view": 8}])
    def test_another_view_or_seed_is_another_picture(self, changed):
        images, ids = random_images(100), torch.arange(100)

        def show(seed=4, view=7):
            return Views(RandomResizedCrop(10), seed=seed)(images, ids, view)

        assert torch.equal(show(), show())
        assert (show() != show(**changed)).flatten(1).any(1).double().mean() > 0.95

    def test_a_picture_goes_by_id_not_by_place_or_batch(self):
        images, ids, order = random_images(40), torch.randperm(999)[:40], torch.randperm(40)
        views = Views(*CHAIN)
        together = views(images, ids, 3)
        assert torch.equal(views(images[order], ids[order], 3), together[order])
        assert torch.equal(views(images[7:8], ids[7:8], 3)[0], together[7])

    def test_reads_and_advances_no_random_state(self):
        images, ids, views = random_images(20), torch.arange(20), Views(*CHAIN, num_views=3)
        state, pool = torch.get_rng_state(), torch.arange(50)
        first = views(images, ids, 1), views.partners(ids, 1, pool), views.at_epoch(4, "shuffle")
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        again = views(images, ids, 1), views.partners(ids, 1, pool), views.at_epoch(4, "shuffle")
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and first[2] == again[2]

    @pytest.mark.parametrize("chain", [(Mixup(1.0), CropAndFlip()), (Mixup(1.0), CutMix(1.0)), (CutMix(1.0),) * 2])
    def test_mixing_comes_once_and_last(self, chain):
        with pytest.raises(UserError, match="only one augmentation can mix images, and it must be the last one"):
            Views(*chain)

    @pytest.mark.parametrize("ood", [v2.RandomResizedCrop(8), v2.CutMix(num_classes=3), "CropAndFlip", CropAndFlip])
    def test_what_is_no_operator_is_refused_even_by_a_name_of_ours(self, ood):
        with pytest.raises(UserError, match="is no augmentation of hf_bkd; there are CropAndFlip, .*CutMix"):
            Views(ood)

    @pytest.mark.parametrize("number", [0, -3])
    def test_less_than_one_view_is_refused(self, number):
        with pytest.raises(UserError, match=f"num_views must be a whole number of at least 1, and it is {number}"):
            Views(num_views=number)


class TestPartners:
    def test_are_uniform_over_the_pool_and_over_views(self):
        views, pool = Views(Mixup(1.0)), torch.arange(10) * 7
        over_ids = views.partners(torch.arange(20_000), 3, pool)
        over_views = torch.cat([views.partners(torch.arange(50), view, pool) for view in range(400)])
        for found in (over_ids, over_views):
            assert stats.chisquare(torch.bincount(found, minlength=10)).pvalue > 1e-4
        assert (views.partners(torch.arange(100), 3, pool) != views.partners(torch.arange(100), 4, pool)).any()

    def test_go_by_id_and_view_alone(self):
        views, ids, pool = Views(CropAndFlip(), CutMix(1.0), seed=2), torch.arange(30, 60), torch.arange(100)
        found, order = views.partners(ids, 5, pool), torch.randperm(30)
        assert torch.equal(views.partners(ids[order], 5, pool), found[order])
        assert torch.equal(views.partners(ids[4:5], 5, pool), found[4:5])
        assert torch.equal(found, Draws(ids, 2, 5, 17).integers(100, PARTNER))
        assert not torch.equal(Views(CropAndFlip(), CutMix(1.0), seed=3).partners(ids, 5, pool), found)

    def test_are_independent_of_how_much_is_mixed_and_where(self):
        views, ids = Views(CutMix(1.0)), torch.arange(40_000)
        partner, draws = views.partners(ids, 0, torch.arange(8)), Draws(ids, 0, 0, 16)
        for other in (draws.integers(4096, 0) % 8, draws.integers(8, 1), draws.integers(8, 2)):
            table = torch.bincount(partner * 8 + other, minlength=64).reshape(8, 8)
            assert stats.chi2_contingency(table).pvalue > 1e-4


class TestAtEpoch:
    def test_cycle_goes_round(self):
        assert [Views(num_views=3).at_epoch(epoch) for epoch in range(7)] == [0, 1, 2, 0, 1, 2, 0]
        assert [Views(num_views=1).at_epoch(epoch, "shuffle") for epoch in range(3)] == [0, 0, 0]

    @pytest.mark.parametrize("order", ["cycle", "shuffle"])
    def test_without_a_number_each_epoch_has_its_own_view(self, order):
        assert [Views().at_epoch(epoch, order) for epoch in (0, 5, 1000)] == [0, 5, 1000]

    def test_shuffle_shows_each_view_once_a_turn_in_orders_that_differ(self):
        def turns(seed):
            views = Views(num_views=8, seed=seed)
            return [tuple(views.at_epoch(8 * turn + i, "shuffle") for i in range(8)) for turn in range(40)]

        found = turns(0)
        assert all(sorted(turn) == list(range(8)) for turn in found)
        assert len(set(found) | set(turns(1))) == 80
        firsts = torch.bincount(torch.tensor(found + turns(2) + turns(3))[:, 0], minlength=8)
        assert stats.chisquare(firsts).pvalue > 1e-4
        assert turns(0) == found
        assert Views(*CHAIN, num_views=8).at_epoch(13, "shuffle") == found[1][5]

    def test_another_order_is_refused(self):
        with pytest.raises(UserError, match="order is 'random'; it must be one of cycle, shuffle"):
            Views(num_views=2).at_epoch(0, "random")


class TestRecord:
    @pytest.mark.parametrize("number", [None, 4])
    def test_comes_back_through_json(self, number):
        for views in (Views(*CHAIN, num_views=number, seed=-3), Views(Mixup(0.3)), Views(num_views=number)):
            record = views.to_dict()
            assert json.loads(json.dumps(record)) == record
            again = Views.from_dict(json.loads(json.dumps(record)))
            assert again == views
            assert (again.transforms, again.num_views, again.seed) == (views.transforms, views.num_views, views.seed)
            assert hash(again) == hash(views)
            assert repr(again) == repr(views)
        assert {type(operator) for operator in (*CHAIN, Mixup(0.3))} == set(OPERATORS.values())

    def test_every_parameter_counts(self):
        views = [
            Views(CropAndFlip()),
            Views(CropAndFlip(3)),
            Views(CropAndFlip(flip=False)),
            Views(CropAndFlip(), seed=1),
            Views(CropAndFlip(), num_views=1),
            Views(CropAndFlip(), CropAndFlip()),
            Views(Mixup(1.0)),
            Views(CutMix(1.0)),
        ]
        assert len(set(views)) == len({json.dumps(one.to_dict()) for one in views}) == len(views)
        assert Views() != "Views()"

    @pytest.mark.parametrize(
        "record",
        [
            {"number": None, "seed": 0, "transforms": [{"name": "Posterize", "bits": 3}]},
            {"number": None, "seed": 0, "transforms": [{"name": "CropAndFlip", "padding": 4, "angle": 3}]},
            {"number": None, "seed": 0, "transforms": [{"padding": 4}]},
            {"number": None, "seed": 0, "transforms": [{"name": "ColorJitter", "contrast": "much"}]},
            {"number": None, "seed": 0, "transforms": ["CropAndFlip"]},
            {"number": None, "seed": 0, "transforms": None},
            {"number": None, "transforms": []},
            {"number": None, "seed": 0, "transforms": [], "order": "drawn"},
            None,
        ],
    )
    def test_what_this_version_does_not_know_is_refused(self, record):
        with pytest.raises(
            UserError,
            match="record of views can't be read by this version of hf_bkd|contrast must be at least 0 and finite",
        ):
            Views.from_dict(record)

    def test_parameters_out_of_range_are_refused_in_a_record_too(self):
        with pytest.raises(UserError, match="alpha must be above 0"):
            Views.from_dict({"number": None, "seed": 0, "transforms": [{"name": "Mixup", "alpha": -1}]})
