/* Attention to quantized keys and values, and how they are written.
 *
 * Keys lie like weights, 16 positions in the place of 16 rows, so that the scores of 16 positions
 * come from whole vectors:
 *
 *   8 bits: [head, position / 16, d / 4, 16, 4]          one byte a value, 128 added
 *   4 bits: [head, position / 16, d / 8, 16, 4]          quads 2i and 2i + 1 in the halves of a byte
 *
 * with a scale and a minimum for each head and position: key = minimum + scale * code. Values are
 * int8 [head, position, d] with a scale each. Queries are quantized to int8 as they come.
 */
#ifndef CACHE_H
#define CACHE_H

#include <stdlib.h>

#include "linear.h"
#include "pool.h"
#include "rows.h"

INLINE int key_group_bytes(const Cache *c) { return 16 * c->width * c->key_bits / 8; }
INLINE uint8_t *key_group(const Cache *c, int head, int64_t position) {
    return c->keys + (head * (c->capacity / 16) + position / 16) * key_group_bytes(c);
}

/* One key as codes from 0: 8 bits around 128, 4 bits from the least value to the greatest. */
INLINE void write_key(const Cache *c, int head, int64_t position, const float *key) {
    uint8_t *group = key_group(c, head, position) + 4 * (position % 16);
    const int64_t at = head * c->capacity + position;
    float least = 0, most = 0, scale;
    for (int i = 0; i < c->width; i++) {
        least = i && least < key[i] ? least : key[i];
        most = i && most > key[i] ? most : key[i];
    }
    if (c->key_bits == 8) {
        float top = most > -least ? most : -least;
        scale = top / 127.0f;
        least = -128.0f * scale;
        float inverse = top > 0 ? 127.0f / top : 0;
        for (int i = 0; i < c->width; i++)
            group[64 * (i / 4) + i % 4] = (uint8_t)(128 + (int)__builtin_rintf(key[i] * inverse));
    } else {
        scale = (most - least) / 15.0f;
        float inverse = most > least ? 15.0f / (most - least) : 0;
        for (int i = 0; i < c->width; i++) {
            uint8_t *byte = group + 64 * (i / 8) + i % 4, code = (uint8_t)__builtin_rintf((key[i] - least) * inverse);
            *byte = i / 4 % 2 ? (uint8_t)((*byte & 0x0f) | code << 4) : (uint8_t)((*byte & 0xf0) | code);
        }
    }
    c->key_scale[at] = scale;
    c->key_minimum[at] = least;
}

/* Keys and values [count, heads, width] of positions from `first` on. */
static void append(const Cache *c, int64_t first, int64_t count, const float *keys, const float *values) {
    for (int64_t p = first; p < first + count; p++)
        for (int head = 0; head < c->heads; head++, keys += c->width, values += c->width) {
            int32_t total;
            write_key(c, head, p, keys);
            int64_t at = head * c->capacity + p;
            quantize_row(values, 0, c->width, c->width, c->values + at * c->width, c->value_scale + at, &total);
        }
}

enum { QUERIES = 4 }; /* that share a read of the cache: of one head of keys, heads and tokens alike */

typedef struct {
    const Cache *cache;
    const float *queries;   /* [count, query_heads, width] */
    const int64_t *visible; /* [count] positions that a token sees */
    float *out;             /* as queries */
    int32_t count, query_heads, pieces_per_head;
    float *scratch; /* a block for each worker */
    size_t scratch_floats;
    Step step;
} AttendJob;

