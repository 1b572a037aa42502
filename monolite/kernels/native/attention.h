/* Attention of a sentence's tokens to all of them, in float32, one head at a time.
 *
 *   n tokens   d the head's width, a multiple of LANES   s row of qkv in floats
 *
 * Keys are turned first, so that a vector holds one column of LANES keys; then SHARED queries go
 * together, and a key or value that was read serves all of them.
 */
#ifndef ATTENTION_H
#define ATTENTION_H

#include "linear.h"
#include "rows.h"

enum { SHARED = 8 };

INLINE int keys_padded(int n) { return (n + LANES - 1) / LANES * LANES; }

/* Floats of scratch that attend needs: keys [d, padded], scores [SHARED, padded]. */
INLINE size_t attend_floats(int n, int d) { return (size_t)keys_padded(n) * (size_t)(d + SHARED); }

INLINE void turn_keys(const float *keys, int n, int d, int s, float *turned) {
    const int padded = keys_padded(n);
    for (int t = 0; t < padded; t++)
        for (int i = 0; i < d; i++) turned[i * padded + t] = t < n ? keys[(int64_t)t * s + i] : 0;
}

#define BEGIN_SUM(r) vf y##r = splat(0);
#define ADD_KEY(r) y##r += query[(int64_t)at[r] * s + i] * key;
#define STORE_SCORE(r) store(scores + (r) * padded + j, y##r);
#define ADD_VALUE(r) y##r += scores[(r) * padded + t] * value;
#define STORE_MIX(r) if (r < queries) store(out + (int64_t)r * width + i, y##r * inverse[r]);

/* out [queries of SHARED, stride width] = softmax(query key') value, of queries scaled beforehand. */
INLINE void attend_queries(const float *query, const float *turned, const float *values, int queries,
                           int n, int d, int s, int width, float *scores, float *out) {
    const int padded = keys_padded(n);
    int at[SHARED]; /* those that are too many repeat the first, and are not written */
    float inverse[SHARED];
    for (int r = 0; r < SHARED; r++) at[r] = r < queries ? r : 0;
    for (int j = 0; j < padded; j += LANES) {
        ROWS_8(BEGIN_SUM)
        for (int i = 0; i < d; i++) {
            vf key = load(turned + i * padded + j);
            ROWS_8(ADD_KEY)
        }
        ROWS_8(STORE_SCORE)
    }
    for (int r = 0; r < queries; r++) inverse[r] = 1.0f / powers(scores + r * padded, n);
    for (int i = 0; i < d; i += LANES) {
        ROWS_8(BEGIN_SUM)
        for (int t = 0; t < n; t++) {
            vf value = load(values + (int64_t)t * s + i);
            ROWS_8(ADD_VALUE)
        }
        ROWS_8(STORE_MIX)
    }
}

/* qkv: the head's query of the first token; keys and values are width and 2 width further on. */
INLINE void attend_head(const float *qkv, int n, int d, int width, float *scratch, float *out) {
    const int s = 3 * width;
    float *scores = scratch + (size_t)keys_padded(n) * (size_t)d;
    turn_keys(qkv + width, n, d, s, scratch);
    for (int t = 0; t < n; t += SHARED) {
        int queries = n - t < SHARED ? n - t : SHARED;
        attend_queries(qkv + (int64_t)t * s, scratch, qkv + 2 * width, queries, n, d, s, width, scores,
                       out + (int64_t)t * width);
    }
}

#endif
