/* Products that a warp, or four of them, compute together. Source of where their numbers lie: NVIDIA, "PTX ISA", sections
   "Warp Level Matrix Multiply-Accumulate Instructions" and "Asynchronous Warpgroup Level Matrix Instructions". */

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
