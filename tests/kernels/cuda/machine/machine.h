/* A GPU in C, for tests: it runs what `translate.py` makes of a kernel's PTX, thread by thread, and complains where
   a real one would compute something else now and then, or hang.

   Threads are run one at a time, each up to where it must wait for others; which is next, and when copies end that
   run by themselves, is drawn. Every access to memory is checked: is it aligned, inside an array, and ordered by a
   barrier (or by fences and a counter) against what other threads do with the same four bytes?

   Source: NVIDIA, "PTX ISA", sections "Memory Consistency Model", "cp.async", "mbarrier", "Async proxy", "Warp Level
   Matrix Multiply-Accumulate Instructions", and "Asynchronous Warpgroup Level Matrix Instructions". */

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

/* --- shared memory ---------------------------------------------------------------------------- */

static void reads(struct thread *t, struct cell *c, uint32_t place)
{
    uint32_t epoch = t->block->epoch;
    if (c->flying) fail(t, "reads shared memory at %u, to which a copy is under way", place);
    if (c->barrier && t->seen[c->barrier - 1] <= c->phase)
        fail(t, "reads shared memory at %u without having waited for its copy", place);
    if (!c->barrier && c->write_epoch == epoch && c->writer != t->number)
        fail(t, "reads shared memory at %u, which thread %d writes: no barrier is between", place, c->writer);
    c->reader = c->read_epoch == epoch && c->reader != t->number ? MANY : t->number;
    c->read_epoch = epoch;
}

static void writes(struct thread *t, struct cell *c, uint32_t place)
{
    uint32_t epoch = t->block->epoch;
    if (c->flying) fail(t, "writes shared memory at %u, to which a copy is under way", place);
    if (c->reading) fail(t, "writes shared memory at %u, which a product under way reads", place);
    if (c->write_epoch == epoch && c->writer != t->number)
        fail(t, "writes shared memory at %u, and so does thread %d: no barrier is between", place, c->writer);
    if (c->read_epoch == epoch && c->reader != t->number)
        fail(t, "writes shared memory at %u, which thread %d reads: no barrier is between", place, c->reader);
    c->writer = t->number, c->write_epoch = epoch, c->barrier = 0;
}

static char *shared_place(struct thread *t, uint64_t address, uint32_t size)
{
    if (address % size && size <= 16) fail(t, "%u bytes of shared memory at %lu: not aligned", size, address);
    if (address < SHARED_START || address + size > SHARED_START + (uint64_t)gpu.shared)
        fail(t, "%u bytes of shared memory at %ld: the block has %u", size, (long)(address - SHARED_START), gpu.shared);
    return t->block->shared + (address - SHARED_START);
}

static char *shared(struct thread *t, uint64_t address, uint32_t size, void (*touches)(struct thread *, struct cell *, uint32_t))
{
    char *place = shared_place(t, address, size);
    note(t, address, size, 1, touches == writes);
    uint32_t first = (address - SHARED_START) / 4;
    for (uint32_t i = 0; i < (size + 3) / 4; i++) touches(t, t->block->cells + first + i, 4 * (first + i));
    return place;
}

/* --- the device's memory ---------------------------------------------------------------------- */

/* The allocation in which all of an access lies. */
static const struct allocation *allocation_of(struct thread *t, uint64_t address, uint64_t size, uint64_t alignment)
{
    const struct allocation *a = gpu.allocations + gpu.last;
    if (address % alignment) fail(t, "%lu bytes at %#lx: not aligned", size, address);
    if (!gpu.allocations_count || address < a->start || address + size > a->start + a->size) {
        int low = 0, high = gpu.allocations_count;
        while (low < high) {
            int middle = (low + high) / 2;
            if (gpu.allocations[middle].start <= address) low = middle + 1; else high = middle;
        }
        if (!low) fail(t, "%lu bytes at %#lx: no array is there", size, address);
        gpu.last = low - 1, a = gpu.allocations + gpu.last;
        if (address + size > a->start + a->size)
            fail(t, "%lu bytes at %#lx: %ld bytes beyond an array of %lu", size, address,
                 (long)(address + size - a->start - a->size), a->size);
    }
    return a;
}

/* Has what a thread of this or another block did in an epoch of its block ended, as this thread sees it? */
static int ordered(struct thread *t, uint32_t block, uint32_t epoch, int by)
{
    struct block *b = t->block;
    if (!block) return 1;
    if (block == b->number) return epoch < b->epoch || by == t->number;
    struct acquired *a = b->acquired + block - 1;
    int released = epoch < a->of.epoch || (epoch == a->of.epoch && by == a->of.by);
    return released && (a->by == t->number || a->when < b->epoch);
}

