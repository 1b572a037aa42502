/* Search over quantized rows: signs first, int8 for those near by, the best k kept.
 *
 * Rows are visited in runs, so that several workers share them; each worker keeps its own best and
 * they are merged at the end. */
#ifndef SCAN_H
#define SCAN_H

#include <stdlib.h>

#include "linear.h"
#include "pool.h"

enum { RUN_ROWS = 2048 }; /* a multiple of 8 */

typedef struct {
    float score;
    int64_t row;
} Hit;

/* Whether a is worse than b: a lower score, or the same and a later row. */
INLINE int worse(Hit a, Hit b) {
    return a.score < b.score || (a.score == b.score && a.row > b.row);
}

/* A heap of at most `most` hits whose worst is on top. */
typedef struct {
    Hit *hit;
    int64_t count, most;
} Best;

static void keep(Best *best, Hit hit) {
    int64_t i;
    if (best->count < best->most) {
        for (i = best->count++; i && worse(hit, best->hit[(i - 1) / 2]); i = (i - 1) / 2)
            best->hit[i] = best->hit[(i - 1) / 2];
    } else {
        for (i = 0;;) {
            int64_t child = 2 * i + 1;
            if (child >= best->count) break;
            if (child + 1 < best->count && worse(best->hit[child + 1], best->hit[child])) child++;
            if (!worse(best->hit[child], hit)) break;
            best->hit[i] = best->hit[child];
            i = child;
        }
    }
    best->hit[i] = hit;
}

INLINE void offer(Best *best, float score, int64_t row) {
    Hit hit = {score, row};
    if (best->count < best->most || worse(best->hit[0], hit)) keep(best, hit);
}

typedef struct {
    const Rows *rows;
    const int8_t *query; /* [width_padded] */
    float query_step;
    int32_t query_total;
    const uint64_t *signs; /* of the query, [words] */
    uint16_t *distances;   /* [count rounded up to 8] */
    int64_t *histogram;    /* [WORKERS_MAX, width + 2] */
    int64_t *chosen;       /* rows to score, or null for all */
    int64_t choices;
    Best best[WORKERS_MAX];
    Step step;
} Search;

INLINE int allowed(const Rows *rows, int64_t row) {
    return !rows->allowed || rows->allowed[row / 8] >> (row % 8) & 1;
}

INLINE float score_row(const Search *s, int64_t row) {
    const int padded = s->rows->width_padded;
    const uint8_t *code = s->rows->codes + row * padded;
    vi a = splat_int(0), b = splat_int(0);
    for (int i = 0; i < padded; i += 32 * 2) {
#if LANES == 16
        a = dot(a, load_bytes(code + i), load_bytes(s->query + i));
#else
        for (int j = 0; j < 64; j += 8 * LANES) {
            a = dot(a, load_bytes(code + i + j), load_bytes(s->query + i + j));
            b = dot(b, load_bytes(code + i + j + 4 * LANES), load_bytes(s->query + i + j + 4 * LANES));
        }
#endif
    }
    int32_t product = sum_int(a + b) - OFFSET * s->query_total;
    return (float)product * s->rows->scale[row] * s->query_step;
}

#define RUNS(s) ((int)(((s)->choices + RUN_ROWS - 1) / RUN_ROWS))
#define EACH_IN_RUN(s, run, i)                                                             \
    for (int64_t i = (int64_t)(run) * RUN_ROWS,                                            \
                 end_ = i + RUN_ROWS < (s)->choices ? i + RUN_ROWS : (s)->choices;         \
         i < end_; i++)

static void score_rows(void *job, int worker) {
    Search *s = job;
    Best *best = &s->best[worker];
    STEP(&s->step, RUNS(s), run) {
        EACH_IN_RUN(s, run, i) {
            int64_t row = s->chosen ? s->chosen[i] : i;
            if (s->chosen || allowed(s->rows, row)) offer(best, score_row(s, row), row);
        }
    }
}

/* Candidates are few and lie apart: their lines are asked for ahead. */
static void score_chosen(Search *s) {
    const int padded = s->rows->width_padded;
    for (int64_t i = 0; i < s->choices; i++) {
        if (i + 8 < s->choices) {
            const uint8_t *ahead = s->rows->codes + s->chosen[i + 8] * padded;
            for (int j = 0; j < padded; j += 64) __builtin_prefetch(ahead + j);
        }
        offer(&s->best[0], score_row(s, s->chosen[i]), s->chosen[i]);
    }
}

static void measure_distances(void *job, int worker) {
    Search *s = job;
    const Rows *rows = s->rows;
    const int words = rows->width_padded / 64;
    int64_t *histogram = s->histogram + (int64_t)worker * (rows->width + 2);
    STEP(&s->step, RUNS(s), run) {
        int64_t row = (int64_t)run * RUN_ROWS, end = row + RUN_ROWS;
        if (end > s->choices) end = s->choices;
        for (; row < end; row += 8) {
            uint8_t may = rows->allowed ? rows->allowed[row / 8] : 0xff;
            if (end - row < 8) may &= (uint8_t)((1 << (end - row)) - 1);
            v8u64 count = {0};
            if (may) {
                const uint64_t *bits = rows->bits + row * words;
                for (int w = 0; w < words; w++) {
                    v8u64 block;
                    memcpy(&block, bits + 8 * w, sizeof block);
                    count += count_bits(block ^ s->signs[w]);
                }
            }
            uint16_t *out = s->distances + row;
            for (int i = 0; i < 8; i++) out[i] = (uint16_t)count[i];
            if (may == 0xff) {
                for (int i = 0; i < 8; i++) histogram[out[i]]++;
                continue;
            }
            for (int i = 0; i < 8; i++) {
                if (may >> i & 1) histogram[out[i]]++;
                else out[i] = 0xffff;
            }
        }
    }
}

