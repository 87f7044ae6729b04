"""Machines of one manufacturer boot their disk; of the others this plugin has no opinion."""

from pureboot_policy import hook, setting, value
from pureboot_policy.boot import LocalDisk, decision, no_opinion


class Boot:
    @hook
    def decide(self, request):
        known = value(request.hardware, "manufacturer")
        if known != setting(request.site, "manufacturer"):
            return no_opinion()
        return decision(LocalDisk(), f"machines of {known} boot their disk")
