"""examples/reboot-loop in Python: a machine that boots again and again has to wait, and at last is not served."""

from pureboot_policy import hook, number, setting, warn
from pureboot_policy.boot import Hold, Refuse, decision, no_opinion


class Boot:
    @hook
    def decide(self, request):
        attempt, site = request.attempt, request.site
        tag = setting(site, "released-by-tag")
        is_released = request.node is not None and tag in request.node.tags
        if is_released or attempt <= number(site, "slow-after"):
            return no_opinion()
        if attempt <= number(site, "stop-after"):
            return decision(Hold(number(site, "wait-seconds")), f"boot {attempt} within ten minutes")
        warn(f"{request.mac} boots in a loop: {attempt} times within ten minutes")
        text = f"boot {attempt} within ten minutes: tag it {tag} to let it go on"
        return decision(Refuse(text), text)
