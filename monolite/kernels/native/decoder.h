/* A decoder's pass over its layers, in one call: the tokens of several sequences go through together,
 * so that a matrix is read once for all of them.
 *
 *   T tokens   D width   F hidden   H query heads, G of keys and values, d a head's width
 *
 *   x    [T, D]             the residual stream      in     [T, max(D, H d)]  a layer's input, quantized
 *   c    [T, max(D, H d)]   normed x, attention      inner  [T, F]            the hidden layer, quantized
 *   qkv  [T, (H + 2 G) d]   query, key, value        gated, up  [T, F]
 *
 * Rows T and up of `in` and `inner` hold what quantizing row 0 and up has left over. It is multiplied too
 * for queries, keys and values of all tokens, whose products the softmax makes powers of, and for the
 * first token of a sequence everywhere: all others attend to it, and some of its values are a thousand
 * times the others' (Sun et al. 2024, Massive Activations), of which eight bits keep too little.
 *
 * Steps of a layer; all workers finish one before the next:
 *
 *   norm, quantize ► q k v ► rotate, append ► attend ► quantize ► out ► norm, quantize ► gate, up ► down
 */
#ifndef DECODER_H
#define DECODER_H

#include "blocks.h"
#include "cache.h"

enum {
    PASS_STEPS_PER_LAYER = 9,
    PASS_STEPS_AFTER = 2,
    PASS_GROUPS = 2,         /* of 16 rows in a piece: one block of 32 columns of what comes next */
    PASS_LAST_GROUPS = 8,    /* of the vocabulary */
    ATTENTION_PIECES_FEW = 16, /* of fewer, each chunk of positions is one */
};

typedef struct {
    const Decoder *model;
    const DecoderSpan *spans;
    const float *cosine, *sine;
    const int32_t *wanted;
    int32_t span_count, tokens, wanted_count, chunks_most;
    int is_split; /* attention's parts lie in `parts`, and are merged where they are quantized */
    float *x, *c, *qkv, *gated, *up, *parts, *logits;
    int64_t *visible;       /* [T] */
    int32_t *begin, *piece; /* [spans + 1]: of a span the first token, the first piece of attention */
    Quantized in, inner;
    Step *steps;
} Pass;

INLINE int pass_width(const Decoder *m) {
    return m->width > m->heads * m->head_width ? m->width : m->heads * m->head_width;
}
INLINE int qkv_width(const Decoder *m) { return (m->heads + 2 * m->kv_heads) * m->head_width; }

INLINE int span_of(const Pass *p, const int32_t *bounds, int number) {
    int span = 0;
    while (span + 1 < p->span_count && bounds[span + 1] <= number) span++;
    return span;
}

INLINE int is_first(const Pass *p, int token) { return p->visible[token] == 1; }

/* Row `row` of c, `columns` wide, as a layer's input. */
INLINE void quantize_input(const Pass *p, int columns, int row, int with_left_over) {
    const float *c = p->c + (int64_t)row * pass_width(p->model);
    quantize_blocks(c, columns, &p->in, row);
    if (with_left_over) quantize_left_over(c, columns, 0, columns / BLOCK_COLUMNS, &p->in, row, p->tokens + row);
}
INLINE void norm_token(const Pass *p, const float *x, const float *weight, int row, int with_left_over) {
    const int D = p->model->width;
    rms_norm(x, 1, D, weight, p->model->epsilon, p->c + (int64_t)row * pass_width(p->model));
    quantize_input(p, D, row, with_left_over);
}

/* Rows from `first` on of the input. */
INLINE Quantized rows_of(const Quantized *in, int columns, int first) {
    const int64_t block = (int64_t)first * (columns / BLOCK_COLUMNS);
    return (Quantized){in->q + block * BLOCK_COLUMNS, in->step + block, in->total + block};
}
/* As multiply_piece, with what is left over of the sequences' first tokens, or of all. */
INLINE void multiply_precisely(const Pass *p, const Blocks *w, const Quantized *in, int piece, float *y, int stride,
                               int add, int all) {
    Blocks bare = *w;
    bare.bias = 0;
    multiply_piece(w, in, p->tokens, piece, PASS_GROUPS, y, stride, ACTIVATION_NONE, add);
    if (all) {
        const Quantized rest = rows_of(in, w->columns, p->tokens);
        multiply_piece(&bare, &rest, p->tokens, piece, PASS_GROUPS, y, stride, ACTIVATION_NONE, 1);
        return;
    }
    for (int span = 0; span < p->span_count; span++) {
        const int token = p->begin[span];
        if (!p->spans[span].count || !is_first(p, token)) continue;
        const Quantized rest = rows_of(in, w->columns, p->tokens + token);
        multiply_piece(&bare, &rest, 1, piece, PASS_GROUPS, y + (int64_t)token * stride, stride, ACTIVATION_NONE, 1);
    }
}

