/* Products with matrices quantized in blocks of 32 columns, as language models' are.
 *
 * Activations are quantized by blocks too, so that one large value spoils 31 others and not a row.
 * A tile is LANES rows of weights times a few tokens; for each block of columns
 *
 *   y[token] += scale * step[token] * (sum of n * q) + minimum * step[token] * (sum of q)
 *
 * with the inner sum in integers, and both of a token in variables of their own (see linear.h).
 */
#ifndef BLOCKS_H
#define BLOCKS_H

#include <stdlib.h>

#include "linear.h"
#include "pool.h"

#if LANES == 8 || defined(__SSE2__) && LANES == 4 || defined(SMALL_TILES)
#define FEW_REGISTERS 1 /* 16, and not 32 */
#endif

enum {
    BLOCK_COLUMNS = 32,
    PREFETCH_BYTES = 4096, /* a core prefetches no further than a page by itself */
    GROUP_ROWS = 16,
    GROUPS_PER_PIECE = 4,
#ifdef FEW_REGISTERS
    BLOCK_TOKENS_MAX = 4,
#else
    BLOCK_TOKENS_MAX = 8,
#endif
};

typedef struct {
    const uint8_t *group; /* the first block of 16 rows */
    int lane;             /* of the group, the tile's first row */
    const int8_t *q;      /* [tokens, columns] */
    const float *step, *total; /* [tokens, blocks]: of q, and step * (sum of q) */
    const float *bias;    /* of the tile's rows, or null */
    float *y;             /* of the tile's first row */
    int32_t blocks, stride, activation, add;
} BlockTile;

static __attribute__((noinline)) void settle_blocks(const BlockTile *tile, int token, vf y) {
    if (tile->bias) y += load(tile->bias);
    float *out = tile->y + (int64_t)token * tile->stride;
    y = activate(y, tile->activation);
    store(out, tile->add ? y + load(out) : y);
}

/* Column quad c of a block: in 4 bits, quads 2i and 2i + 1 are the halves of the bytes of vector i. */
INLINE vi quad_4(const uint8_t *w, int c) {
    vi v = load_bytes(w + 64 * (c / 2));
    return (c % 2 ? v >> 4 : v) & splat_int(0x0f0f0f0f);
}
INLINE vi quad_8(const uint8_t *w, int c) { return load_bytes(w + 64 * c); }

#define CODES_4 256
#define CODES_8 512
#define MINIMUM_4 load_halves(halves + 2 * GROUP_ROWS)
#define MINIMUM_8 (scale * (float)-OFFSET) /* dot takes off the other 128 - OFFSET itself */
#define DOT_4 dot_small
#define DOT_8 dot

#define BEGIN_TOKEN(t) vf y##t = splat(0);
#define BEGIN_BLOCK(t) vi n##t = splat_int(0);
#define MULTIPLY_4(t) n##t = DOT_4(n##t, w, four_of(q + (int64_t)t * columns + 4 * c));
#define MULTIPLY_8(t) n##t = DOT_8(n##t, w, four_of(q + (int64_t)t * columns + 4 * c));
#define END_BLOCK(t)                                                                \
    y##t += __builtin_convertvector(n##t, vf) * (scale * step[(int64_t)t * blocks]) + \
            minimum * total[(int64_t)t * blocks];
#define END_TOKEN(t) settle_blocks(tile, t, y##t);

