// What a PureBoot site policy in C is written with: the contract wit/since-0.1/policy.wit, and what writing one takes without a libc.
//
// The structs lie in memory as the component model lays them out (its canonical ABI), so nothing is copied or converted on the way in
// or out. What is allocated is never freed: each call has an instance of its own, which ends with it.
#ifndef PUREBOOT_POLICY_H
#define PUREBOOT_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Text in UTF-8, without a zero at its end.
typedef struct { const char *at; uint32_t len; } pb_text;
typedef struct { const pb_text *at; uint32_t len; } pb_texts;
typedef struct { pb_text name, value; } pb_var;
typedef struct { const pb_var *at; uint32_t len; } pb_vars;

// What may not be given.
typedef struct { bool is_some; pb_text value; } pb_maybe_text;
typedef struct { bool is_some; uint32_t value; } pb_maybe_u32;
typedef struct { bool is_some; uint16_t value; } pb_maybe_u16;

enum { PB_X86_BIOS, PB_X86_UEFI, PB_X64_UEFI, PB_ARM32_UEFI, PB_ARM64_UEFI, PB_RISCV64_UEFI, PB_OTHER_ARCH };

typedef struct {
    pb_text id;
    // This policy's settings at this site; see pb_setting.
    pb_vars settings;
    // Seconds since the controller was last reached; none: online.
    pb_maybe_u32 offline_for;
    // What to add to `now` for the site's wall clock, in minutes.
    int16_t utc_offset_minutes;
} pb_site;

typedef struct {
    pb_text id, mac;
    pb_maybe_text hostname;
    // "discovered", "pending", "installing", "active" ...
    pb_text state;
    pb_maybe_text workflow, group;
    pb_texts tags;
    pb_vars attributes;
    // Seconds since the controller last confirmed this record.
    uint32_t age;
    bool stale;
} pb_node;
typedef struct { bool is_some; pb_node value; } pb_maybe_node;

typedef struct {
    // Lower case, with colons.
    pb_text mac;
    // PB_X86_BIOS ...
    uint8_t arch;
    pb_maybe_u16 arch_code;
    pb_maybe_text client_ip;
    // "serial", "uuid", "manufacturer", "product", "asset" ...; see pb_value.
    pb_vars hardware;
    // None: this site has never seen the machine.
    pb_maybe_node node;
    pb_site site;
    // Unix seconds.
    uint32_t now;
    // Boots of this machine within ten minutes, this one included.
    uint32_t attempt;
} pb_boot_request;

// What a hook returns: made with the functions below.
typedef struct { uint8_t tag; union { pb_text text; uint32_t seconds; } value; } pb_action;
typedef struct { pb_action action; pb_vars set; pb_maybe_text reason; } pb_decision;
typedef struct { bool is_error; union { pb_decision decision; pb_text error; } value; } pb_decided;
typedef struct { bool is_error; union { pb_maybe_text script; pb_text error; } value; } pb_patched;

// What a script is for.
enum { PB_FOR_LOCAL_DISK, PB_FOR_DISCOVERY, PB_FOR_WORKFLOW, PB_FOR_CHAIN, PB_FOR_POLICY_SCRIPT, PB_FOR_HOLD, PB_FOR_REFUSE, PB_FOR_OTHER };

typedef struct {
    pb_text category, path;
    pb_maybe_u32 size_kib;
    bool required, assigned;
    uint32_t hits;
    // Seconds since it was last used; none: never.
    pb_maybe_u32 idle;
} pb_item;
typedef struct { pb_site site; uint32_t now, used_mib, limit_mib; } pb_context;
typedef struct { bool store; pb_maybe_u32 ttl; bool pin; uint8_t priority; } pb_verdict;
typedef struct { bool is_some; pb_verdict value; } pb_maybe_verdict;
typedef struct { bool is_error; union { struct { pb_maybe_verdict *at; uint32_t len; } verdicts; pb_text error; } value; } pb_judged;

// --- texts

