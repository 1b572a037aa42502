/* Quantized linear layers: activations by row to int8, then tiles of rows by columns.
 *
 * A tile keeps up to TILE_ROWS rows of x times TILE_COLUMNS outputs in registers, each row's in
 * variables of its own: gcc 12 spills arrays of them. STEP, for four columns of x:
 *
 *   c[r][v] = dot(c[r][v], weights of TILE_COLUMNS outputs, four bytes of x's row r, repeated)
 */
#ifndef LINEAR_H
#define LINEAR_H

#include "kernels.h"
#include "simd.h"

/* SMALL_TILES: sanitizers make the large ones take minutes to compile, and see nothing new in them. */
#if LANES == 16 && defined(SMALL_TILES)
#define TILE_COLUMNS 32
#define TILE_ROWS 4
#elif LANES == 16
#define TILE_COLUMNS 32
#define TILE_ROWS 14
#elif LANES == 8 && defined(__AVXVNNI__)
#define TILE_COLUMNS 16
#define TILE_ROWS 6
#elif LANES == 8
#define TILE_COLUMNS 16
#define TILE_ROWS 4
#else
#define TILE_COLUMNS 16
#define TILE_ROWS 4
#endif
#define TILE_VECTORS (TILE_COLUMNS / LANES)

/* One row of x as int8: q[i] ~ x[i] * smooth[i] / step, and sum(q) for OFFSET; smooth may be null.
 * padded >= count, multiple of 4. */
INLINE void quantize_row(const float *x, const float *smooth, int count, int padded, int8_t *q,
                         float *step, int32_t *total) {
#define INPUT(i) (smooth ? load(x + (i)) * load(smooth + (i)) : load(x + (i)))
#define ONE_INPUT(i) (smooth ? x[i] * smooth[i] : x[i])
    vf most = splat(0);
    int i = 0;
    for (; i + LANES <= count; i += LANES) most = vmax(most, vabs(INPUT(i)));
    float top = highest(most);
    for (int j = i; j < count; j++) {
        float size = __builtin_fabsf(ONE_INPUT(j));
        top = size > top ? size : top;
    }
    float inverse = top > 0 ? 127.0f / top : 0;
    vi sums = splat_int(0);
    for (i = 0; i + LANES <= count; i += LANES) {
        vi n = __builtin_convertvector(vround(INPUT(i) * inverse), vi);
        sums += n;
        store_bytes(q + i, n);
    }
    int32_t s = sum_int(sums);
    for (; i < count; i++) {
        q[i] = (int8_t)__builtin_rintf(ONE_INPUT(i) * inverse); /* to even, as vround */
        s += q[i];
    }
    for (; i < padded; i++) q[i] = 0;
    *step = top / 127.0f;
    *total = s;
#undef INPUT
#undef ONE_INPUT
}

typedef struct {
    const uint8_t *w; /* of the tile's first group */
    const float *scale, *bias;
    const int8_t *q; /* [rows, columns] */
    const float *step;
    const int32_t *total;
    float *y; /* of the tile's first column */
    int32_t columns, stride; /* of q; of y in floats */
    int activation, add; /* one of them at most: y = f(…), y += … */
} Tile;

INLINE vi four_of(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, 4);
    return splat_int(four);
}

/* Sums become outputs: outside of the tiles, of which each would have its own copy. */
INLINE void settle_rows(const Tile *t, int rows, vi (*sums)[TILE_VECTORS], int activation, int add) {
    for (int row = 0; row < rows; row++) {
        float *out = t->y + (int64_t)row * t->stride;
        for (int v = 0; v < TILE_VECTORS; v++, out += LANES) {
            vi sum = sums[row][v] - OFFSET * t->total[row];
            vf y = __builtin_convertvector(sum, vf) * load(t->scale + v * LANES) * t->step[row];
            if (t->bias) y += load(t->bias + v * LANES);
            y = activate(y, activation);
            store(out, add ? y + load(out) : y);
        }
    }
}

static __attribute__((noinline)) void settle(const Tile *t, int rows, vi (*sums)[TILE_VECTORS]) {
    if (t->activation == ACTIVATION_GELU) settle_rows(t, rows, sums, ACTIVATION_GELU, 0);
    else if (t->activation == ACTIVATION_SILU) settle_rows(t, rows, sums, ACTIVATION_SILU, 0);
    else if (t->add) settle_rows(t, rows, sums, ACTIVATION_NONE, 1);
    else settle_rows(t, rows, sums, ACTIVATION_NONE, 0);
}

/* The vector of weights number v at column k. */
#if LANES == 16
#define WEIGHTS(v) load_bytes(w + (v) * (int64_t)16 * columns + (int64_t)16 * k)
#else
#define WEIGHTS(v) load_bytes(w + (int64_t)16 * k + (v) * 4 * LANES)
#endif

