/* Copies to shared memory that run while threads go on: nobody may look at their place until they were waited for. */

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
