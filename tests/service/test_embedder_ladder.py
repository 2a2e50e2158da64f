"""Smaller batches are used where they change no bit, and no further than they help."""

import numpy as np
import pytest

from featurestore.service.ladder import Ladder
from featurestore.testing.backbones import TinyNetwork


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Sized(TinyNetwork):
    """A pass takes `second` seconds of `clock` an image, padding too; `odd` sizes change a bit."""

    def __init__(self, clock, *, batch_size=32, second=0.06, odd=()):
        super().__init__(batch_size=batch_size)
        self.clock, self.second, self.odd = clock, second, odd
        self.made = {}
        self.passes = []

    def sized(self, batch_size):
        other = Sized(self.clock, batch_size=batch_size, second=self.second, odd=self.odd)
        other.passes = self.passes
        return other

    def embed(self, batch):
        assert len(batch) <= self.batch_size
        self.passes.append((len(batch), self.batch_size))
        self.clock.now += self.second * self.batch_size
        features = super().embed(batch)
        if self.batch_size in self.odd:
            features[-1, 0, 0, 0] += 1
        return features


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def ladder(**options):
    clock = Clock()
    network = Sized(clock, **options)
    return Ladder(network, clock=clock), network


def checked(**options):
    steps, network = ladder(**options)
    steps.embed(pictures(3))
    while steps.may_check:
        steps.check()
    return steps, network


def test_before_a_size_was_tried_everything_goes_through_the_full_one():
    steps, network = ladder()
    assert (steps.sizes, steps.most, steps.may_check) == ((32,), 32, False)
    steps.embed(pictures(1))
    assert network.passes == [(1, 32)]
    assert (steps.sizes, steps.may_check) == ((32,), True)


def test_after_the_checks_an_image_pays_for_one():
    steps, network = checked()
    assert steps.sizes == (1, 2, 4, 8, 32)
    network.passes.clear()
    for count in (1, 2, 3, 6, 8, 9):
        rows = steps.embed(pictures(count, seed=count))
        np.testing.assert_array_equal(rows, TinyNetwork().embed(pictures(count, seed=count)))
    assert network.passes == [(1, 1), (2, 2), (3, 4), (6, 8), (8, 8), (9, 32)]


def test_a_size_that_changes_a_bit_is_not_used():
    steps, _ = checked(odd=(1, 4))
    assert steps.sizes == (2, 8, 32)


def test_where_every_small_size_changes_bits_the_full_one_stays():
    steps, network = checked(odd=(1, 2, 4, 8, 16))
    assert (steps.sizes, steps.most) == ((32,), 32)
    network.passes.clear()
    steps.embed(pictures(1))
    assert network.passes == [(1, 32)]


@pytest.mark.parametrize(
    ("second", "most"), [(0.06, 8), (0.03, 16), (0.001, 32), (1.0, 8), (0.0155, 32)]
)
def test_a_batch_is_full_where_a_pass_takes_half_a_second_but_holds_eight(second, most):
    steps, _ = checked(second=second)
    steps.embed(pictures(32))
    steps.embed(pictures(32))
    assert steps.most == most


def test_a_network_smaller_than_eight_is_full_with_its_own():
    steps, _ = checked(batch_size=3)
    assert (steps.sizes, steps.most) == ((1, 2, 3), 3)


def test_shares_leave_little_room_empty():
    steps, _ = checked(second=0.01)
    assert steps.sizes == (1, 2, 4, 8, 16, 32)
    steps.embed(pictures(32))
    assert [steps.share(ready) for ready in (1, 2, 3, 5, 6, 7, 9, 12, 17, 23, 24, 31, 32, 90)] == [
        1, 2, 3, 4, 6, 7, 8, 12, 16, 16, 24, 31, 32, 32,
    ]  # fmt: skip


def test_a_network_of_one_size_is_left_at_it():
    steps = Ladder(TinyNetwork(batch_size=8))
    steps.embed(pictures(2))
    assert (steps.sizes, steps.may_check, steps.most) == ((8,), False, 8)
    assert [steps.share(ready) for ready in (1, 5, 8, 20)] == [1, 5, 8, 8]