#if TILE_VECTORS == 2
#define LOAD_WEIGHTS vi w0 = WEIGHTS(0), w1 = WEIGHTS(1);
#define DECLARE(r) vi c##r##0 = {0}, c##r##1 = {0};
#define MULTIPLY(r)                                  \
    {                                                \
        vi a = four_of(q + (int64_t)r * columns + k); \
        c##r##0 = dot(c##r##0, w0, a);               \
        c##r##1 = dot(c##r##1, w1, a);               \
    }
#define SUMS(r) sums[r][0] = c##r##0, sums[r][1] = c##r##1;
#else
#define LOAD_WEIGHTS vi w0 = WEIGHTS(0), w1 = WEIGHTS(1), w2 = WEIGHTS(2), w3 = WEIGHTS(3);
#define DECLARE(r) vi c##r##0 = {0}, c##r##1 = {0}, c##r##2 = {0}, c##r##3 = {0};
#define MULTIPLY(r)                                  \
    {                                                \
        vi a = four_of(q + (int64_t)r * columns + k); \
        c##r##0 = dot(c##r##0, w0, a);               \
        c##r##1 = dot(c##r##1, w1, a);               \
        c##r##2 = dot(c##r##2, w2, a);               \
        c##r##3 = dot(c##r##3, w3, a);               \
    }
#define SUMS(r) \
    sums[r][0] = c##r##0, sums[r][1] = c##r##1, sums[r][2] = c##r##2, sums[r][3] = c##r##3;
#endif

#define ROWS_1(X) X(0)
#define ROWS_2(X) ROWS_1(X) X(1)
#define ROWS_3(X) ROWS_2(X) X(2)
#define ROWS_4(X) ROWS_3(X) X(3)
#define ROWS_5(X) ROWS_4(X) X(4)
#define ROWS_6(X) ROWS_5(X) X(5)
#define ROWS_7(X) ROWS_6(X) X(6)
#define ROWS_8(X) ROWS_7(X) X(7)
#define ROWS_9(X) ROWS_8(X) X(8)
#define ROWS_10(X) ROWS_9(X) X(9)
#define ROWS_11(X) ROWS_10(X) X(10)
#define ROWS_12(X) ROWS_11(X) X(11)
#define ROWS_13(X) ROWS_12(X) X(12)
#define ROWS_14(X) ROWS_13(X) X(13)

#define TILE(n)                                                     \
    static __attribute__((noinline)) void tile_##n(const Tile *t) { \
        const uint8_t *w = t->w;                                    \
        const int8_t *q = t->q;                                     \
        const int32_t columns = t->columns;                         \
        ROWS_##n(DECLARE)                                           \
        for (int32_t k = 0; k < columns; k += 4) {                  \
            LOAD_WEIGHTS                                            \
            ROWS_##n(MULTIPLY)                                      \
        }                                                           \
        vi sums[n][TILE_VECTORS];                                   \
        ROWS_##n(SUMS)                                              \
        settle(t, n, sums);                                         \
    }

TILE(1) TILE(2) TILE(3) TILE(4)
#if TILE_ROWS > 4
TILE(5) TILE(6)
#endif
#if TILE_ROWS > 6
TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)
#endif

static void (*const tiles[TILE_ROWS + 1])(const Tile *) = {
    0, tile_1, tile_2, tile_3, tile_4,
#if TILE_ROWS > 4
    tile_5, tile_6,
#endif
#if TILE_ROWS > 6
    tile_7, tile_8, tile_9, tile_10, tile_11, tile_12, tile_13, tile_14,
#endif
};

/* Column tile `piece` of y [count, stride], for every row. Rows are shared out evenly among tiles:
 * 15 rows are tiles of 8 and 7, since one of a single row costs almost as much as one of 14. */
INLINE void linear_piece(const Linear *weights, int piece, const int8_t *q, const float *step,
                         const int32_t *total, int count, float *y, int stride, int activation,
                         int add) {
    int column = piece * TILE_COLUMNS;
    int parts = (count + TILE_ROWS - 1) / TILE_ROWS;
    for (int part = 0; part < parts; part++) {
        int row = (int)((int64_t)count * part / parts);
        int end = (int)((int64_t)count * (part + 1) / parts);
        Tile tile = {
            .w = weights->packed + (int64_t)column * weights->columns,
            .scale = weights->scale + column,
            .bias = weights->bias ? weights->bias + column : 0,
            .q = q + (int64_t)row * weights->columns,
            .step = step + row,
            .total = total + row,
            .y = y + (int64_t)row * stride + column,
            .columns = weights->columns,
            .stride = stride,
            .activation = activation,
            .add = add,
        };
        tiles[end - row](&tile);
    }
}

#endif
