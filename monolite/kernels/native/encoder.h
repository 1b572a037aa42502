/* BERT's forward pass for a block of sentences laid end to end (no padding).
 *
 *   D width   F hidden   H heads   d = D / H   T tokens in the block   n tokens of a sentence
 *
 * Scratch of a block, rows padded to nothing (D, F are multiples of 32):
 *   x    [T, D]   the residual stream        q     [T, F] int8: a layer's input, quantized
 *   qkv  [T, 3D]  query, key, value          step  [T]    of q
 *   c    [T, D]   attention's output         total [T]    of q
 *   h    [T, F]   the hidden layer
 */
#ifndef ENCODER_H
#define ENCODER_H

#include <math.h>
#include <stdlib.h>

#include "attention.h"
#include "linear.h"
#include "pool.h"

/* Sentences are encoded in blocks of about this many tokens, whose scratch stays in the cache. */
enum { BLOCK_TOKENS = 256, STEPS_PER_LAYER = 9, PIECE_ROWS = 4 };

typedef struct {
    const Encoder *model;
    const int32_t *ids, *lengths;
    int32_t sentences, tokens, longest;
    float *out; /* [sentences, D] */
    float *x, *qkv, *c, *h, *step;
    float *attention; /* scratch of each worker */
    size_t attention_floats;
    int32_t *total, *start; /* start [sentences]: a sentence's first token */
    int8_t *q;
    Step *steps;
} Block;