#define BLOCK_TILE(BITS, N)                                                                  \
    static __attribute__((noinline)) void tile_of_##BITS##_bits_##N(const BlockTile *tile) { \
        const uint8_t *group = tile->group;                                                  \
        const int8_t *q = tile->q;                                                           \
        const float *step = tile->step, *total = tile->total;                                \
        const int32_t blocks = tile->blocks, columns = blocks * BLOCK_COLUMNS;               \
        ROWS_##N(BEGIN_TOKEN)                                                                \
        for (int32_t b = 0; b < blocks; b++) {                                               \
            const uint8_t *codes = group + 4 * tile->lane;                                   \
            ROWS_##N(BEGIN_BLOCK)                                                            \
            for (int ahead = 0; ahead < BLOCK_BYTES(BITS); ahead += 64)                      \
                __builtin_prefetch(group + PREFETCH_BYTES + ahead);                          \
            _Pragma("GCC unroll 8") for (int c = 0; c < BLOCK_COLUMNS / 4; c++) {            \
                vi w = quad_##BITS(codes, c);                                                \
                ROWS_##N(MULTIPLY_##BITS)                                                    \
            }                                                                                \
            const uint8_t *halves = group + CODES_##BITS + 2 * tile->lane;                   \
            vf scale = load_halves(halves), minimum = MINIMUM_##BITS;                        \
            ROWS_##N(END_BLOCK)                                                              \
            group += BLOCK_BYTES(BITS), q += BLOCK_COLUMNS, step++, total++;                 \
        }                                                                                    \
        ROWS_##N(END_TOKEN)                                                                  \
    }

#define BLOCK_TILES(N) BLOCK_TILE(4, N) BLOCK_TILE(8, N)
BLOCK_TILES(1) BLOCK_TILES(2) BLOCK_TILES(3) BLOCK_TILES(4)
#ifndef FEW_REGISTERS
BLOCK_TILES(5) BLOCK_TILES(6) BLOCK_TILES(7) BLOCK_TILES(8)
#endif

#define NAMES_4(N) tile_of_4_bits_##N,
#define NAMES_8(N) tile_of_8_bits_##N,
#ifdef FEW_REGISTERS
#define EACH_TILE(X) X(1) X(2) X(3) X(4)
#else
#define EACH_TILE(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#endif
static void (*const block_tiles[2][BLOCK_TOKENS_MAX])(const BlockTile *) = {
    {EACH_TILE(NAMES_4)}, {EACH_TILE(NAMES_8)}};

/* Rows as int8 in blocks of 32 columns: q [rows, columns]; step, and step * (sum of q), of each block. */
typedef struct {
    int8_t *q;
    float *step, *total;
} Quantized;

INLINE size_t quantized_bytes(size_t rows, size_t columns) {
    return rows * (columns + 2 * sizeof(float) * (columns / BLOCK_COLUMNS));
}
/* Its arrays in `room` of that many bytes. */
INLINE Quantized quantized_in(void *room, size_t rows, size_t columns) {
    Quantized made = {.step = room};
    made.total = made.step + rows * (columns / BLOCK_COLUMNS);
    made.q = (int8_t *)(made.total + rows * (columns / BLOCK_COLUMNS));
    return made;
}

/* Blocks first to end - 1 of row number `row`, whose values begin at x. */
INLINE void quantize_some_blocks(const float *x, int columns, int first, int end, const Quantized *to, int row) {
    for (int b = first; b < end; b++) {
        int64_t block = (int64_t)row * (columns / BLOCK_COLUMNS) + b;
        int32_t total;
        quantize_row(x + b * BLOCK_COLUMNS, 0, BLOCK_COLUMNS, BLOCK_COLUMNS, to->q + block * BLOCK_COLUMNS,
                     to->step + block, &total);
        to->total[block] = to->step[block] * (float)total;
    }
}
INLINE void quantize_blocks(const float *x, int columns, const Quantized *to, int row) {
    quantize_some_blocks(x, columns, 0, columns / BLOCK_COLUMNS, to, row);
}

