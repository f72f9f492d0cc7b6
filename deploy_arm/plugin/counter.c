/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A plugin for qemu-user 7.2 (plugin interface version 1): how often every translated block of a program was executed and
 * how many cache lines it missed, separately for each operation of the program.
 *
 * Arguments: out=FILE (required), cache=on|off (default on), code=on|off (default off), l1=BYTES, l1_ways=N, l2=BYTES,
 * l2_ways=N.
 *
 * The program announces operation i by the system call getsid(-(MARK + i)), harmless because no such process exists. What
 * runs from there to the next announcement is region i; before the first it is region -1. Output, one record per line:
 *     region INDEX ACCESSES L1_MISSES L2_MISSES
 *     block ADDRESS INSTRUCTIONS BYTES EXECUTIONS        (of the region above; only blocks that were executed)
 *     code ADDRESS HEX                                   (with code=on: a block's machine code, once, after all regions)
 *     entry ADDRESS                                      (where the program began: a position-independent one has moved)
 *     end
 * A region that is entered again gives another record; readers add them. Counters are plain memory, so figures are exact for
 * a program of one thread only; a program with more is refused rather than miscounted.
 *
 * The interface's header is not packaged by Debian; the declarations below state its public names and types.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"

#define EXPORT __attribute__((visibility("default")))
#define MARK 1000000
#define SYSCALL_GETSID 156 /* aarch64 */

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
    const char *target_name;
    struct {
        int min, cur;
    } version;
    bool system_emulation;
    struct {
        int smp_vcpus, max_vcpus;
    } system;
} qemu_info_t;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_RW = 3 };
typedef void (*translate_callback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*memory_callback)(unsigned vcpu, qemu_plugin_meminfo_t, uint64_t address, void *data);
typedef void (*syscall_callback)(qemu_plugin_id_t, unsigned vcpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t, uint64_t);
typedef void (*exit_callback)(qemu_plugin_id_t, void *data);
typedef void (*vcpu_callback)(qemu_plugin_id_t, unsigned vcpu);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translate_callback);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, memory_callback, enum qemu_plugin_cb_flags,
                                      enum qemu_plugin_mem_rw, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_callback);
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, vcpu_callback);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_callback, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
uint64_t qemu_plugin_entry_code(void);

EXPORT int qemu_plugin_version = 1;

typedef struct block {
    uint64_t address, instructions, bytes;
    uint64_t executions; /* since the latest marker; translated code adds to it */
    bool counted;        /* executed after the first marker */
    uint8_t *code;       /* NULL unless wanted */
    struct block *next_in_bucket, *next;
} block;

#define BUCKETS 16384
static block *buckets[BUCKETS];
static block *blocks; /* all, latest first; never freed: translated code points into them */
static cache_model cache;
static bool cache_on = true, code_on = false;
static FILE *output;
static int64_t region = -1;
static uint64_t entry;

/* The same code may be translated again (the translation buffer was flushed): one counter serves both. */
static block *find_block(uint64_t address, uint64_t instructions, uint64_t bytes)
{
    block **bucket = &buckets[(address >> 2) % BUCKETS];
    for (block *b = *bucket; b != NULL; b = b->next_in_bucket) {
        if (b->address == address && b->instructions == instructions) {
            return b;
        }
    }
    block *b = calloc(1, sizeof *b);
    if (b == NULL) {
        fprintf(stderr, "counter plugin: out of memory\n");
        exit(1);
    }
    *b = (block){address, instructions, bytes, 0, false, NULL, *bucket, blocks};
    blocks = *bucket = b;
    return b;
}

static void on_memory(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
    (void)vcpu, (void)data;
    cache_access(&cache, address, 1u << qemu_plugin_mem_size_shift(info));
}

/* Keeps the block's instructions: a library that is loaded by name cannot be found again by its addresses. */
static void keep_code(block *b, const struct qemu_plugin_tb *tb, size_t count)
{
    b->code = malloc(b->bytes);
    if (b->code == NULL) {
        fprintf(stderr, "counter plugin: out of memory\n");
        exit(1);
    }
    uint8_t *to = b->code;
    for (size_t i = 0; i < count; i++) {
        const struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        size_t size = qemu_plugin_insn_size(instruction);
        memcpy(to, qemu_plugin_insn_data(instruction), size);
        to += size;
    }
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    if (entry == 0) {
        entry = qemu_plugin_entry_code();
    }
    size_t count = qemu_plugin_tb_n_insns(tb);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        bytes += qemu_plugin_insn_size(instruction);
        if (cache_on) {
            qemu_plugin_register_vcpu_mem_cb(instruction, on_memory, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
        }
    }
    block *b = find_block(qemu_plugin_tb_vaddr(tb), count, bytes);
    if (code_on && b->code == NULL) {
        keep_code(b, tb, count);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &b->executions, 1);
}

