/* A GPU in C, for tests: it runs what `translate.py` makes of a kernel's PTX, thread by thread, and complains where
   a real one would compute something else now and then, or hang.

   Threads are run one at a time, each up to where it must wait for others; which is next, and when copies end that
   run by themselves, is drawn. Every access to memory is checked: is it aligned, inside an array, and ordered by a
   barrier (or by fences and a counter) against what other threads do with the same four bytes? */

#include <fenv.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARP_SIZE = 32, WARPGROUP_SIZE = 128, RESIDENT = 4, MOST_BARRIERS = 32, MOST_COPIES = 512, MOST_PRODUCTS = 64 };
enum { MOST_JUMPS = 100000000 }; /* of a thread: more must be a mistake */
enum { SHARED_START = 1024, POISON = 0x7f };    /* all bytes 0x7f: a large integer, and huge as a float */
enum { READY, AT_BARRIER, IN_WARP, IN_WARPGROUP, FOR_COPIES, ENDED }; /* what a thread waits for */
enum { MMA_TF32, MMA_BF16, WGMMA_TF32, WGMMA_BF16 };
enum { MANY = -1 }; /* in place of a reader: several threads read */

/* Who touched four bytes of shared memory last. An epoch is the time between two barriers of the block. */
struct cell {
    uint32_t write_epoch, read_epoch;
    int16_t writer, reader;
    int16_t flying;  /* copies to it under way */
    int16_t reading; /* products of warpgroups under way that read it */
    int16_t barrier; /* 1 + where the bulk copy counted that wrote it, or 0 */
    uint32_t phase;  /* of that barrier, which must have ended before it is read */
};

/* The same for memory of the device. Blocks are counted from 1: all zero means that nobody did. */
struct global_cell {
    uint32_t write_block, read_block, write_epoch, read_epoch;
    int32_t writer, reader;
    uint64_t unused;
};

/* What a thread did to memory. `line`: of the PTX. */
struct access { uint64_t address; uint32_t line; uint16_t lane, size; uint8_t shared, writes, unused[6]; };

struct allocation { uint64_t start, size; struct global_cell *cells; };

struct copy { uint32_t shared; uint64_t from; int size, read, group; };
struct bulk_copy { uint32_t shared; uint64_t from; uint32_t size; int barrier; };
struct barrier { uint32_t place, count, pending, phase; int64_t bytes; int owner, fenced; };
struct product { int active, warpgroup, group, waiting, words; uint32_t *places; };
struct released { uint32_t epoch; int by; };           /* what a block did before this epoch, and thread `by` in it */
struct acquired { struct released of; uint32_t when; int by; };   /* and since when another block's thread sees it */
struct counter { uint64_t address; struct released *released; struct counter *next; };

struct thread {
    int number, at, state, line, jumps;
    struct block *block;
    void *registers;
    struct copy copies[MOST_COPIES];
    int copies_count, group;
    int products_group, products_done;
    int fenced;               /* since the last barrier */
    struct counter *counted;  /* to be acquired by the next fence */
    uint32_t seen[MOST_BARRIERS];
    int operation, width;     /* of the product that it wants computed together with others */
    uint32_t in[10];
    uint64_t descriptors[2];
    float *out[128];
};

struct block {
    uint32_t index[3];
    uint32_t number, epoch; /* counted from 1 */
    char *shared;
    struct cell *cells;
    struct thread *threads;
    char *registers;
    struct barrier barriers[MOST_BARRIERS];
    int barriers_count;
    struct bulk_copy *bulk;
    int bulk_count, bulk_room;
    struct product products[MOST_PRODUCTS];
    struct acquired *acquired;
};

static struct {
    const struct allocation *allocations; /* in order */
    int allocations_count, last; /* and the one used last */
    uint32_t grid[3], threads, blocks, shared, dynamic_shared;
    uint64_t random;
    int eager; /* copies end as early as possible, or as late */
    const char *parameters;
    struct counter *counters;
    struct access *trace; /* of a warp, if wanted: the first one of the block that is told */
    uint32_t trace_room, traced;
    uint32_t *trace_count;
    char *message;
    jmp_buf failed;
} gpu;

