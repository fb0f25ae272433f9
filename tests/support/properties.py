"""How many examples Hypothesis tries a property with: few in a usual run, all by `--hypothesis-profile all`."""

from collections.abc import Collection

from hypothesis import HealthCheck, settings

_ALL = 100
_USUAL = 25
_MIN = 10


def register_profiles() -> None:
    """`usual` and `all`, without time limits. Examples differ from run to run: many usual runs try as many as `all`."""
    for name, number in (("all", _ALL), ("usual", _USUAL)):
        settings.register_profile(
            name, deadline=None, max_examples=number, suppress_health_check=[HealthCheck.too_slow]
        )
    settings.load_profile("usual")


def examples(number: int, *, allowed: Collection[HealthCheck] = ()) -> settings:
    """For a property that needs another number of examples than the profile's: `number` are all."""
    share = settings().max_examples / _ALL
    return settings(
        max_examples=min(number, max(round(number * share), _MIN)),
        suppress_health_check=[*settings().suppress_health_check, *allowed],
    )