/* Positions of one token's queries and key of one head of keys, which goes into the cache. */
INLINE void place_token(const Pass *p, int layer, int token, int head) {
    const Decoder *m = p->model;
    const int d = m->head_width, share = m->heads / m->kv_heads;
    const int span = span_of(p, p->begin, token);
    const float *cosine = p->cosine + (int64_t)token * (d / 2), *sine = p->sine + (int64_t)token * (d / 2);
    float *query = p->qkv + (int64_t)token * qkv_width(m) + head * share * d;
    float *key = p->qkv + (int64_t)token * qkv_width(m) + (m->heads + head) * d;
    rotate(query, 1, share, d, cosine, sine, m->neighbours);
    rotate(key, 1, 1, d, cosine, sine, m->neighbours);
    if (m->spread) spread(query, share, d), spread(key, 1, d);
    append_one(p->spans[span].layer + layer, head, p->visible[token] - 1, key, key + m->kv_heads * d);
}

INLINE Attention attention_of(const Pass *p, int layer, int span) {
    const Decoder *m = p->model;
    const int first = p->begin[span];
    return (Attention){.cache = p->spans[span].layer + layer,
                       .queries = p->qkv + (int64_t)first * qkv_width(m),
                       .visible = p->visible + first,
                       .out = p->c + (int64_t)first * pass_width(m),
                       .query_stride = qkv_width(m),
                       .out_stride = pass_width(m),
                       .count = p->spans[span].count,
                       .query_heads = m->heads};
}

/* parts [piece][chunk][QUERIES][2 + d] */
INLINE float *parts_of(const Pass *p, int piece, int chunk) {
    return p->parts + ((int64_t)piece * p->chunks_most + chunk) * QUERIES * (2 + p->model->head_width);
}

INLINE void attend_piece(const Pass *p, int layer, int number) {
    const int piece = p->is_split ? number / p->chunks_most : number, chunk = number % p->chunks_most;
    const int span = span_of(p, p->piece, piece);
    const Attention attention = attention_of(p, layer, span);
    const int groups = attention_groups(&attention), local = piece - p->piece[span];
    const int head = local / groups, group = local % groups;
    if (!p->is_split) {
        attend_group(&attention, head, group);
        return;
    }
    Asked asked;
    ask(&attention, head, group, &asked);
    if ((int64_t)chunk * CHUNK < asked.end)
        attend_chunk(attention.cache, head, (int64_t)chunk * CHUNK, &asked, parts_of(p, piece, chunk));
}

/* Attention's output of a token out of its parts, in the order in which attend_group merges them. */
INLINE void gather_token(const Pass *p, int token) {
    const Decoder *m = p->model;
    const int d = m->head_width, share = m->heads / m->kv_heads, span = span_of(p, p->begin, token);
    const int groups = (p->spans[span].count * share + QUERIES - 1) / QUERIES;
    for (int head = 0; head < m->heads; head++) {
        const int number = (token - p->begin[span]) * share + head % share;
        const int piece = p->piece[span] + head / share * groups + number / QUERIES;
        float *whole = parts_of(p, piece, 0) + number % QUERIES * (2 + d);
        for (int64_t chunk = 1; chunk * CHUNK < p->visible[token]; chunk++)
            merge_part(whole, parts_of(p, piece, (int)chunk) + number % QUERIES * (2 + d), d);
        settle_part(whole, p->c + (int64_t)token * pass_width(m) + head * d, d);
    }
}

/* 32 columns of the hidden layer, or 16 at the end, of all tokens: silu(gate) * up, quantized. */
INLINE void gate_piece(const Pass *p, const DecoderLayer *layer, int piece) {
    const int F = p->model->hidden, first = piece * PASS_GROUPS * GROUP_ROWS;
    multiply_precisely(p, &layer->gate, &p->in, piece, p->gated, F, 0, 0);
    multiply_precisely(p, &layer->up, &p->in, piece, p->up, F, 0, 0);
    for (int t = 0; t < p->tokens; t++) {
        float *row = p->gated + (int64_t)t * F;
        gate(row + first, p->up + (int64_t)t * F + first, BLOCK_COLUMNS);
        quantize_some_blocks(row, F, piece, piece + 1, &p->inner, t);
        if (is_first(p, t)) quantize_left_over(row, F, piece, piece + 1, &p->inner, t, p->tokens + t);
    }
}