static void reads_global(struct thread *t, struct global_cell *c, uint64_t address)
{
    struct block *b = t->block;
    if (!ordered(t, c->write_block, c->write_epoch, c->writer))
        fail(t, "reads memory at %#lx, which thread %d of block %u writes", address, c->writer, c->write_block - 1);
    int same = c->read_block == b->number && c->read_epoch == b->epoch;
    c->reader = same && c->reader != t->number ? MANY : t->number;
    c->read_block = b->number, c->read_epoch = b->epoch;
}

static void writes_global(struct thread *t, struct global_cell *c, uint64_t address)
{
    struct block *b = t->block;
    if (!ordered(t, c->write_block, c->write_epoch, c->writer))
        fail(t, "writes memory at %#lx, and so does thread %d of block %u", address, c->writer, c->write_block - 1);
    if (!ordered(t, c->read_block, c->read_epoch, c->reader))
        fail(t, "writes memory at %#lx, which thread %d of block %u reads", address, c->reader, c->read_block - 1);
    c->write_block = b->number, c->write_epoch = b->epoch, c->writer = t->number;
}

static char *global_range(struct thread *t, uint64_t address, uint64_t size, uint64_t alignment,
                          void (*touches)(struct thread *, struct global_cell *, uint64_t))
{
    const struct allocation *a = allocation_of(t, address, size, alignment);
    note(t, address - a->start, size, 0, touches == writes_global); /* as if each array began at a sector */
    struct global_cell *cells = a->cells + (address - a->start) / 4;
    if (size >= 4) /* smaller ones share their cell with neighbors, which is no race */
        for (uint64_t i = 0; i < size / 4; i++) touches(t, cells + i, address + 4 * i);
    return (char *)address;
}

static char *global(struct thread *t, uint64_t address, uint32_t size, void (*touches)(struct thread *, struct global_cell *, uint64_t))
{
    return global_range(t, address, size, size, touches);
}

/* --- counters by which blocks know who is the last ---------------------------------------------- */

static uint32_t atom_inc(struct thread *t, uint64_t address, uint32_t most)
{
    allocation_of(t, address, 4, 4);
    uint32_t *place = (uint32_t *)address, before = *place;
    struct counter *c = gpu.counters;
    while (c && c->address != address) c = c->next;
    if (!c) {
        c = malloc(sizeof *c);
        *c = (struct counter){address, calloc(gpu.blocks, sizeof *c->released), gpu.counters};
        gpu.counters = c;
    }
    if (t->fenced) c->released[t->block->number - 1] = (struct released){t->block->epoch, t->number};
    t->counted = c;
    *place = before >= most ? 0 : before + 1;
    return before;
}

static void fence(struct thread *t)
{
    t->fenced = 1;
    if (!t->counted) return;
    for (uint32_t i = 0; i < gpu.blocks; i++)
        if (t->counted->released[i].epoch)
            t->block->acquired[i] = (struct acquired){t->counted->released[i], t->block->epoch, t->number};
    t->counted = NULL;
}

/* --- cp.async: each thread's own copies ------------------------------------------------------- */

static void end_copies(struct thread *t, int group) /* those before it */
{
    int kept = 0;
    for (int i = 0; i < t->copies_count; i++) {
        struct copy *c = t->copies + i;
        if (c->group >= group) { t->copies[kept++] = *c; continue; }
        char *to = t->block->shared + c->shared;
        memset(to, 0, c->size);
        if (c->read) memcpy(to, (char *)c->from, c->read);
        for (uint32_t w = 0; w < c->size / 4; w++) {
            struct cell *cell = t->block->cells + c->shared / 4 + w;
            cell->flying--;
            writes(t, cell, c->shared + 4 * w);
        }
    }
    t->copies_count = kept;
}

static void copy_async(struct thread *t, uint32_t to, uint64_t from, int size, uint32_t read)
{
    shared(t, to, size, writes);
    if (read > (uint32_t)size || read % 4) fail(t, "a copy of %d bytes reads %u", size, read);
    if (read) global_range(t, from, read, size, reads_global);
    if (t->copies_count == MOST_COPIES) fail(t, "more than %d copies under way", MOST_COPIES);
    for (int w = 0; w < size / 4; w++) t->block->cells[(to - SHARED_START) / 4 + w].flying++;
    t->copies[t->copies_count++] = (struct copy){to - SHARED_START, from, size, read, t->group};
    memset(t->block->shared + to - SHARED_START, POISON, size);
}

static void wait_copies(struct thread *t, int younger)
{
    int group = t->group - younger;
    end_copies(t, gpu.eager ? t->group : group);
}

/* --- barriers in shared memory, and bulk copies that count at them ------------------------------ */