static _Noreturn void fail(struct thread *t, const char *words, ...)
{
    va_list list;
    int n = t ? sprintf(gpu.message, "line %d, block (%u, %u, %u), thread %d: ", t->line, t->block->index[0],
                        t->block->index[1], t->block->index[2], t->number) : 0;
    va_start(list, words);
    vsprintf(gpu.message + n, words, list);
    va_end(list);
    longjmp(gpu.failed, 1);
}

static void note(struct thread *t, uint64_t address, uint32_t size, int shared, int writes)
{
    if (*gpu.trace_count < gpu.trace_room && t->block->number == gpu.traced && t->number < WARP_SIZE)
        gpu.trace[(*gpu.trace_count)++] = (struct access){address, t->line, t->number, size, shared, writes};
}

static uint32_t draw(uint32_t n) /* below n */
{
    gpu.random ^= gpu.random << 13, gpu.random ^= gpu.random >> 7, gpu.random ^= gpu.random << 17;
    return (uint32_t)((gpu.random >> 32) * n >> 32);
}

#include "numbers.h"
#include "memory.h"
#include "copies.h"
#include "tensor_cores.h"

/* --- running -------------------------------------------------------------------------------------- */

static void jump(struct thread *t)
{
    if (++t->jumps == MOST_JUMPS) fail(t, "does not come to an end");
}

static int run(struct thread *t); /* the kernel: until it has to wait; what for */
extern const size_t registers_size;

static void start_block(struct block *b, uint32_t number)
{
    struct thread *threads = b->threads;
    uint32_t *x = b->index;
    b->number = number + 1, b->epoch = 1, b->barriers_count = b->bulk_count = 0;
    x[0] = number % gpu.grid[0], x[1] = number / gpu.grid[0] % gpu.grid[1], x[2] = number / gpu.grid[0] / gpu.grid[1];
    memset(b->shared, POISON, gpu.shared);
    memset(b->cells, 0, (gpu.shared + 15) / 4 * sizeof *b->cells);
    memset(b->acquired, 0, gpu.blocks * sizeof *b->acquired);
    memset(threads, 0, gpu.threads * sizeof *threads);
    memset(b->registers, POISON, gpu.threads * registers_size);
    for (uint32_t i = 0; i < gpu.threads; i++)
        threads[i].number = i, threads[i].block = b, threads[i].registers = b->registers + i * registers_size;
}

/* Threads first, first + 1, ... wait for the same: those that are to do something together. */
static int are_together(struct thread *first, int count, int state)
{
    for (int i = 0; i < count; i++)
        if (first[i].state != state) return 0;
    for (int i = 1; i < count; i++)
        if (first[i].at != first->at) fail(first + i, "is elsewhere than the others of its warp or warpgroup");
    for (int i = 0; i < count; i++) first[i].state = READY;
    return 1;
}

/* Let those go on that have all come to where they wait for each other. */
static int meet(struct block *b)
{
    int met = 0, at_barrier = 0, ended = 0;
    for (uint32_t i = 0; i < gpu.threads; i++) {
        struct thread *t = b->threads + i;
        if (t->state == IN_WARP && i % WARP_SIZE == 0 && are_together(t, WARP_SIZE, IN_WARP))
            multiply_in_warp(t), met = 1;
        if (t->state == IN_WARPGROUP && i % WARPGROUP_SIZE == 0 && are_together(t, WARPGROUP_SIZE, IN_WARPGROUP))
            multiply_in_warpgroup(t), met = 1;
        at_barrier += t->state == AT_BARRIER, ended += t->state == ENDED;
    }
    if (at_barrier && at_barrier + ended == (int)gpu.threads) {
        b->epoch++, met = 1;
        for (uint32_t i = 0; i < gpu.threads; i++) {
            b->threads[i].fenced = 0;
            if (b->threads[i].state == AT_BARRIER) b->threads[i].state = READY;
        }
    }
    return met;
}

