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

INLINE void append_one(const Cache *c, int head, int64_t position, const float *key, const float *value) {
    const int64_t at = head * c->capacity + position;
    int32_t total;
    write_key(c, head, position, key);
    quantize_row(value, 0, c->width, c->width, c->values + at * c->width, c->value_scale + at, &total);
}

/* Keys and values [count, heads, width] of positions from `first` on. */
static void append(const Cache *c, int64_t first, int64_t count, const float *keys, const float *values) {
    for (int64_t p = first; p < first + count; p++)
        for (int head = 0; head < c->heads; head++, keys += c->width, values += c->width)
            append_one(c, head, p, keys, values);
}

/* QUERIES share a read of the cache: of one head of keys, heads and tokens alike. Positions go by
 * CHUNKs, whose results are merged in order (Milakov and Gimelshein 2018), by one thread or by several. */
enum { QUERIES = 4, CHUNK = 128, PART_FLOATS = 2 + KEY_WIDTH_MAX };

typedef struct {
    const Cache *cache;
    const float *queries;   /* of a token, query_stride further the next one's: [query_heads, width] */
    const int64_t *visible; /* [count] positions that a token sees */
    float *out;             /* as queries, with out_stride */
    int64_t query_stride, out_stride;
    int32_t count, query_heads;
} Attention;

/* A few queries to one head of keys. Those beyond the number asked for repeat the last. */
typedef struct {
    int32_t number, total[QUERIES];
    int64_t visible[QUERIES], end; /* end: what the one that sees most sees */
    float step[QUERIES], *out[QUERIES];
    int8_t q[QUERIES * KEY_WIDTH_MAX];
} Asked;

/* Quad i of the keys of LANES positions. */
INLINE vi key_quad(const uint8_t *lane, int i, int bits) {
    if (bits == 8) return load_bytes(lane + 64 * i);
    vi key = load_bytes(lane + 64 * (i / 2));
    return (i % 2 ? key >> 4 : key) & splat_int(0x0f0f0f0f);
}
INLINE vi dot_key(vi sum, vi key, const int8_t *four, int bits) {
    return bits == 8 ? dot(sum, key, four_of(four)) : dot_small(sum, key, four_of(four));
}

