/* Every access to memory: does it lie in an array, is it aligned, and is it ordered against what other threads do with
   the same four bytes? Source: NVIDIA, "PTX ISA", section "Memory Consistency Model". */

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