/* A turn of a block: all threads that can go on, or most of them, from any one on. Nonzero: something happened. */
static int turn(struct block *b)
{
    uint32_t first = draw(gpu.threads), most = draw(2), moved = 0;
    for (uint32_t i = 0; i < gpu.threads; i++) {
        struct thread *t = b->threads + (first + i) % gpu.threads;
        if ((t->state != READY && t->state != FOR_COPIES) || (most && !draw(4))) continue;
        int before = t->state;
        t->state = run(t);
        moved |= t->state != FOR_COPIES || before == READY;
        if (t->state == ENDED && t->copies_count) fail(t, "ends before its copies");
        if (t->state == ENDED && t->products_done < t->products_group) fail(t, "ends before its products");
    }
    moved |= meet(b);
    if (b->bulk_count && (gpu.eager ? draw(2) : !moved)) end_bulk_copy(b, draw(b->bulk_count)), moved = 1;
    return moved;
}

static int has_ended_block(struct block *b)
{
    for (uint32_t i = 0; i < gpu.threads; i++)
        if (b->threads[i].state != ENDED) return 0;
    if (b->bulk_count) fail(b->threads, "the block ends before its copies");
    return 1;
}

static void run_blocks(struct block *blocks)
{
    uint32_t started = 0, *order = malloc(gpu.blocks * sizeof *order);
    for (uint32_t i = 0; i < gpu.blocks; i++) order[i] = i;
    for (uint32_t i = gpu.blocks; i-- > 1;) {
        uint32_t j = draw(i + 1), kept = order[i];
        order[i] = order[j], order[j] = kept;
    }
    int running[RESIDENT] = {0}, active = 0, idle = 0;
    while (started < gpu.blocks || active) {
        int i = draw(RESIDENT);
        if (!running[i]) {
            if (started == gpu.blocks) continue;
            start_block(blocks + i, order[started++]);
            running[i] = 1, active++;
        }
        idle = turn(blocks + i) ? 0 : idle + 1;
        if (idle > 100 * RESIDENT) {
            for (struct thread *t = blocks[i].threads; t < blocks[i].threads + gpu.threads; t++)
                if (t->state != ENDED) fail(t, "waits for ever");
            idle = 0;
        }
        if (has_ended_block(blocks + i)) running[i] = 0, active--;
    }
    free(order);
}

/* Run a kernel. Nonzero: `message` says what was wrong. */
int launch(const struct allocation *allocations, int allocations_count, const uint32_t *grid, uint32_t threads,
           uint32_t dynamic_shared, uint64_t seed, const char *parameters, uint32_t static_shared, struct access *trace,
           uint32_t trace_room, uint32_t traced, uint32_t *trace_count, char *message)
{
    struct block blocks[RESIDENT] = {0};
    memset(&gpu, 0, sizeof gpu);
    gpu.allocations = allocations, gpu.allocations_count = allocations_count;
    gpu.threads = threads, gpu.message = message, gpu.parameters = parameters;
    gpu.trace = trace, gpu.trace_room = trace_room, gpu.traced = traced + 1, gpu.trace_count = trace_count;
    memcpy(gpu.grid, grid, sizeof gpu.grid);
    gpu.blocks = grid[0] * grid[1] * grid[2];
    gpu.dynamic_shared = dynamic_shared, gpu.shared = static_shared + dynamic_shared;
    gpu.random = seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < 8; i++) draw(2);
    gpu.eager = draw(2);
    for (int i = 0; i < RESIDENT; i++) {
        blocks[i].shared = aligned_alloc(1024, (gpu.shared + 2047) / 1024 * 1024);
        blocks[i].cells = malloc((gpu.shared + 15) / 4 * sizeof *blocks[i].cells);
        blocks[i].threads = malloc(threads * sizeof *blocks[i].threads);
        blocks[i].registers = malloc(threads * registers_size + 1);
        blocks[i].acquired = malloc(gpu.blocks * sizeof *blocks[i].acquired);
    }
    int wrong = setjmp(gpu.failed);
    if (!wrong) run_blocks(blocks);
    for (int i = 0; i < RESIDENT; i++) {
        for (int p = 0; p < MOST_PRODUCTS; p++)
            if (blocks[i].products[p].active) free(blocks[i].products[p].places);
        free(blocks[i].shared), free(blocks[i].cells), free(blocks[i].threads), free(blocks[i].registers);
        free(blocks[i].acquired), free(blocks[i].bulk);
    }
    for (struct counter *c = gpu.counters, *next; c; c = next) next = c->next, free(c->released), free(c);
    return wrong;
}
