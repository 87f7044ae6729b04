// examples/reboot-loop in C: a machine that boots again and again has to wait, and at last is not served.
#include "sdk/pureboot_policy.h"

static pb_decided decide(const pb_boot_request *request) {
    const pb_site *site = &request->site;
    const pb_text tag = pb_setting(site, "released-by-tag");
    uint32_t attempt = request->attempt, slow, stop, wait;
    pb_text error;
    if (!pb_number(site, "slow-after", &slow, &error) || !pb_number(site, "stop-after", &stop, &error) ||
        !pb_number(site, "wait-seconds", &wait, &error)) {
        return pb_decide_error(error);
    }
    bool is_released = request->node.is_some && pb_has(request->node.value.tags, tag);
    if (is_released || attempt <= slow) return pb_pass();
    if (attempt <= stop) return pb_hold(wait, pb_format("boot %u within ten minutes", attempt));
    pb_warn(pb_format("%t boots in a loop: %u times within ten minutes", request->mac, attempt));
    pb_text text = pb_format("boot %u within ten minutes: tag it %t to let it go on", attempt, tag);
    return pb_refuse(text, text);
}

PUREBOOT_BOOT(decide)