/* The rows nearest by Hamming distance, about `wanted` of them: all at the distance where the count
 * reaches it are taken while they fit into 2 * wanted, by row. */
static void choose_nearest(Search *s, int64_t wanted) {
    const int width = s->rows->width;
    s->choices = s->rows->count;
    atomic_store(&s->step.next, 0);
    atomic_store(&s->step.done, 0);
    pool_run(measure_distances, s);
    int64_t reached = 0;
    int limit = 0;
    for (; limit <= width; limit++) {
        for (int w = 0; w < WORKERS_MAX; w++) reached += s->histogram[(int64_t)w * (width + 2) + limit];
        if (reached >= wanted) break;
    }
    if (limit > width) limit = width;
    int64_t found = 0;
    const int64_t count = s->rows->count;
    const v8u16 bound = (uint16_t)limit - (v8u16){0};
    for (int64_t row = 0; row < count; row += 8) {
        v8u16 near;
        memcpy(&near, s->distances + row, sizeof near);
        v8u16 hit = (v8u16)(near <= bound);
        uint64_t any[2];
        memcpy(any, &hit, sizeof any);
        if (!(any[0] | any[1])) continue;
        for (int i = 0; i < 8 && row + i < count; i++)
            if (hit[i] && found < 2 * wanted) s->chosen[found++] = row + i;
    }
    s->choices = found;
}

static int by_rank(const void *a, const void *b) {
    Hit x = *(const Hit *)a, y = *(const Hit *)b;
    return worse(x, y) ? 1 : worse(y, x) ? -1 : 0;
}

static int64_t search(const Rows *rows, const float *query, int64_t k, int64_t candidates,
                      int64_t *found, float *scores) {
    const int padded = rows->width_padded, width = rows->width;
    if (k > rows->count) k = rows->count;
    if (k <= 0) return 0;
    const int prefilter = rows->bits && candidates > 0 && candidates < rows->count;
    Search s = {.rows = rows, .choices = rows->count};
    const size_t rows8 = ((size_t)rows->count + 7) / 8 * 8;
    uint64_t signs[padded / 64];
    int8_t q[padded];
    Hit *hits = malloc(sizeof *hits * (size_t)k * WORKERS_MAX);
    uint16_t *distances = prefilter ? malloc(rows8 * sizeof *distances) : 0;
    int64_t *counts = prefilter ? calloc((size_t)(width + 2) * WORKERS_MAX, sizeof *counts) : 0;
    int64_t *chosen = prefilter ? malloc(sizeof *chosen * 2 * (size_t)candidates) : 0;
    int64_t total = -1;
    if (!hits || (prefilter && !(distances && counts && chosen))) goto out;
    quantize_row(query, 0, width, padded, q, &s.query_step, &s.query_total);
    s.query = q;
    for (int w = 0; w < WORKERS_MAX; w++) s.best[w] = (Best){hits + k * w, 0, k};
    if (prefilter) {
        memset(signs, 0, sizeof signs);
        for (int i = 0; i < width; i++) signs[i / 64] |= (uint64_t)(query[i] > 0) << (i % 64);
        s.signs = signs;
        s.distances = distances;
        s.histogram = counts;
        s.chosen = chosen;
        choose_nearest(&s, candidates);
        score_chosen(&s);
    } else {
        pool_run(score_rows, &s);
    }
    for (int w = 1; w < WORKERS_MAX; w++)
        for (int64_t i = 0; i < s.best[w].count; i++)
            offer(&s.best[0], s.best[w].hit[i].score, s.best[w].hit[i].row);
    total = s.best[0].count;
    qsort(hits, (size_t)total, sizeof *hits, by_rank);
    for (int64_t i = 0; i < total; i++) found[i] = hits[i].row, scores[i] = hits[i].score;
out:
    free(hits);
    free(distances);
    free(counts);
    free(chosen);
    return total;
}

static void quantize(const float *x, int64_t count, int32_t width, int32_t padded, uint8_t *codes,
                     float *scale) {
    for (int64_t r = 0; r < count; r++) {
        int32_t total;
        uint8_t *code = codes + r * padded;
        quantize_row(x + r * width, 0, width, padded, (int8_t *)code, scale + r, &total);
        for (int i = 0; i < padded; i++) code[i] ^= 0x80;
    }
}

static void signs(const float *x, int64_t first, int64_t count, int32_t width, uint64_t *bits) {
    const int words = (width + 63) / 64;
    for (int64_t r = 0; r < count; r++) {
        int64_t row = first + r;
        uint64_t *block = bits + row / 8 * 8 * words + row % 8;
        for (int w = 0; w < words; w++) {
            uint64_t word = 0;
            for (int i = 64 * w; i < 64 * w + 64 && i < width; i++)
                word |= (uint64_t)(x[r * width + i] > 0) << (i % 64);
            block[8 * w] = word;
        }
    }
}

static void dot_rows(const float *x, int64_t count, int32_t width, const float *query, float *scores) {
    for (int64_t r = 0; r < count; r++) {
        const float *row = x + r * width;
        vf a = splat(0);
        float rest = 0;
        int i = 0;
        for (; i + LANES <= width; i += LANES) a += load(row + i) * load(query + i);
        for (; i < width; i++) rest += row[i] * query[i];
        scores[r] = sum(a) + rest;
    }
}

#endif