// The text of a literal, or of anything that ends with a zero.
pb_text pb_of(const char *text);
// Whether two texts are the same.
bool pb_is(pb_text text, const char *other);
bool pb_same(pb_text text, pb_text other);
// A text made of others: %s is a const char *, %t a pb_text, %u a uint32_t, %% itself.
pb_text pb_format(const char *format, ...);
// Memory that lasts as long as the call; it is zero.
void *pb_alloc(size_t len);

// --- what the request says

// The value of a name, if there is one.
pb_maybe_text pb_value(pb_vars vars, const char *name);
bool pb_has(pb_texts texts, pb_text text);
// A setting of this policy. What policy.json declares has a value; what it does not ends the call, with a line in the log.
pb_text pb_setting(const pb_site *site, const char *name);
// A setting that is a number; else false, and the error to return.
bool pb_number(const pb_site *site, const char *name, uint32_t *number, pb_text *error);
// The minute of the day on the site's wall clock, 0 to 1439.
uint32_t pb_minute_of_day(const pb_site *site, uint32_t now);

// --- the log, and with the capability "nodes" the site's nodes

void pb_debug(pb_text line);
void pb_info(pb_text line);
void pb_warn(pb_text line);
pb_maybe_node pb_node_of(pb_text mac);
typedef struct { const pb_node *at; uint32_t len; } pb_nodes;
pb_nodes pb_nodes_in(pb_text group);

// --- answers

pb_decided pb_pass(void);
pb_decided pb_local_disk(pb_text reason);
pb_decided pb_discovery(pb_text reason);
pb_decided pb_last_known(pb_text reason);
// Only for a machine whose record asks for an installation.
pb_decided pb_workflow(pb_text name, pb_text reason);
pb_decided pb_chain(pb_text key, pb_text reason);
pb_decided pb_script(pb_text script, pb_text reason);
// 5 to 3600 seconds.
pb_decided pb_hold(uint32_t seconds, pb_text reason);
pb_decided pb_refuse(pb_text text, pb_text reason);
// The same answer, and a template variable with it.
pb_decided pb_with(pb_decided answer, const char *name, pb_text value);
// The policy's own failure: as if it had no opinion, but counted and logged.
pb_decided pb_decide_error(pb_text error);

pb_patched pb_keep_script(void);
pb_patched pb_new_script(pb_text script);
pb_patched pb_patch_error(pb_text error);

// As many verdicts as there are items, all without opinion.
pb_judged pb_verdicts(uint32_t len);
pb_judged pb_judge_error(pb_text error);

// --- hooks: each names the function that answers it, once, in one file

#define PB_EXPORT(name) __attribute__((export_name(name)))

#define PUREBOOT_BOOT(decide)                                                         \
    PB_EXPORT("pureboot:policy/boot@0.1.0#decide")                                    \
    const pb_decided *pb_export_decide(const pb_boot_request *request) {              \
        static pb_decided answer;                                                     \
        answer = decide(request);                                                     \
        return &answer;                                                               \
    }

#define PUREBOOT_SCRIPT(patch)                                                        \
    typedef struct { pb_boot_request request; uint8_t purpose; pb_text script; } pb_patch_question; \
    PB_EXPORT("pureboot:policy/script@0.1.0#patch")                                   \
    const pb_patched *pb_export_patch(const pb_patch_question *question) {            \
        static pb_patched answer;                                                     \
        answer = patch(&question->request, question->purpose, question->script);      \
        return &answer;                                                               \
    }

#define PUREBOOT_CACHE(judge)                                                         \
    PB_EXPORT("pureboot:policy/cache@0.1.0#judge")                                    \
    const pb_judged *pb_export_judge(const char *id, uint32_t id_len, const pb_var *settings, uint32_t settings_len, uint32_t is_offline, \
                                     uint32_t offline_for, int32_t utc_offset_minutes, uint32_t now, uint32_t used_mib, uint32_t limit_mib, \
                                     const pb_item *items, uint32_t items_len) {      \
        static pb_judged answer;                                                      \
        const pb_context context = {                                                  \
            { { id, id_len }, { settings, settings_len }, { is_offline != 0, offline_for }, (int16_t)utc_offset_minutes }, \
            now, used_mib, limit_mib,                                                 \
        };                                                                            \
        answer = judge(&context, items, items_len);                                   \
        return &answer;                                                               \
    }

#endif
