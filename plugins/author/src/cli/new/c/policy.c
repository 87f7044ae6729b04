// Machines of one manufacturer boot their disk; of the others this plugin has no opinion.
#include "sdk/pureboot_policy.h"

static pb_decided decide(const pb_boot_request *request) {
    pb_maybe_text known = pb_value(request->hardware, "manufacturer");
    if (!known.is_some || !pb_same(known.value, pb_setting(&request->site, "manufacturer"))) return pb_pass();
    return pb_local_disk(pb_format("machines of %t boot their disk", known.value));
}

PUREBOOT_BOOT(decide)
