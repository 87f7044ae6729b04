"""What a machine boots: an action, and why."""

from wit_world.exports.boot import Action_Chain as Chain
from wit_world.exports.boot import Action_Discovery as Discovery
from wit_world.exports.boot import Action_Hold as Hold
from wit_world.exports.boot import Action_LastKnown as LastKnown
from wit_world.exports.boot import Action_LocalDisk as LocalDisk
from wit_world.exports.boot import Action_Pass as Pass
from wit_world.exports.boot import Action_Refuse as Refuse
from wit_world.exports.boot import Action_Script as Script
from wit_world.exports.boot import Action_Workflow as Workflow
from wit_world.exports.boot import Decision


def no_opinion():
    """Leaves it to the next policy."""
    return Decision(Pass(), [], None)


def decision(action, reason, variables=()):
    """An action, why, and the template variables that go with it."""
    return Decision(action, list(variables), reason)


__all__ = [
    "Chain",
    "Decision",
    "Discovery",
    "Hold",
    "LastKnown",
    "LocalDisk",
    "Pass",
    "Refuse",
    "Script",
    "Workflow",
    "decision",
    "no_opinion",
]
