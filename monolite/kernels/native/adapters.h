/* Low-rank products beside a pass's matrices, of the tokens whose sequence has an adapter.
 *
 *   low = A x     where a token's x is quantized, by whoever quantizes it
 *   y  += B low   by the piece of rows that has just been multiplied, by the same worker
 *
 * so that other tokens of the pass cost nothing, and adapters differ from sequence to sequence.
 */
#ifndef ADAPTERS_H
#define ADAPTERS_H

#include <stddef.h>

#include "blocks.h"

enum { LOW_SLOTS = 3 /* query, key, value; gate, up */ };

INLINE int low_rows(const LowRank *change) { return (change->rank + GROUP_ROWS - 1) / GROUP_ROWS * GROUP_ROWS; }

/* low [rank filled up to 16] = A times row `row` of `in`, and what row `left` has left over, if not 0. */
static __attribute__((noinline)) void lower(const LowRank *change, const Quantized *in, int row, int left, float *low) {
    if (!change->rank) return;
    for (int which = 0; which < (left ? 2 : 1); which++) {
        const int64_t block = (int64_t)(which ? left : row) * (change->a.columns / BLOCK_COLUMNS);
        const Quantized one = {in->q + block * BLOCK_COLUMNS, in->step + block, in->total + block};
        for (int group = 0; group < change->a.rows / GROUP_ROWS; group++)
            multiply_group(&change->a, &one, 1, group, low, change->a.rows, ACTIVATION_NONE, which);
    }
}

/* 16 rows of y += scale * B low. */
static __attribute__((noinline)) void raise_group(const LowRank *change, const float *low, int group, float *y) {
    const int8_t *b = change->b + (int64_t)group * change->rank * GROUP_ROWS;
    for (int lane = 0; lane < GROUP_ROWS; lane += LANES) {
        vf sum0 = splat(0), sum1 = splat(0);
        int k = 0;
        for (; k + 1 < change->rank; k += 2) {
            sum0 += load_bytes_as_floats(b + k * GROUP_ROWS + lane) * low[k];
            sum1 += load_bytes_as_floats(b + (k + 1) * GROUP_ROWS + lane) * low[k + 1];
        }
        if (k < change->rank) sum0 += load_bytes_as_floats(b + k * GROUP_ROWS + lane) * low[k];
        const int row = group * GROUP_ROWS + lane;
        store(y + row, load(y + row) + (sum0 + sum1) * load(change->scale + row));
    }
}

#endif
