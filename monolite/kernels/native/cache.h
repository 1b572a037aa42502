/* Attention to quantized keys and values, and how they are written.
 *
 * Keys lie like weights, 16 positions in the place of 16 rows, so that the scores of 16 positions
 * come from whole vectors:
 *
 *    8 bits: [head, position / 16, d / 4, 16, 4]      one byte a value, 128 added
 *    4 bits: [head, position / 16 - 1, d / 8, 16, 4]  quads 2i and 2i + 1 in the halves of a byte; the
 *            first 16 positions, to which all others attend, are kept in 8 bits: [head, d / 4, 16, 4]
 *   32 bits: [head, position / 16, d, 16]             floats
 *
 * A key goes by parts of 32 values (or is one, where 32 doesn't divide d), each with a float16 scale
 * [head, position / 16, part, 16]:
 *
 *   8 bits: key = scale * (code - 128)     4 bits: key = scale * (code - 7.5)
 *
 * Values are int8 [head, position, d] with a float16 scale each, or floats beside 32-bit keys. Queries
 * are quantized to int8 as they come, or taken as they are.
 */
#ifndef CACHE_H
#define CACHE_H

#include "linear.h"
#include "pool.h"
#include "rows.h"

enum { KEPT_EXACTLY = 32, KEY_PARTS_MAX = KEY_WIDTH_MAX / 32, FIRST_POSITIONS = 16 };

/* The nearest float16 of x, which isn't negative; beyond 65504 that. */
INLINE uint16_t half_of(float x) {
    const float shifted = (x < 65504.0f ? x : 65504.0f) * 0x1p-112f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (uint16_t)((bits + 0x0fff + (bits >> 13 & 1)) >> 13);
}
INLINE float float_of(uint16_t half) {
    const uint32_t bits = (uint32_t)half << 13;
    float shifted;
    memcpy(&shifted, &bits, sizeof shifted);
    return shifted * 0x1p112f;
}

INLINE int key_bits_at(const Cache *c, int64_t position) {
    return c->key_bits == 4 && position < FIRST_POSITIONS ? 8 : c->key_bits;
}
INLINE uint8_t *key_group(const Cache *c, int head, int64_t position) {
    if (c->key_bits != 4) return c->keys + (head * (c->capacity / 16) + position / 16) * (2 * c->width * c->key_bits);
    if (position < FIRST_POSITIONS) return c->first_keys + (int64_t)head * FIRST_POSITIONS * c->width;
    return c->keys + (head * (c->capacity / 16 - 1) + position / 16 - 1) * (8 * c->width);
}
/* Of the first part; the next one's is 16 further. */
INLINE uint16_t *key_scale_at(const Cache *c, int head, int64_t position) {
    return c->key_scale + (head * (c->capacity / 16) + position / 16) * 16 * c->parts + position % 16;
}

INLINE float largest(const float *x, int count) {
    vf most = splat(0);
    EACH_VECTOR(i, n, count) most = vmax(most, vabs(load_some(x + i, n)));
    return highest(most);
}
/* The scale of values up to `top` in codes up to `codes`, as it is kept; and what to multiply them by. */
INLINE float scale_for(float top, float codes, uint16_t *kept) {
    *kept = half_of(top / codes);
    const float scale = float_of(*kept);
    return scale > 0 ? 1.0f / scale : 0;
}
INLINE int within(float x, int least, int most) {
    const int n = (int)x;
    return n < least ? least : n > most ? most : n;
}

/* Of a few scales for 4 bits, each cutting more off the greatest values, the one that errs least. */
INLINE float scale_for_four_bits(const float *x, int width, uint16_t *kept) {
    static const float cuts[] = {1.0f, 0.94f, 0.88f, 0.82f};
    const float top = largest(x, width);
    float best = 0, least = INFINITY;
    for (int cut = 0; cut < 4; cut++) {
        uint16_t scale;
        const float inverse = scale_for(top * cuts[cut], 7.5f, &scale), step = float_of(scale);
        float error = 0;
        for (int i = 0; i < width; i++) {
            const float off = x[i] - step * (0.5f + (float)within(__builtin_floorf(x[i] * inverse), -8, 7));
            error += off * off;
        }
        if (error < least) least = error, best = inverse, *kept = scale;
    }
    return best;
}