static void pass_job(void *job, int worker) {
    const Pass *p = job;
    const Decoder *m = p->model;
    const int T = p->tokens, D = m->width, d = m->head_width;
    const int attention = p->piece[p->span_count] * (p->is_split ? p->chunks_most : 1);
    Step *step = p->steps;
    (void)worker;
    for (int l = 0; l < m->layers; l++) {
        const DecoderLayer *layer = m->layer + l;
        STEP(step, T, t) norm_token(p, p->x + (int64_t)t * D, layer->attention_norm, t, 1);
        step_wait(step++, T);
        const int queries = group_pieces(&layer->query, PASS_GROUPS), keys = group_pieces(&layer->key, PASS_GROUPS);
        STEP(step, queries + 2 * keys, i) {
            const int which = i < queries ? 0 : 1 + (i - queries) / keys;
            const Blocks *w = which == 0 ? &layer->query : which == 1 ? &layer->key : &layer->value;
            float *y = p->qkv + (which ? (m->heads + (which - 1) * m->kv_heads) * d : 0);
            multiply_precisely(p, w, &p->in, which ? (i - queries) % keys : i, y, qkv_width(m), 0, 1);
        }
        step_wait(step++, queries + 2 * keys);
        STEP(step, T * m->kv_heads, i) place_token(p, l, i / m->kv_heads, i % m->kv_heads);
        step_wait(step++, T * m->kv_heads);
        STEP(step, attention, i) attend_piece(p, l, i);
        step_wait(step++, attention);
        STEP(step, T, t) {
            if (p->is_split) gather_token(p, t);
            quantize_input(p, m->heads * d, t, is_first(p, t));
        }
        step_wait(step++, T);
        const int outs = group_pieces(&layer->out, PASS_GROUPS), gates = group_pieces(&layer->gate, PASS_GROUPS);
        STEP(step, outs, i) multiply_precisely(p, &layer->out, &p->in, i, p->x, D, 1, 0);
        step_wait(step++, outs);
        STEP(step, T, t) norm_token(p, p->x + (int64_t)t * D, layer->mlp_norm, t, is_first(p, t));
        step_wait(step++, T);
        STEP(step, gates, i) gate_piece(p, layer, i);
        step_wait(step++, gates);
        STEP(step, outs, i) multiply_precisely(p, &layer->down, &p->inner, i, p->x, D, 1, 0);
        step_wait(step++, outs);
    }
    STEP(step, p->wanted_count, i) norm_token(p, p->x + (int64_t)p->wanted[i] * D, m->norm, i, 0);
    step_wait(step++, p->wanted_count);
    const int last = p->wanted_count ? group_pieces(&m->output, PASS_LAST_GROUPS) : 0;
    STEP(step, last, i)
    multiply_piece(&m->output, &p->in, p->wanted_count, i, PASS_LAST_GROUPS, p->logits, m->output.rows, ACTIVATION_NONE, 0);
    step_wait(step, last);
}

/* Memory of a pass, taken at once: a cursor over it. With a null base it counts. */
INLINE void *take(char **cursor, size_t bytes) {
    void *found = *cursor;
    *cursor += (bytes + 63) / 64 * 64;
    return found;
}

static int decode(const Decoder *m, const DecoderSpan *spans, int32_t span_count, float *x, const float *cosine,
                  const float *sine, const int32_t *wanted, int32_t wanted_count, float *logits) {
    Pass p = {.model = m, .spans = spans, .span_count = span_count, .x = x, .cosine = cosine, .sine = sine,
              .wanted = wanted, .wanted_count = wanted_count, .logits = logits, .chunks_most = 1};
    const int share = m->heads / m->kv_heads;
    int pieces = 0;
    for (int i = 0; i < span_count; i++) {
        const int chunks = (int)((spans[i].first + spans[i].count + CHUNK - 1) / CHUNK);
        if (chunks > p.chunks_most) p.chunks_most = chunks;
        p.tokens += spans[i].count;
        pieces += m->kv_heads * ((spans[i].count * share + QUERIES - 1) / QUERIES);
    }
    p.is_split = pieces < ATTENTION_PIECES_FEW && p.chunks_most > 1;
    const size_t T = (size_t)p.tokens, W = (size_t)pass_width(m), F = (size_t)m->hidden;
    const size_t steps = (size_t)(PASS_STEPS_PER_LAYER * m->layers + PASS_STEPS_AFTER);
    const size_t parts = p.is_split ? (size_t)(pieces * p.chunks_most * QUERIES * (2 + m->head_width)) : 0;
    char *base = 0;
    for (int counting = 1; counting >= 0; counting--) {
        char *cursor = base;
        p.steps = take(&cursor, steps * sizeof(Step));
        p.begin = take(&cursor, 4 * ((size_t)span_count + 1));
        p.piece = take(&cursor, 4 * ((size_t)span_count + 1));
        p.visible = take(&cursor, 8 * T);
        p.c = take(&cursor, 4 * T * W);
        p.qkv = take(&cursor, 4 * T * (size_t)qkv_width(m));
        p.gated = take(&cursor, 4 * T * F);
        p.up = take(&cursor, 4 * T * F);
        p.parts = take(&cursor, 4 * parts);
        void *in = take(&cursor, quantized_bytes(2 * T, W)), *inner = take(&cursor, quantized_bytes(2 * T, F));
        if (counting) {
            if (posix_memalign((void **)&base, 64, (size_t)(cursor - (char *)0) + 64)) return 0;
            continue;
        }
        p.in = quantized_in(in, 2 * T, W), p.inner = quantized_in(inner, 2 * T, F);
    }
    memset(p.steps, 0, steps * sizeof(Step));
    p.begin[0] = p.piece[0] = 0;
    for (int i = 0; i < span_count; i++) {
        p.begin[i + 1] = p.begin[i] + spans[i].count;
        p.piece[i + 1] = p.piece[i] + m->kv_heads * ((spans[i].count * share + QUERIES - 1) / QUERIES);
        for (int t = 0; t < spans[i].count; t++) p.visible[p.begin[i] + t] = spans[i].first + t + 1;
    }
    pool_run(pass_job, &p);
    free(base);
    return 1;
}

#endif