static struct barrier *barrier_at(struct thread *t, uint32_t address)
{
    struct block *b = t->block;
    for (int i = 0; i < b->barriers_count; i++)
        if (b->barriers[i].place == address) {
            struct cell *c = b->cells + (address - SHARED_START) / 4;
            if (c->writer != t->number && c->write_epoch == b->epoch)
                fail(t, "uses a barrier that thread %d begins: no barrier of threads is between", c->writer);
            return b->barriers + i;
        }
    fail(t, "no barrier was begun at %u", address);
}

static void begin_barrier(struct thread *t, uint32_t address, uint32_t count)
{
    struct block *b = t->block;
    shared(t, address, 8, writes);
    if (b->barriers_count == MOST_BARRIERS) fail(t, "more than %d barriers", MOST_BARRIERS);
    b->barriers[b->barriers_count++] = (struct barrier){address, count, count, 0, 0, t->number, 0};
}

static void fence_begun(struct thread *t)
{
    for (int i = 0; i < t->block->barriers_count; i++)
        if (t->block->barriers[i].owner == t->number) t->block->barriers[i].fenced = 1;
}

static void end_phase(struct barrier *s)
{
    if (!s->pending && !s->bytes) s->pending = s->count, s->phase++;
}

static void expect(struct thread *t, uint32_t address, uint32_t bytes)
{
    struct barrier *s = barrier_at(t, address);
    if (!s->pending) fail(t, "arrives at a barrier at which nobody is expected");
    s->bytes += bytes, s->pending--;
    end_phase(s);
}

static int has_ended(struct thread *t, uint32_t address, uint32_t parity)
{
    struct barrier *s = barrier_at(t, address);
    if ((s->phase & 1) == parity) return 0;
    t->seen[s - t->block->barriers] = s->phase;
    return 1;
}

static void copy_bulk(struct thread *t, uint32_t to, uint64_t from, uint32_t size, uint32_t address)
{
    struct block *b = t->block;
    struct barrier *s = barrier_at(t, address);
    if (!s->fenced) fail(t, "a bulk copy counts at a barrier that was not fenced");
    if (to % 16 || size % 16) fail(t, "a bulk copy of %u bytes to %u: not aligned", size, to);
    global_range(t, from, size, 16, reads_global);
    shared_place(t, to, 1), shared_place(t, to + size - 1, 1);
    for (uint32_t i = 0; i < size; i += 4) {
        struct cell *c = b->cells + (to - SHARED_START + i) / 4;
        writes(t, c, to - SHARED_START + i);
        c->flying++;
    }
    memset(b->shared + to - SHARED_START, POISON, size);
    if (b->bulk_count == b->bulk_room)
        b->bulk = realloc(b->bulk, (b->bulk_room = 2 * b->bulk_room + 8) * sizeof *b->bulk);
    b->bulk[b->bulk_count++] = (struct bulk_copy){to - SHARED_START, from, size, s - b->barriers};
}

static void end_bulk_copy(struct block *b, int i)
{
    struct bulk_copy c = b->bulk[i];
    struct barrier *s = b->barriers + c.barrier;
    b->bulk[i] = b->bulk[--b->bulk_count];
    memcpy(b->shared + c.shared, (char *)c.from, c.size);
    for (uint32_t w = c.shared / 4; w < (c.shared + c.size) / 4; w++)
        b->cells[w].flying--, b->cells[w].barrier = c.barrier + 1, b->cells[w].phase = s->phase;
    s->bytes -= c.size;
    end_phase(s);
}

/* --- products of tensor cores --------------------------------------------------------------------- */

static float of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static float tf32(uint32_t bits) { return of_bits(bits & 0xffffe000); } /* the others are not read */
static float bf16(uint32_t bits) { return of_bits(bits << 16); }

/* One of the numbers that a register holds. */
static float factor(int operation, uint32_t bits, int which)
{
    return operation == MMA_TF32 ? tf32(bits) : bf16(bits >> 16 * which & 0xffff);
}

static void multiply_in_warp(struct thread *lane)
{
    int in_register = lane->operation == MMA_TF32 ? 1 : 2, k = 8 * in_register;
    float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < WARP_SIZE; l++) {
        const struct thread *t = lane + l;
        int g = l / 4, m = l % 4;
        for (int e = 0; e < in_register; e++) {
            for (int i = 0; i < 4; i++)
                a[g + 8 * (i % 2)][in_register * (m + 4 * (i / 2)) + e] = factor(t->operation, t->in[i], e);
            for (int i = 0; i < 2; i++) b[in_register * (m + 4 * i) + e][g] = factor(t->operation, t->in[4 + i], e);
        }
        for (int i = 0; i < 4; i++) c[g + 8 * (i / 2)][2 * m + i % 2] = of_bits(t->in[6 + i]);
    }
    for (int l = 0; l < WARP_SIZE; l++)
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
            float sum = 0;
            for (int j = 0; j < k; j++) sum += a[row][j] * b[j][column];
            *lane[l].out[i] = c[row][column] + sum;
        }
}