INLINE void write_key(const Cache *c, int head, int64_t position, const float *key) {
    const int bits = key_bits_at(c, position), width = c->width / c->parts, row = (int)(position % 16);
    uint8_t *group = key_group(c, head, position) + 4 * row;
    if (bits == KEPT_EXACTLY) {
        for (int i = 0; i < c->width; i++) memcpy(group + 64 * i, key + i, 4);
        return;
    }
    for (int part = 0; part < c->parts; part++, key += width) {
        uint16_t *scale = key_scale_at(c, head, position) + 16 * part;
        const float inverse = bits == 8 ? scale_for(largest(key, width), 127.0f, scale)
                                        : scale_for_four_bits(key, width, scale);
        uint8_t *from = group + part * width * 2 * bits;
        for (int i = 0; i < width; i++) {
            if (bits == 8) {
                from[64 * (i / 4) + i % 4] = (uint8_t)(128 + within(__builtin_rintf(key[i] * inverse), -127, 127));
                continue;
            }
            uint8_t *byte = from + 64 * (i / 8) + i % 4;
            const int code = 8 + within(__builtin_floorf(key[i] * inverse), -8, 7);
            *byte = (uint8_t)(i / 4 % 2 ? (*byte & 0x0f) | code << 4 : (*byte & 0xf0) | code);
        }
    }
}

INLINE void write_value(const Cache *c, int head, int64_t position, const float *value) {
    const int64_t at = head * c->capacity + position;
    if (c->key_bits == KEPT_EXACTLY) {
        memcpy((float *)c->values + at * c->width, value, 4 * (size_t)c->width);
        return;
    }
    const float inverse = scale_for(largest(value, c->width), 127.0f, c->value_scale + at);
    int8_t *to = (int8_t *)c->values + at * c->width;
    for (int i = 0; i < c->width; i++) to[i] = (int8_t)within(__builtin_rintf(value[i] * inverse), -127, 127);
}