/* scores[n][position - begin] of quantized queries q[n]; begin is a multiple of 16. */
INLINE void score_keys_of(const Cache *c, int head, int64_t begin, int64_t end, const Asked *asked, float *scores,
                          int bits) {
    const int d = c->width, quads = d / 4;
    const float scale = 1.0f / sqrtf((float)d);
    const int8_t *q = asked->q;
    for (int64_t p = begin; p < end; p += 16) {
        const uint8_t *group = key_group(c, head, p);
        const float *key_scale = c->key_scale + head * c->capacity + p;
        const float *key_minimum = c->key_minimum + head * c->capacity + p;
        for (int lane = 0; lane < 16; lane += LANES) {
            vi n0 = splat_int(0), n1 = n0, n2 = n0, n3 = n0;
            for (int i = 0; i < quads; i += 2) { /* widths are multiples of 8 */
                for (int j = i; j < i + 2; j++) {
                    vi key = key_quad(group + 4 * lane, j, bits);
                    n0 = dot_key(n0, key, q + 4 * j, bits), n1 = dot_key(n1, key, q + d + 4 * j, bits);
                    n2 = dot_key(n2, key, q + 2 * d + 4 * j, bits), n3 = dot_key(n3, key, q + 3 * d + 4 * j, bits);
                }
            }
            vf by = load(key_scale + lane);
            /* dot has taken off (128 - OFFSET) per value of an 8-bit key, which its minimum would too. */
            vf least = load(key_minimum + lane);
            if (bits == 8) least += by * (float)(128 - OFFSET);
#define SCORE(i)                                   \
    store(scores + i * CHUNK + p - begin + lane,   \
          (__builtin_convertvector(n##i, vf) * by + least * (float)asked->total[i]) * (asked->step[i] * scale));
            SCORE(0) SCORE(1) SCORE(2) SCORE(3)
#undef SCORE
        }
    }
}
static __attribute__((noinline)) void score_keys_4(const Cache *c, int head, int64_t begin, int64_t end,
                                                   const Asked *asked, float *scores) {
    score_keys_of(c, head, begin, end, asked, scores, 4);
}
static __attribute__((noinline)) void score_keys_8(const Cache *c, int head, int64_t begin, int64_t end,
                                                   const Asked *asked, float *scores) {
    score_keys_of(c, head, begin, end, asked, scores, 8);
}

#define MIX_BEGIN(n) vf y##n##0 = splat(0), y##n##1 = y##n##0;
#define MIX_ADD(n)                                \
    {                                             \
        vf weight = splat(weights[n * CHUNK + p]); \
        y##n##0 += v0 * weight, y##n##1 += v1 * weight; \
    }
#define MIX_END(n) store(mix + n * stride + i, y##n##0), store(mix + n * stride + i + LANES, y##n##1);

/* mix[n] = the sum of weights[n][position - begin] * value, whose scales are in the weights already. */
static __attribute__((noinline)) void mix_values(const Cache *c, int head, int64_t begin, int count,
                                                 const float *weights, float *mix, int stride) {
    const int d = c->width;
    const int8_t *values = c->values + (head * c->capacity + begin) * d;
    int i = 0;
    for (; i + 2 * LANES <= d; i += 2 * LANES) {
        MIX_BEGIN(0) MIX_BEGIN(1) MIX_BEGIN(2) MIX_BEGIN(3)
        const int8_t *from = values + i;
        for (int p = 0; p < count; p++, from += d) {
            vf v0 = load_bytes_as_floats(from), v1 = load_bytes_as_floats(from + LANES);
            MIX_ADD(0) MIX_ADD(1) MIX_ADD(2) MIX_ADD(3)
        }
        MIX_END(0) MIX_END(1) MIX_END(2) MIX_END(3)
    }
    for (; i < d; i += LANES) { /* what is left of a width that two vectors don't divide */
        const int n = d - i < LANES ? d - i : LANES;
        for (int each = 0; each < QUERIES; each++) {
            vf y = splat(0);
            for (int p = 0; p < count; p++)
                y += load_some_bytes(values + (int64_t)p * d + i, n) * weights[each * CHUNK + p];
            store_some(mix + each * stride + i, y, n);
        }
    }
}

INLINE int attention_groups(const Attention *a) {
    return (a->count * (a->query_heads / a->cache->heads) + QUERIES - 1) / QUERIES;
}

/* Group number `group` of the count * (query_heads / heads) queries to a head of keys. */
static void ask(const Attention *a, int head, int group, Asked *asked) {
    const int d = a->cache->width, share = a->query_heads / a->cache->heads, all = a->count * share;
    const int first = group * QUERIES;
    asked->number = all - first < QUERIES ? all - first : QUERIES;
    asked->end = 0;
    for (int n = 0; n < QUERIES; n++) {
        int number = first + (n < asked->number ? n : asked->number - 1), token = number / share;
        int at = (head * share + number % share) * d;
        quantize_row(a->queries + token * a->query_stride + at, 0, d, d, asked->q + n * d, asked->step + n,
                     asked->total + n);
        asked->out[n] = a->out + token * a->out_stride + at;
        asked->visible[n] = a->visible[token];
        if (asked->visible[n] > asked->end) asked->end = asked->visible[n];
    }
}

/* What the positions of a chunk give each query. A part is | greatest score | sum of powers | mix [d] |. */
static void attend_chunk(const Cache *c, int head, int64_t begin, const Asked *asked, float *parts) {
    float scores[QUERIES * CHUNK];
    const int d = c->width;
    const int64_t end = asked->end < begin + CHUNK ? asked->end : begin + CHUNK;
    const float *by = c->value_scale + head * c->capacity + begin;
    if (c->key_bits == 8) score_keys_8(c, head, begin, end, asked, scores);
    else score_keys_4(c, head, begin, end, asked, scores);
    for (int n = 0; n < QUERIES; n++) {
        float *row = scores + n * CHUNK, *part = parts + n * (2 + d);
        int64_t seen = asked->visible[n] < end ? asked->visible[n] - begin : end - begin;
        part[0] = -INFINITY, part[1] = 0;
        if (seen > 0) part[1] = powers_from(row, (int)seen, part);
        else seen = 0;
        for (int64_t p = 0; p < seen; p++) row[p] *= by[p];
        for (int64_t p = seen; p < end - begin; p++) row[p] = 0;
    }
    mix_values(c, head, begin, (int)(end - begin), scores, parts + 2, 2 + d);
}

static __attribute__((noinline)) void merge_part(float *whole, const float *part, int d) {
    if (!(part[1] > 0)) return;
    const float most = whole[0] > part[0] ? whole[0] : part[0];
    const float old = expf(whole[0] - most), new = expf(part[0] - most);
    whole[0] = most, whole[1] = whole[1] * old + part[1] * new;
    EACH_VECTOR(i, n, d)
    store_some(whole + 2 + i, load_some(whole + 2 + i, n) * old + load_some(part + 2 + i, n) * new, n);
}
static __attribute__((noinline)) void settle_part(const float *whole, float *out, int d) {
    const float inverse = whole[1] > 0 ? 1.0f / whole[1] : 0;
    EACH_VECTOR(i, n, d) store_some(out + i, load_some(whole + 2 + i, n) * inverse, n);
}

static void attend_group(const Attention *a, int head, int group) {
    const int d = a->cache->width;
    float whole[QUERIES * PART_FLOATS], more[QUERIES * PART_FLOATS];
    Asked asked;
    ask(a, head, group, &asked);
    attend_chunk(a->cache, head, 0, &asked, whole);
    for (int64_t begin = CHUNK; begin < asked.end; begin += CHUNK) {
        attend_chunk(a->cache, head, begin, &asked, more);
        for (int n = 0; n < asked.number; n++) merge_part(whole + n * (2 + d), more + n * (2 + d), d);
    }
    for (int n = 0; n < asked.number; n++) settle_part(whole + n * (2 + d), asked.out[n], d);
}

typedef struct {
    Attention attention;
    Step step;
} AttendJob;

static void attend_job(void *job, int worker) {
    AttendJob *j = job;
    const int groups = attention_groups(&j->attention), pieces = j->attention.cache->heads * groups;
    (void)worker;
    STEP(&j->step, pieces, p) attend_group(&j->attention, p / groups, p % groups);
    step_wait(&j->step, pieces);
}

static void attend_to_cache(const Cache *cache, const float *queries, int32_t count, int32_t query_heads,
                            const int64_t *visible, float *out) {
    const int64_t stride = (int64_t)query_heads * cache->width;
    AttendJob job = {.attention = {.cache = cache, .queries = queries, .visible = visible, .out = out,
                                   .query_stride = stride, .out_stride = stride, .count = count,
                                   .query_heads = query_heads}};
    pool_run(attend_job, &job);
}

#endif