INLINE void normalize(float *x, const float *weight, const float *bias, int width, float epsilon) {
    vf sums = splat(0), squares = splat(0);
    for (int i = 0; i < width; i += LANES) sums += load(x + i);
    float mean = sum(sums) / (float)width;
    for (int i = 0; i < width; i += LANES) {
        vf d = load(x + i) - mean;
        squares += d * d;
    }
    float scale = 1.0f / sqrtf(sum(squares) / (float)width + epsilon);
    for (int i = 0; i < width; i += LANES)
        store(x + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
}

INLINE void embed_token(const Block *b, int token, int position) {
    const Encoder *m = b->model;
    float *x = b->x + (int64_t)token * m->width;
    const int8_t *word = m->words + (int64_t)b->ids[token] * m->width;
    float scale = m->word_scale[b->ids[token]];
    const float *place = m->positions + (int64_t)position * m->width;
    for (int i = 0; i < m->width; i += LANES) {
        vb bytes;
        memcpy(&bytes, word + i, sizeof bytes);
        store(x + i, __builtin_convertvector(bytes, vf) * scale + load(place + i));
    }
    normalize(x, m->norm_weight, m->norm_bias, m->width, m->epsilon);
}

/* A token's row of `from`, quantized as the input of `layer`. */
INLINE void quantize_token(const Block *b, const float *from, const Linear *layer, int token) {
    const int width = layer->columns;
    quantize_row(from + (int64_t)token * width, layer->smooth, width, width,
                 b->q + (int64_t)token * width, b->step + token, b->total + token);
}

/* One head of one sentence. */
INLINE void attend(const Block *b, int sentence, int head, int worker) {
    const int D = b->model->width, d = D / b->model->heads;
    const float *qkv = b->qkv + (int64_t)b->start[sentence] * 3 * D + head * d;
    attend_head(qkv, b->lengths[sentence], d, D, b->attention + (size_t)worker * b->attention_floats,
                b->c + (int64_t)b->start[sentence] * D + head * d);
}

INLINE void pool_tokens(const Block *b, int sentence) {
    const int D = b->model->width, n = b->model->pooling ? 1 : b->lengths[sentence];
    const float *x = b->x + (int64_t)b->start[sentence] * D;
    float *out = b->out + (int64_t)sentence * D;
    vf squares = splat(0);
    for (int i = 0; i < D; i += LANES) {
        vf s = splat(0);
        for (int t = 0; t < n; t++) s += load(x + (int64_t)t * D + i);
        s = s / (float)n;
        squares += s * s;
        store(out + i, s);
    }
    float length = sqrtf(sum(squares));
    float inverse = length > 0 ? 1.0f / length : 0;
    for (int i = 0; i < D; i += LANES) store(out + i, load(out + i) * inverse);
}

/* The rows of a piece of PIECE_ROWS tokens. */
#define EACH_ROW(b, piece, t)                                                        \
    for (int t = (piece) * PIECE_ROWS, end_ = t + PIECE_ROWS < (b)->tokens           \
                                                  ? t + PIECE_ROWS                   \
                                                  : (b)->tokens;                     \
         t < end_; t++)

static void encode_block(void *job, int worker) {
    const Block *b = job;
    const Encoder *m = b->model;
    const int D = m->width, F = m->hidden, T = b->tokens;
    const int pieces = (T + PIECE_ROWS - 1) / PIECE_ROWS, columns = D / TILE_COLUMNS;
    Step *step = b->steps;

    STEP(step, b->sentences, s) {
        for (int t = 0; t < b->lengths[s]; t++) embed_token(b, b->start[s] + t, t);
    }
    step_wait(step++, b->sentences);
    STEP(step, pieces, p) { EACH_ROW(b, p, t) quantize_token(b, b->x, &m->layer[0].qkv, t); }
    step_wait(step++, pieces);
    for (int l = 0; l < m->layers; l++) {
        const EncoderLayer *layer = m->layer + l;
        STEP(step, 3 * columns, p)
        linear_piece(&layer->qkv, p, b->q, b->step, b->total, T, b->qkv, 3 * D, 0, 0);
        step_wait(step++, 3 * columns);
        STEP(step, b->sentences * m->heads, p)
        attend(b, p / m->heads, p % m->heads, worker);
        step_wait(step++, b->sentences * m->heads);
        STEP(step, pieces, p) { EACH_ROW(b, p, t) quantize_token(b, b->c, &layer->out, t); }
        step_wait(step++, pieces);
        STEP(step, columns, p)
        linear_piece(&layer->out, p, b->q, b->step, b->total, T, b->x, D, 0, 1);
        step_wait(step++, columns);
        STEP(step, pieces, p) {
            EACH_ROW(b, p, t) {
                normalize(b->x + (int64_t)t * D, layer->attention_norm_weight,
                          layer->attention_norm_bias, D, m->epsilon);
                quantize_token(b, b->x, &layer->up, t);
            }
        }
        step_wait(step++, pieces);
        STEP(step, F / TILE_COLUMNS, p)
        linear_piece(&layer->up, p, b->q, b->step, b->total, T, b->h, F, 1, 0);
        step_wait(step++, F / TILE_COLUMNS);
        STEP(step, pieces, p) { EACH_ROW(b, p, t) quantize_token(b, b->h, &layer->down, t); }
        step_wait(step++, pieces);
        STEP(step, columns, p)
        linear_piece(&layer->down, p, b->q, b->step, b->total, T, b->x, D, 0, 1);
        step_wait(step++, columns);
        STEP(step, pieces, p) {
            EACH_ROW(b, p, t) {
                normalize(b->x + (int64_t)t * D, layer->output_norm_weight,
                          layer->output_norm_bias, D, m->epsilon);
                if (l + 1 < m->layers) quantize_token(b, b->x, &layer[1].qkv, t);
            }
        }
        step_wait(step++, pieces);
    }
    STEP(step, b->sentences, s) { pool_tokens(b, s); }
    step_wait(step, b->sentences);
}

static int encode(const Encoder *m, const int32_t *ids, const int32_t *lengths, int32_t count,
                  float *out) {
    int32_t first = 0, most = 0, longest = 0;
    for (int32_t s = 0, tokens = 0; s < count; s++) { /* the largest block's tokens */
        if (s > first && tokens + lengths[s] > BLOCK_TOKENS) first = s, tokens = 0;
        tokens += lengths[s];
        if (tokens > most) most = tokens;
        if (lengths[s] > longest) longest = lengths[s];
    }
    const size_t D = (size_t)m->width, F = (size_t)m->hidden, T = (size_t)most;
    const size_t attention = attend_floats(longest, m->width / m->heads);
    const size_t floats = WORKERS_MAX * attention + T * (5 * D + F);
    const size_t others = T * (F > D ? F : D) + T * 8 + (size_t)count * 4;
    const size_t steps = (size_t)(3 + STEPS_PER_LAYER * m->layers);
    Step *step = 0;
    float *scratch = aligned_alloc(64, (floats * 4 + others + 255) / 64 * 64);
    if (!scratch || posix_memalign((void **)&step, 64, steps * sizeof *step)) {
        free(scratch);
        return 0;
    }
    Block block = {.model = m, .steps = step, .attention = scratch, .attention_floats = attention};
    block.x = scratch + WORKERS_MAX * attention;
    block.qkv = block.x + T * D;
    block.c = block.qkv + 3 * T * D;
    block.h = block.c + T * D;
    block.step = block.h + T * F;
    block.total = (int32_t *)(block.step + T);
    block.start = block.total + T;
    block.q = (int8_t *)(block.start + count);
    for (first = 0; first < count;) {
        block.tokens = block.sentences = block.longest = 0;
        block.ids = ids;
        block.lengths = lengths + first;
        block.out = out + (size_t)first * D;
        while (first + block.sentences < count) {
            int32_t n = block.lengths[block.sentences];
            if (block.sentences && block.tokens + n > BLOCK_TOKENS) break;
            block.start[block.sentences++] = block.tokens;
            block.tokens += n;
            if (n > block.longest) block.longest = n;
        }
        memset(step, 0, steps * sizeof *step);
        pool_run(encode_block, &block);
        ids += block.tokens;
        first += block.sentences;
    }
    free(step);
    free(scratch);
    return 1;
}

#endif