INLINE void append_one(const Cache *c, int head, int64_t position, const float *key, const float *value) {
    write_key(c, head, position, key);
    write_value(c, head, position, value);
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
    int32_t number;
    int64_t visible[QUERIES], end; /* end: what the one that sees most sees */
    float step[QUERIES], total[QUERIES][KEY_PARTS_MAX], *out[QUERIES];
    const float *exact[QUERIES];
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

#define STORE_SCORE_OF(i) \
    store(scores + i * CHUNK + p - origin + lane, y##i * (asked->step[i] * scale));
#define ADD_PART(i) \
    y##i += (__builtin_convertvector(n##i, vf) - zero * asked->total[i][part]) * by;

/* scores[n][position - origin] of quantized queries q[n], for positions from `begin`, a multiple of 16. */
INLINE void score_keys_of(const Cache *c, int head, int64_t origin, int64_t begin, int64_t end, const Asked *asked,
                          float *scores, int bits) {
    const int d = c->width, quads = d / 4 / c->parts;
    const float scale = 1.0f / sqrtf((float)d);
    /* dot takes the zero of eight bits off itself where OFFSET is 0. */
    const float zero = bits == 8 ? (float)OFFSET : 7.5f;
    for (int64_t p = begin; p < end; p += 16) {
        const uint8_t *group = key_group(c, head, p);
        const uint16_t *key_scale = key_scale_at(c, head, p);
        for (int lane = 0; lane < 16; lane += LANES) {
            vf y0 = splat(0), y1 = y0, y2 = y0, y3 = y0;
            for (int part = 0; part < c->parts; part++) {
                const uint8_t *from = group + 4 * lane + part * quads * 8 * bits;
                const int8_t *q = asked->q + 4 * part * quads;
                vi n0 = splat_int(0), n1 = n0, n2 = n0, n3 = n0;
                for (int i = 0; i < quads; i += 2) { /* widths are multiples of 8 */
                    for (int j = i; j < i + 2; j++) {
                        vi key = key_quad(from, j, bits);
                        n0 = dot_key(n0, key, q + 4 * j, bits), n1 = dot_key(n1, key, q + d + 4 * j, bits);
                        n2 = dot_key(n2, key, q + 2 * d + 4 * j, bits), n3 = dot_key(n3, key, q + 3 * d + 4 * j, bits);
                    }
                }
                const vf by = load_halves(key_scale + 16 * part + lane);
                ADD_PART(0) ADD_PART(1) ADD_PART(2) ADD_PART(3)
            }
            STORE_SCORE_OF(0) STORE_SCORE_OF(1) STORE_SCORE_OF(2) STORE_SCORE_OF(3)
        }
    }
}
static __attribute__((noinline)) void score_keys_4(const Cache *c, int head, int64_t origin, int64_t begin,
                                                   int64_t end, const Asked *asked, float *scores) {
    score_keys_of(c, head, origin, begin, end, asked, scores, 4);
}
static __attribute__((noinline)) void score_keys_8(const Cache *c, int head, int64_t origin, int64_t begin,
                                                   int64_t end, const Asked *asked, float *scores) {
    score_keys_of(c, head, origin, begin, end, asked, scores, 8);
}
static __attribute__((noinline)) void score_exact_keys(const Cache *c, int head, int64_t origin, int64_t begin,
                                                       int64_t end, const Asked *asked, float *scores) {
    const float scale = 1.0f / sqrtf((float)c->width);
    for (int64_t p = begin; p < end; p += 16) {
        const float *group = (const float *)key_group(c, head, p);
        for (int lane = 0; lane < 16; lane += LANES) {
            vf y0 = splat(0), y1 = y0, y2 = y0, y3 = y0;
            for (int i = 0; i < c->width; i++) {
                const vf key = load(group + 16 * i + lane);
                y0 += key * asked->exact[0][i], y1 += key * asked->exact[1][i];
                y2 += key * asked->exact[2][i], y3 += key * asked->exact[3][i];
            }
            store(scores + p - origin + lane, y0 * scale), store(scores + CHUNK + p - origin + lane, y1 * scale);
            store(scores + 2 * CHUNK + p - origin + lane, y2 * scale);
            store(scores + 3 * CHUNK + p - origin + lane, y3 * scale);
        }
    }
}
static void score_keys(const Cache *c, int head, int64_t begin, int64_t end, const Asked *asked, float *scores) {
    const int64_t first = end < FIRST_POSITIONS ? end : FIRST_POSITIONS;
    if (c->key_bits == KEPT_EXACTLY) score_exact_keys(c, head, begin, begin, end, asked, scores);
    else if (c->key_bits == 8) score_keys_8(c, head, begin, begin, end, asked, scores);
    else if (begin) score_keys_4(c, head, begin, begin, end, asked, scores);
    else score_keys_8(c, head, 0, 0, first, asked, scores), score_keys_4(c, head, 0, first, end, asked, scores);
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
    const int8_t *values = (const int8_t *)c->values + (head * c->capacity + begin) * d;
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

static __attribute__((noinline)) void mix_exact_values(const Cache *c, int head, int64_t begin, int count,
                                                       const float *weights, float *mix, int stride) {
    const int d = c->width;
    const float *values = (const float *)c->values + (head * c->capacity + begin) * d;
    EACH_VECTOR(i, n, d) {
        vf y0 = splat(0), y1 = y0, y2 = y0, y3 = y0;
        for (int p = 0; p < count; p++) {
            const vf value = load_some(values + (int64_t)p * d + i, n);
            y0 += value * weights[p], y1 += value * weights[CHUNK + p];
            y2 += value * weights[2 * CHUNK + p], y3 += value * weights[3 * CHUNK + p];
        }
        store_some(mix + i, y0, n), store_some(mix + stride + i, y1, n);
        store_some(mix + 2 * stride + i, y2, n), store_some(mix + 3 * stride + i, y3, n);
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
        int32_t whole;
        asked->exact[n] = a->queries + token * a->query_stride + at;
        quantize_row(asked->exact[n], 0, d, d, asked->q + n * d, asked->step + n, &whole);
        for (int part = 0, i = n * d; part < a->cache->parts; part++) {
            int32_t total = 0;
            for (int end = i + d / a->cache->parts; i < end; i++) total += asked->q[i];
            asked->total[n][part] = (float)total;
        }
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
    const int is_exact = c->key_bits == KEPT_EXACTLY;
    const uint16_t *by = c->value_scale + head * c->capacity + begin;
    score_keys(c, head, begin, end, asked, scores);
    for (int n = 0; n < QUERIES; n++) {
        float *row = scores + n * CHUNK, *part = parts + n * (2 + d);
        int64_t seen = asked->visible[n] < end ? asked->visible[n] - begin : end - begin;
        part[0] = -INFINITY, part[1] = 0;
        if (seen > 0) part[1] = powers_from(row, (int)seen, part);
        else seen = 0;
        if (!is_exact) /* capacities are multiples of 16 */
            for (int64_t p = 0; p < seen; p += LANES) store(row + p, load(row + p) * load_halves(by + p));
        for (int64_t p = seen; p < end - begin; p++) row[p] = 0;
    }
    (is_exact ? mix_exact_values : mix_values)(c, head, begin, (int)(end - begin), scores, parts + 2, 2 + d);
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
