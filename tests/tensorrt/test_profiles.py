from hypothesis import example, given
from hypothesis import strategies as st

from beicli.artifact.gpu import Dimensions, Profile
from beicli.artifact.manifest import Limits, TensorInfo
from beicli.tensorrt.profiles import choose_profiles, input_shape, input_shapes

INPUTS = tuple(
    TensorInfo(name=name, dtype="int32", shape=("batch", "length"))
    for name in ("input_ids", "attention_mask")
)
_LIMITS = st.integers(1, 32_768).flatmap(
    lambda max_num_tokens: st.builds(
        Limits,
        max_num_tokens=st.just(max_num_tokens),
        max_batch_size=st.integers(1, 512),
        max_input_length=st.integers(1, max_num_tokens),
    )
)


@given(_LIMITS)
@example(Limits(max_num_tokens=16_384, max_batch_size=256, max_input_length=8192))
def test_there_are_few_profiles_and_one_for_every_input(limits: Limits) -> None:
    profiles = choose_profiles(limits)

    assert 2 <= len(profiles) <= 4
    assert all(profile.admits(1, 1) for profile in profiles)
    assert profiles[-1].admits(1, limits.max_input_length)
    lengths = [profile.maximum.length for profile in profiles]
    assert lengths == sorted(lengths)
    for profile in profiles:
        ranges = zip(
            (profile.minimum.num_sequences, profile.minimum.length),
            (profile.optimum.num_sequences, profile.optimum.length),
            (profile.maximum.num_sequences, profile.maximum.length),
            strict=True,
        )
        assert all(low <= best <= high for low, best, high in ranges)
        assert profile.maximum.num_sequences <= limits.max_batch_size
        # Twice the budget at most, but for what is the smallest there can be.
        assert profile.maximum.num_tokens <= max(2 * limits.max_num_tokens, 512)


def test_short_texts_come_in_large_batches_and_long_ones_in_small_ones() -> None:
    profiles = choose_profiles(
        Limits(max_num_tokens=16_384, max_batch_size=256, max_input_length=8192)
    )

    sizes = [(each.maximum.num_sequences, each.maximum.length) for each in profiles]
    assert sizes == [(8, 64), (256, 128), (32, 1024), (4, 8192)]


def test_a_profile_admits_what_lies_within() -> None:
    profile = Profile(
        minimum=Dimensions(num_sequences=1, length=1),
        optimum=Dimensions(num_sequences=4, length=32),
        maximum=Dimensions(num_sequences=8, length=64),
    )

    assert profile.admits(8, 64)
    assert not profile.admits(9, 64)
    assert not profile.admits(8, 65)
    assert not profile.admits(0, 1)


def test_shapes_follow_from_the_names_of_dimensions() -> None:
    profile = choose_profiles(Limits(max_num_tokens=512, max_batch_size=16, max_input_length=128))[
        0
    ]

    assert input_shapes(INPUTS, profile) == {
        "input_ids": ((1, 1), (1, 32), (8, 64)),
        "attention_mask": ((1, 1), (1, 32), (8, 64)),
    }
    packed = TensorInfo(name="position_ids", dtype="int32", shape=(1, "tokens"))
    assert input_shape(packed, Dimensions(num_sequences=3, length=10), 17) == (1, 17)
    assert input_shape(packed, Dimensions(num_sequences=3, length=10)) == (1, 30)
