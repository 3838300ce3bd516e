"""Load shapes: how many users there are at which time."""

import pytest

from loadtest.names import names_of
from loadtest.profiles import KINDS, PROFILES


def _counts(name: str, *, users: int = 10, seconds: int = 100) -> list[int]:
    profile = PROFILES[name]
    found = [profile.users_at(second, seconds_max=seconds, users_max=users) for second in range(seconds)]
    return [count for count in found if count is not None]


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("users", [1, 7, 50])
def test_every_shape_has_all_users_at_its_peak_and_never_none(name: str, users: int) -> None:
    """At some time all users are there, at no time more, and never nobody."""
    counts = _counts(name, users=users)
    assert len(counts) == 100
    assert max(counts) == users
    assert min(counts) >= 1


@pytest.mark.parametrize("name", PROFILES)
def test_a_run_is_over_after_its_seconds(name: str) -> None:
    """There is no number of users any more once the time is over."""
    assert PROFILES[name].users_at(9.99, seconds_max=10, users_max=5) is not None
    assert PROFILES[name].users_at(10, seconds_max=10, users_max=5) is None


def test_a_ramp_only_grows() -> None:
    """From a tenth of the users, never fewer than before."""
    counts = _counts("ramp", users=100)
    assert counts[0] == 10
    assert counts == sorted(counts)


def test_a_spike_comes_in_the_middle_and_goes() -> None:
    """Everybody is there for a fifth of the time, a fifth of them before and after."""
    assert _counts("spike") == [2] * 40 + [10] * 20 + [2] * 40


def test_the_mixed_profile_is_a_ramp_a_plateau_a_spike_and_the_plateau() -> None:
    """It climbs to half, stays there, has everybody for a fifth of the time, and ends at half."""
    counts = _counts("mixed", users=100)
    assert counts[:25] == sorted(counts[:25])
    assert counts[0] == 10
    assert set(counts[25:60]) == {50}
    assert set(counts[60:80]) == {100}
    assert set(counts[80:]) == {50}


def test_profiles_of_all_kinds_say_how_many_users_that_takes() -> None:
    """A crowd in which each kind has its share; one user does where there is one kind."""
    assert PROFILES["mixed"].users_min == sum(kind.share for kind in KINDS.values())
    assert PROFILES["search"].users_min == 1


def test_each_kind_of_user_has_names_of_its_own_requests() -> None:
    """No two kinds share a name, but that of connecting."""
    names = [name for kind in KINDS for name in names_of([kind])[1:]]
    assert len(names) == len(set(names))
    assert set(names_of(KINDS)) == {"Connect", *names}