/* scores[n][position] of quantized queries q[n], for `end` positions of a head. */
INLINE void score_keys(const Cache *c, int head, int64_t end, const int8_t *q, const float *step,
                       const int32_t *total, float scale, float *scores, int64_t stride) {
    const int d = c->width, quads = d / 4;
    for (int64_t p = 0; p < end; p += 16) {
        const uint8_t *group = key_group(c, head, p);
        const float *key_scale = c->key_scale + head * c->capacity + p;
        const float *key_minimum = c->key_minimum + head * c->capacity + p;
        for (int lane = 0; lane < 16; lane += LANES) {
            vi n0 = splat_int(0), n1 = n0, n2 = n0, n3 = n0;
            for (int i = 0; i < quads; i++) {
                vi key;
                if (c->key_bits == 8) {
                    key = load_bytes(group + 64 * i + 4 * lane);
                    n0 = dot(n0, key, four_of(q + 4 * i)), n1 = dot(n1, key, four_of(q + d + 4 * i));
                    n2 = dot(n2, key, four_of(q + 2 * d + 4 * i)), n3 = dot(n3, key, four_of(q + 3 * d + 4 * i));
                } else {
                    key = load_bytes(group + 64 * (i / 2) + 4 * lane);
                    key = (i % 2 ? key >> 4 : key) & splat_int(0x0f0f0f0f);
                    n0 = dot_small(n0, key, four_of(q + 4 * i)), n1 = dot_small(n1, key, four_of(q + d + 4 * i));
                    n2 = dot_small(n2, key, four_of(q + 2 * d + 4 * i)), n3 = dot_small(n3, key, four_of(q + 3 * d + 4 * i));
                }
            }
            vf by = load(key_scale + lane);
            /* dot has taken off (128 - OFFSET) per value of an 8-bit key, which its minimum would too. */
            vf least = load(key_minimum + lane);
            if (c->key_bits == 8) least += by * (float)(128 - OFFSET);
#define SCORE(i)                          \
    store(scores + i * stride + p + lane, \
          (__builtin_convertvector(n##i, vf) * by + least * (float)total[i]) * (step[i] * scale));
            SCORE(0) SCORE(1) SCORE(2) SCORE(3)
#undef SCORE
        }
    }
}

/* out[n] = the sum of weights[n][position] * value, whose scales are in the weights already. */
INLINE void mix_values(const Cache *c, int head, int64_t end, const float *weights, int64_t stride,
                       float *const *out, int queries) {
    const int8_t *values = c->values + head * c->capacity * c->width;
    EACH_VECTOR(i, n, c->width) {
        vf y0 = splat(0), y1 = y0, y2 = y0, y3 = y0;
        for (int64_t p = 0; p < end; p++) {
            vf value = load_some_bytes(values + p * c->width + i, n);
            y0 += value * weights[p], y1 += value * weights[stride + p];
            y2 += value * weights[2 * stride + p], y3 += value * weights[3 * stride + p];
        }
        const vf y[QUERIES] = {y0, y1, y2, y3};
        for (int each = 0; each < queries; each++) store_some(out[each] + i, y[each], n);
    }
}

/* Up to QUERIES of the count * (query_heads / heads) queries that look at one head of keys. */
static void attend_piece(const AttendJob *j, int head, int first, float *scratch) {
    const Cache *c = j->cache;
    const int d = c->width, share = j->query_heads / c->heads, all = j->count * share;
    const int queries = all - first < QUERIES ? all - first : QUERIES;
    int8_t q[QUERIES * KEY_WIDTH_MAX];
    float step[QUERIES], *out[QUERIES], *scores = scratch;
    int32_t total[QUERIES];
    int64_t end = 0, visible[QUERIES];
    const int64_t stride = c->capacity;
    for (int n = 0; n < QUERIES; n++) { /* those beyond repeat the last, and are not written */
        int number = first + (n < queries ? n : queries - 1), token = number / share;
        int64_t at = ((int64_t)token * j->query_heads + head * share + number % share) * d;
        quantize_row(j->queries + at, 0, d, d, q + n * d, step + n, total + n);
        out[n] = j->out + at;
        visible[n] = j->visible[token];
        if (visible[n] > end) end = visible[n];
    }
    score_keys(c, head, end, q, step, total, 1.0f / sqrtf((float)d), scores, stride);
    for (int n = 0; n < QUERIES; n++) {
        float *row = scores + n * stride;
        float inverse = visible[n] ? 1.0f / powers(row, (int)visible[n]) : 0;
        const float *by = c->value_scale + head * c->capacity;
        for (int64_t p = 0; p < visible[n]; p++) row[p] *= inverse * by[p];
        for (int64_t p = visible[n]; p < end; p++) row[p] = 0;
    }
    mix_values(c, head, end, scores, stride, out, queries);
}

static void attend_job(void *job, int worker) {
    AttendJob *j = job;
    const int pieces = j->cache->heads * j->pieces_per_head;
    STEP(&j->step, pieces, p)
    attend_piece(j, p / j->pieces_per_head, p % j->pieces_per_head * QUERIES,
                 j->scratch + (size_t)worker * j->scratch_floats);
    step_wait(&j->step, pieces);
}

static int attend_to_cache(const Cache *cache, const float *queries, int32_t count, int32_t query_heads,
                           const int64_t *visible, float *out) {
    AttendJob job = {.cache = cache, .queries = queries, .visible = visible, .out = out, .count = count,
                     .query_heads = query_heads};
    job.pieces_per_head = (count * (query_heads / cache->heads) + QUERIES - 1) / QUERIES;
    job.scratch_floats = (size_t)cache->capacity * QUERIES + 16;
    job.scratch = malloc(job.scratch_floats * sizeof(float) * WORKERS_MAX);
    if (!job.scratch) return 0;
    pool_run(attend_job, &job);
    free(job.scratch);
    return 1;
}

#endif