/* What quantizing row `row` has left over, quantized as row number `left` of the same. */
INLINE void quantize_left_over(const float *x, int columns, int first, int end, const Quantized *to, int row, int left) {
    float rest[BLOCK_COLUMNS];
    for (int b = first; b < end; b++) {
        const int64_t block = (int64_t)row * (columns / BLOCK_COLUMNS) + b, at = (int64_t)left * (columns / BLOCK_COLUMNS) + b;
        const int8_t *q = to->q + block * BLOCK_COLUMNS;
        int32_t total;
        for (int i = 0; i < BLOCK_COLUMNS; i++) rest[i] = x[b * BLOCK_COLUMNS + i] - (float)q[i] * to->step[block];
        quantize_row(rest, 0, BLOCK_COLUMNS, BLOCK_COLUMNS, to->q + at * BLOCK_COLUMNS, to->step + at, &total);
        to->total[at] = to->step[at] * (float)total;
    }
}

/* 16 rows of w times each of `count` rows: y [count, stride], of which w's rows are the first. */
INLINE void multiply_group(const Blocks *w, const Quantized *in, int count, int group, float *y, int stride,
                           int activation, int add) {
    if (!count) return;
    const int blocks = w->columns / BLOCK_COLUMNS, parts = (count + BLOCK_TOKENS_MAX - 1) / BLOCK_TOKENS_MAX;
    for (int part = 0; part < parts; part++) {
        const int first = (int)((int64_t)count * part / parts);
        const int end = (int)((int64_t)count * (part + 1) / parts);
        for (int lane = 0; lane < GROUP_ROWS; lane += LANES) {
            const int row = group * GROUP_ROWS + lane;
            BlockTile tile = {
                .group = w->packed + (int64_t)group * blocks * BLOCK_BYTES(w->bits),
                .lane = lane,
                .q = in->q + (int64_t)first * w->columns,
                .step = in->step + (int64_t)first * blocks,
                .total = in->total + (int64_t)first * blocks,
                .bias = w->bias ? w->bias + row : 0,
                .y = y + (int64_t)first * stride + row,
                .blocks = blocks,
                .stride = stride,
                .activation = activation,
                .add = add,
            };
            block_tiles[w->bits == 8][end - first - 1](&tile);
        }
    }
}

/* Matrices are shared out by pieces of so many groups of rows. */
INLINE int group_pieces(const Blocks *w, int groups) { return (w->rows / GROUP_ROWS + groups - 1) / groups; }
INLINE void multiply_piece(const Blocks *w, const Quantized *in, int count, int piece, int groups, float *y, int stride,
                           int activation, int add) {
    const int all = w->rows / GROUP_ROWS, end = (piece + 1) * groups < all ? (piece + 1) * groups : all;
    for (int group = piece * groups; group < end; group++)
        multiply_group(w, in, count, group, y, stride, activation, add);
}

typedef struct {
    const Blocks *weights;
    const float *x;
    int32_t count, activation, add;
    float *y;
    Quantized in;
    Step steps[2];
} BlocksJob;

static void blocks_job(void *job, int worker) {
    BlocksJob *j = job;
    const Blocks *w = j->weights;
    const int pieces = group_pieces(w, GROUPS_PER_PIECE);
    (void)worker;
    STEP(&j->steps[0], j->count, r) quantize_blocks(j->x + (int64_t)r * w->columns, w->columns, &j->in, r);
    step_wait(&j->steps[0], j->count);
    STEP(&j->steps[1], pieces, p)
    multiply_piece(w, &j->in, j->count, p, GROUPS_PER_PIECE, j->y, w->rows, j->activation, j->add);
    step_wait(&j->steps[1], pieces);
}

static int blocks(const Blocks *weights, const float *x, int32_t count, int32_t activation, int32_t add, float *y) {
    const size_t rows = (size_t)count, columns = (size_t)weights->columns;
    void *scratch = malloc(quantized_bytes(rows, columns) + 1);
    if (!scratch) return 0;
    BlocksJob job = {.weights = weights, .x = x, .count = count, .activation = activation, .add = add, .y = y};
    job.in = quantized_in(scratch, rows, columns);
    pool_run(blocks_job, &job);
    free(scratch);
    return 1;
}

#endif
