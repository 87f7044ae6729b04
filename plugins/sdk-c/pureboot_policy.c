#include "pureboot_policy.h"

#include <stdarg.h>

// The sizes of the canonical ABI. A compiler that lays structs out otherwise stops here.
_Static_assert(sizeof(void *) == 4, "a policy is built for wasm32");
_Static_assert(sizeof(pb_site) == 28 && sizeof(pb_node) == 84 && sizeof(pb_boot_request) == 160, "records");
_Static_assert(offsetof(pb_boot_request, node) == 36 && offsetof(pb_boot_request, site) == 124, "records");
_Static_assert(sizeof(pb_decided) == 36 && sizeof(pb_patched) == 16 && sizeof(pb_judged) == 12, "results");
_Static_assert(sizeof(pb_item) == 40 && sizeof(pb_maybe_verdict) == 20, "items");

#define PAGE_LEN 65536u

enum { DEBUG, INFO, WARN };
enum { PASS, LOCAL_DISK, DISCOVERY, LAST_KNOWN, WORKFLOW, CHAIN, SCRIPT, HOLD, REFUSE };

__attribute__((import_module("pureboot:policy/log@0.1.0"), import_name("log")))
void import_log(uint32_t level, const char *at, uint32_t len);
__attribute__((import_module("pureboot:policy/nodes@0.1.0"), import_name("get")))
void import_get(const char *mac, uint32_t len, pb_maybe_node *node);
__attribute__((import_module("pureboot:policy/nodes@0.1.0"), import_name("in-group")))
void import_in_group(const char *group, uint32_t len, pb_nodes *nodes);

// What a compiler calls by itself.

void *memcpy(void *to, const void *from, size_t len) {
    for (size_t at = 0; at < len; at++) ((char *)to)[at] = ((const char *)from)[at];
    return to;
}

void *memset(void *to, int byte, size_t len) {
    for (size_t at = 0; at < len; at++) ((char *)to)[at] = (char)byte;
    return to;
}

// --- memory

// Where the linker put the end of all that is there from the start.
extern unsigned char __heap_base;
static uintptr_t heap;

// Memory is zero until it is used, and is used once.
static void *take(size_t align, size_t len) {
    if (heap == 0) heap = (uintptr_t)&__heap_base;
    uintptr_t at = (heap + align - 1) & ~(uintptr_t)(align - 1);
    uintptr_t end = at + len;
    if (end < at) __builtin_trap();
    uintptr_t has = __builtin_wasm_memory_size(0) * PAGE_LEN;
    if (end > has && __builtin_wasm_memory_grow(0, (end - has + PAGE_LEN - 1) / PAGE_LEN) == (size_t)-1) __builtin_trap();
    heap = end;
    return (void *)at;
}

void *pb_alloc(size_t len) {
    return take(8, len);
}

PB_EXPORT("cabi_realloc")
void *pb_export_realloc(void *old, size_t old_len, size_t align, size_t len) {
    void *at = take(align, len);
    return memcpy(at, old, old_len < len ? old_len : len);
}

// --- texts

pb_text pb_of(const char *text) {
    uint32_t len = 0;
    while (text[len] != 0) len++;
    return (pb_text){ text, len };
}

bool pb_same(pb_text text, pb_text other) {
    if (text.len != other.len) return false;
    for (uint32_t at = 0; at < text.len; at++) {
        if (text.at[at] != other.at[at]) return false;
    }
    return true;
}

bool pb_is(pb_text text, const char *other) {
    return pb_same(text, pb_of(other));
}

static pb_text digits(uint32_t number) {
    char *end = (char *)take(1, 10) + 10;
    char *at = end;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    return (pb_text){ at, (uint32_t)(end - at) };
}

static pb_text joined(pb_text head, pb_text tail) {
    char *at = take(1, head.len + tail.len);
    memcpy(at, head.at, head.len);
    memcpy(at + head.len, tail.at, tail.len);
    return (pb_text){ at, head.len + tail.len };
}

pb_text pb_format(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    pb_text text = { format, 0 };
    while (*format != 0) {
        pb_text part = { format, 0 };
        while (*format != 0 && *format != '%') format++;
        part.len = (uint32_t)(format - part.at);
        text = joined(text, part);
        if (*format == 0) break;
        switch (format[1]) {
        case 's': part = pb_of(va_arg(arguments, const char *)); break;
        case 't': part = va_arg(arguments, pb_text); break;
        case 'u': part = digits(va_arg(arguments, uint32_t)); break;
        case '%': part = pb_of("%"); break;
        default: __builtin_trap();
        }
        text = joined(text, part);
        format += 2;
    }
    va_end(arguments);
    return text;
}

// --- the log and the nodes

void pb_debug(pb_text line) {
    import_log(DEBUG, line.at, line.len);
}

void pb_info(pb_text line) {
    import_log(INFO, line.at, line.len);
}

void pb_warn(pb_text line) {
    import_log(WARN, line.at, line.len);
}

pb_maybe_node pb_node_of(pb_text mac) {
    pb_maybe_node node;
    import_get(mac.at, mac.len, &node);
    return node;
}