/* Writes what was counted since the latest marker and starts again from zero; the caches keep their contents. */
static void close_region(void)
{
    fprintf(output, "region %" PRId64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", region, cache.accesses,
            cache.first.misses, cache.second.misses);
    for (block *b = blocks; b != NULL; b = b->next) {
        if (b->executions != 0) {
            fprintf(output, "block %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", b->address, b->instructions,
                    b->bytes, b->executions);
            b->executions = 0;
            b->counted |= region >= 0;
        }
    }
    cache.accesses = cache.first.misses = cache.second.misses = 0;
}

static void on_syscall(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    int32_t process = (int32_t)a1;
    if (number == SYSCALL_GETSID && process <= -MARK) {
        close_region();
        region = -(int64_t)process - MARK;
    }
}

static void on_vcpu(qemu_plugin_id_t id, unsigned vcpu)
{
    (void)id;
    if (vcpu > 0) {
        fprintf(stderr, "counter plugin: the program started a second thread; only one can be counted\n");
        _Exit(1);
    }
}

static void on_exit_of_program(qemu_plugin_id_t id, void *data)
{
    (void)id, (void)data;
    close_region();
    for (block *b = blocks; b != NULL; b = b->next) {
        if (b->counted && b->code != NULL) {
            fprintf(output, "code %" PRIu64 " ", b->address);
            for (uint64_t i = 0; i < b->bytes; i++) {
                fprintf(output, "%02x", b->code[i]);
            }
            fputc('\n', output);
        }
    }
    fprintf(output, "entry %" PRIu64 "\n", entry);
    fprintf(output, "end\n");
    if (fclose(output) != 0) {
        perror("counter plugin");
    }
}

static bool set_option(const char *argument, const char *name, uint64_t *value)
{
    size_t length = strlen(name);
    if (strncmp(argument, name, length) != 0 || argument[length] != '=') {
        return false;
    }
    char *end;
    *value = strtoull(argument + length + 1, &end, 10);
    return *end == '\0' && end != argument + length + 1;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    uint64_t l1 = 65536, l1_ways = 4, l2 = 524288, l2_ways = 8;
    const char *path = NULL;
    if (info->system_emulation || strcmp(info->target_name, "aarch64") != 0) {
        fprintf(stderr, "counter plugin: only for qemu-aarch64\n");
        return -1;
    }
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0) {
            path = argv[i] + 4;
        } else if (strcmp(argv[i], "cache=off") == 0 || strcmp(argv[i], "cache=on") == 0) {
            cache_on = strcmp(argv[i], "cache=on") == 0;
        } else if (strcmp(argv[i], "code=off") == 0 || strcmp(argv[i], "code=on") == 0) {
            code_on = strcmp(argv[i], "code=on") == 0;
        } else if (!set_option(argv[i], "l1", &l1) && !set_option(argv[i], "l1_ways", &l1_ways) &&
                   !set_option(argv[i], "l2", &l2) && !set_option(argv[i], "l2_ways", &l2_ways)) {
            fprintf(stderr, "counter plugin: argument %s is not understood\n", argv[i]);
            return -1;
        }
    }
    if (cache_on && (l1_ways > 64 || l2_ways > 64 || !cache_init(&cache, l1, (unsigned)l1_ways, l2, (unsigned)l2_ways))) {
        fprintf(stderr, "counter plugin: cache sizes must be 64 bytes x ways (at most 64) x a power of two\n");
        return -1;
    }
    output = path == NULL ? NULL : fopen(path, "w");
    if (output == NULL) {
        fprintf(stderr, "counter plugin: cannot write %s\n", path == NULL ? "(out= is missing)" : path);
        return -1;
    }
    qemu_plugin_register_vcpu_init_cb(id, on_vcpu);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
    return 0;
}
