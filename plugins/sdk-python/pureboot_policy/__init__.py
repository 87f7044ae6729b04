"""What a PureBoot site policy in Python is written with, on what componentize-py makes of the contract (wit/since-0.1)."""

import functools

from componentize_py_types import Err
from wit_world.imports.log import Level, log
from wit_world.imports.types import PolicyError


def debug(message):
    """A line for the policy's author."""
    log(Level.DEBUG, str(message))


def info(message):
    """A line for the site's operator."""
    log(Level.INFO, str(message))


def warn(message):
    """A line that somebody should look at."""
    log(Level.WARN, str(message))


def error(message):
    """The policy's own failure, to be raised."""
    return Err(PolicyError(str(message)))


def hook(answer):
    """A hook whose every exception becomes the policy's own failure, in words: without this one ends the call without a text."""

    @functools.wraps(answer)
    def wrapped(*facts):
        try:
            return answer(*facts)
        except Err:
            raise
        except Exception as failure:
            raise error(f"{type(failure).__name__}: {failure}") from None

    return wrapped


def value(variables, name):
    """The value of a name in a list of pairs; None if there is none."""
    return next((value for known, value in variables if known == name), None)


def setting(site, name):
    """A setting of this policy; every setting that policy.json declares has a value."""
    found = value(site.settings, name)
    if found is None:
        raise error(f"policy.json declares no setting {name}")
    return found


def number(site, name):
    """A setting that is a whole number."""
    text = setting(site, name)
    if not text.isdecimal():
        raise error(f'{name} is "{text}", not a number')
    return int(text)


def minute_of_day(site, now):
    """The minute of the day on the site's wall clock, 0 to 1439."""
    return (now // 60 + site.utc_offset_minutes) % 1440