pb_nodes pb_nodes_in(pb_text group) {
    pb_nodes nodes;
    import_in_group(group.at, group.len, &nodes);
    return nodes;
}

// --- what the request says

pb_maybe_text pb_value(pb_vars vars, const char *name) {
    for (uint32_t at = 0; at < vars.len; at++) {
        if (pb_is(vars.at[at].name, name)) return (pb_maybe_text){ true, vars.at[at].value };
    }
    return (pb_maybe_text){ false, { name, 0 } };
}

bool pb_has(pb_texts texts, pb_text text) {
    for (uint32_t at = 0; at < texts.len; at++) {
        if (pb_same(texts.at[at], text)) return true;
    }
    return false;
}

pb_text pb_setting(const pb_site *site, const char *name) {
    pb_maybe_text found = pb_value(site->settings, name);
    if (!found.is_some) {
        pb_warn(pb_format("policy.json declares no setting %s", name));
        __builtin_trap();
    }
    return found.value;
}

bool pb_number(const pb_site *site, const char *name, uint32_t *number, pb_text *error) {
    pb_text text = pb_setting(site, name);
    bool is_number = text.len > 0;
    uint64_t sum = 0;
    for (uint32_t at = 0; is_number && at < text.len; at++) {
        uint32_t digit = (uint32_t)(text.at[at] - '0');
        sum = sum * 10 + digit;
        is_number = digit < 10 && sum <= UINT32_MAX;
    }
    if (!is_number) *error = pb_format("%s is \"%t\", not a number", name, text);
    *number = (uint32_t)sum;
    return is_number;
}

uint32_t pb_minute_of_day(const pb_site *site, uint32_t now) {
    int32_t minute = ((int32_t)(now / 60 % 1440) + site->utc_offset_minutes) % 1440;
    return (uint32_t)(minute < 0 ? minute + 1440 : minute);
}

// --- answers

static pb_decided decided(uint8_t tag, pb_text text, pb_maybe_text reason) {
    pb_decided answer = { .is_error = false };
    answer.value.decision.action.tag = tag;
    answer.value.decision.action.value.text = text;
    answer.value.decision.set = (pb_vars){ 0, 0 };
    answer.value.decision.reason = reason;
    return answer;
}

static const pb_text NOTHING = { "", 0 };

static pb_decided said(uint8_t tag, pb_text text, pb_text reason) {
    return decided(tag, text, (pb_maybe_text){ true, reason });
}

pb_decided pb_pass(void) {
    return decided(PASS, NOTHING, (pb_maybe_text){ false, NOTHING });
}

pb_decided pb_local_disk(pb_text reason) {
    return said(LOCAL_DISK, NOTHING, reason);
}

pb_decided pb_discovery(pb_text reason) {
    return said(DISCOVERY, NOTHING, reason);
}

pb_decided pb_last_known(pb_text reason) {
    return said(LAST_KNOWN, NOTHING, reason);
}

pb_decided pb_workflow(pb_text name, pb_text reason) {
    return said(WORKFLOW, name, reason);
}

pb_decided pb_chain(pb_text key, pb_text reason) {
    return said(CHAIN, key, reason);
}

pb_decided pb_script(pb_text script, pb_text reason) {
    return said(SCRIPT, script, reason);
}

pb_decided pb_hold(uint32_t seconds, pb_text reason) {
    pb_decided answer = said(HOLD, NOTHING, reason);
    answer.value.decision.action.value.seconds = seconds;
    return answer;
}

pb_decided pb_refuse(pb_text text, pb_text reason) {
    return said(REFUSE, text, reason);
}

pb_decided pb_with(pb_decided answer, const char *name, pb_text value) {
    pb_vars *set = &answer.value.decision.set;
    pb_var *vars = pb_alloc((set->len + 1) * sizeof(pb_var));
    memcpy(vars, set->at, set->len * sizeof(pb_var));
    vars[set->len] = (pb_var){ pb_of(name), value };
    *set = (pb_vars){ vars, set->len + 1 };
    return answer;
}

pb_decided pb_decide_error(pb_text error) {
    pb_decided answer = { .is_error = true };
    answer.value.error = error;
    return answer;
}

pb_patched pb_keep_script(void) {
    return (pb_patched){ .is_error = false };
}

pb_patched pb_new_script(pb_text script) {
    pb_patched answer = { .is_error = false };
    answer.value.script = (pb_maybe_text){ true, script };
    return answer;
}

pb_patched pb_patch_error(pb_text error) {
    pb_patched answer = { .is_error = true };
    answer.value.error = error;
    return answer;
}

pb_judged pb_verdicts(uint32_t len) {
    pb_judged answer = { .is_error = false };
    answer.value.verdicts.at = pb_alloc(len * sizeof(pb_maybe_verdict));
    answer.value.verdicts.len = len;
    return answer;
}

pb_judged pb_judge_error(pb_text error) {
    pb_judged answer = { .is_error = true };
    answer.value.error = error;
    return answer;
}