/* Where a row's 16 bytes lie that a descriptor tells of: core matrices of 8 rows of 16 bytes, next to each other along
   the sum by its first distance, along rows by its second. */
static uint32_t in_core_matrices(struct thread *t, uint64_t descriptor, int row, int chunk)
{
    if (descriptor >> 49) fail(t, "a descriptor with an offset or swizzled rows: %#lx", descriptor);
    uint32_t start = (descriptor & 0x3fff) << 4, along_sum = (descriptor >> 16 & 0x3fff) << 4;
    uint32_t along_rows = (descriptor >> 32 & 0x3fff) << 4;
    return start + row / 8 * along_rows + chunk * along_sum + row % 8 * 16;
}

static void fetch(struct thread *t, struct product *p, uint64_t descriptor, int rows, float (*to)[16])
{
    for (int row = 0; row < rows; row++)
        for (int chunk = 0; chunk < 2; chunk++) {
            uint32_t address = in_core_matrices(t, descriptor, row, chunk);
            const uint32_t *found = (uint32_t *)shared_place(t, address, 16);
            for (int w = 0; w < 4; w++) {
                uint32_t place = (address - SHARED_START) / 4 + w;
                struct cell *c = t->block->cells + place;
                for (int l = 0; l < WARPGROUP_SIZE; l += WARP_SIZE) reads(t + l, c, 4 * place);
                if (!c->barrier) fail(t, "a warpgroup reads shared memory at %u, which no bulk copy wrote", 4 * place);
                c->reading++;
                p->places[p->words++] = place;
                if (t->operation == WGMMA_TF32) to[row][4 * chunk + w] = tf32(found[w]);
                else
                    to[row][8 * chunk + 2 * w] = bf16(found[w] & 0xffff),
                    to[row][8 * chunk + 2 * w + 1] = bf16(found[w] >> 16);
            }
        }
}

static void multiply_in_warpgroup(struct thread *t)
{
    static float a[64][16], b[256][16];
    struct product *p = t->block->products;
    int k = t->operation == WGMMA_TF32 ? 8 : 16;
    for (int l = 1; l < WARPGROUP_SIZE; l++)
        if (memcmp(t[l].descriptors, t->descriptors, sizeof t->descriptors) || t[l].products_group != t->products_group)
            fail(t + l, "threads of a warpgroup want different products");
    while (p->active)
        if (++p == t->block->products + MOST_PRODUCTS) fail(t, "more than %d products under way", MOST_PRODUCTS);
    *p = (struct product){1, t->number / WARPGROUP_SIZE, t->products_group, WARPGROUP_SIZE, 0, malloc((64 + 256) * 8 * 4)};
    fetch(t, p, t->descriptors[0], 64, a);
    fetch(t, p, t->descriptors[1], t->width, b);
    for (int l = 0; l < WARPGROUP_SIZE; l++)
        for (int i = 0; i < t->width / 2; i++) {
            int row = 16 * (l / 32) + l % 32 / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (l % 4) + i % 2;
            float sum = 0;
            for (int j = 0; j < k; j++) sum += a[row][j] * b[column][j];
            *t[l].out[i] += sum;
        }
}

static void wait_products(struct thread *t, int younger)
{
    struct block *b = t->block;
    for (; t->products_done < t->products_group - younger; t->products_done++)
        for (struct product *p = b->products; p < b->products + MOST_PRODUCTS; p++)
            if (p->active && p->warpgroup == t->number / WARPGROUP_SIZE && p->group == t->products_done && !--p->waiting) {
                for (int w = 0; w < p->words; w++) {
                    struct cell *c = b->cells + p->places[w];
                    c->reading--, c->reader = MANY, c->read_epoch = b->epoch;
                }
                p->active = 0;
                free(p->places);
            }
}

/* --- numbers -------------------------------------------------------------------------------------- */

static double of_bits64(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }
static uint64_t bits_of64(double x) { uint64_t bits; memcpy(&bits, &x, 8); return bits; }
static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

static uint32_t to_bf16(float x)
{
    uint32_t bits = bits_of(x);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static float rounded(int how, float x, float y, float z) /* x y + z */
{
    volatile float a = x, b = y, c = z, result;
    fesetround(how);
    result = fmaf(a, b, c);
    fesetround(FE_TONEAREST);
    return result;
}

static void jump(struct thread *t)
{
    if (++t->jumps == MOST_JUMPS) fail(t, "does not come to an end");
}

/* --- running -------------------------------------------------------------------------------------- */

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
        if (t->state == ENDED && t->copies_count) end_copies(t, t->group + 1);
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
