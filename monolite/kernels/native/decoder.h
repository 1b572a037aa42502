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
 * first token of a sequence everywhere, as of all tokens whose keys are kept as floats: all others attend to it, and some of its values are a thousand
 * times the others' (Sun et al. 2024, Massive Activations), of which eight bits keep too little.
 *
 * Steps of a layer; all workers finish one before the next:
 *
 *   norm, quantize ► q k v ► rotate, append ► attend ► quantize ► out ► norm, quantize ► gate, up ► down
 *
 * Where a sequence has an adapter (adapters.h), what it adds is part of these, and one step before `down`.
 */
#ifndef DECODER_H
#define DECODER_H

#include "adapters.h"
#include "blocks.h"
#include "cache.h"

enum {
    PASS_STEPS_PER_LAYER = 10,
    PASS_STEPS_AFTER = 2,
    PASS_GROUPS = 2,         /* of 16 rows in a piece: one block of 32 columns of what comes next */
    PASS_LAST_GROUPS = 8,    /* of the vocabulary */
    PASS_TOKENS_FEW = 8,     /* of no more, reading the weights takes the time: a matrix goes by one piece a
                              * worker, which reads it in one go */
    ATTENTION_PIECES_FEW = 16, /* of fewer, each chunk of positions is one */
};

typedef struct {
    const Decoder *model;
    const DecoderSpan *spans;
    const float *cosine, *sine;
    const int32_t *wanted;
    int32_t span_count, tokens, wanted_count, chunks_most;
    int pieces_wanted; /* of a matrix; 0: as many as there are */
    int is_split; /* attention's parts lie in `parts`, and are merged where they are quantized */
    float *x, *c, *qkv, *gated, *up, *parts, *logits;
    float *low;             /* [T, LOW_SLOTS, low_width], of tokens with an adapter */
    int32_t low_width;      /* the greatest rank, filled up; 0 where no sequence has an adapter */
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

INLINE int is_exact(const Pass *p, int span) { return p->spans[span].layer->key_bits == KEPT_EXACTLY; }
/* Of a token, what is left over counts everywhere. */
INLINE int is_precise(const Pass *p, int token) {
    return p->visible[token] == 1 || is_exact(p, span_of(p, p->begin, token));
}

INLINE float *low_of(const Pass *p, int token, int slot) {
    return p->low + ((int64_t)token * LOW_SLOTS + slot) * p->low_width;
}
INLINE const AdapterLayer *adapter_of(const Pass *p, int layer, int token) {
    const AdapterLayer *found = p->low_width ? p->spans[span_of(p, p->begin, token)].adapter : 0;
    return found ? found + layer : 0;
}
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
/* How many groups of rows a piece of a matrix has: a multiple of `least`, which is even. */
INLINE int groups_of(const Pass *p, const Blocks *w, int least) {
    if (!p->pieces_wanted) return least;
    const int units = (w->rows / GROUP_ROWS + least - 1) / least;
    return (units + p->pieces_wanted - 1) / p->pieces_wanted * least;
}
INLINE int pieces_of(const Pass *p, const Blocks *w) { return group_pieces(w, groups_of(p, w, PASS_GROUPS)); }

/* One token's products with 16 rows, of what is quantized and of what that left over: both at once, and the
 * sum as multiply_precisely makes it. */
INLINE void multiply_twice(const Pass *p, const Blocks *w, int group, float *y) {
    float both[2 * GROUP_ROWS];
    Blocks bare = *w;
    bare.bias = 0;
    bare.packed += (int64_t)group * (w->columns / BLOCK_COLUMNS) * BLOCK_BYTES(w->bits);
    multiply_group(&bare, &p->in, 2, 0, both, GROUP_ROWS, ACTIVATION_NONE, 0);
    for (int i = 0; i < GROUP_ROWS; i++) {
        const int row = group * GROUP_ROWS + i;
        y[row] = (w->bias ? both[i] + w->bias[row] : both[i]) + both[GROUP_ROWS + i];
    }
}
/* As multiply_piece, with what is left over of the sequences' first tokens, or of all. */
INLINE void multiply_precisely(const Pass *p, const Blocks *w, const Quantized *in, int piece, float *y, int stride,
                               int add, int all) {
    const int groups = groups_of(p, w, PASS_GROUPS);
    if (all && p->tokens == 1) {
        const int last = (piece + 1) * groups, end = last < w->rows / GROUP_ROWS ? last : w->rows / GROUP_ROWS;
        for (int group = piece * groups; group < end; group++) multiply_twice(p, w, group, y);
        return;
    }
    Blocks bare = *w;
    bare.bias = 0;
    multiply_piece(w, in, p->tokens, piece, groups, y, stride, ACTIVATION_NONE, add);
    if (all) {
        const Quantized rest = rows_of(in, w->columns, p->tokens);
        multiply_piece(&bare, &rest, p->tokens, piece, groups, y, stride, ACTIVATION_NONE, 1);
        return;
    }
    for (int span = 0; span < p->span_count; span++) {
        const int token = p->begin[span], count = is_exact(p, span) ? p->spans[span].count : 1;
        if (!p->spans[span].count || !is_precise(p, token)) continue;
        const Quantized rest = rows_of(in, w->columns, p->tokens + token);
        multiply_piece(&bare, &rest, count, piece, groups, y + (int64_t)token * stride, stride, ACTIVATION_NONE, 1);
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
    const float *mean = m->layer[layer].key_mean;
    if (mean && p->spans[span].layer[layer].key_bits == 4)
        for (int i = 0; i < d; i++) key[i] -= mean[head * d + i];
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

/* What the adapters of the pass add to the rows of a piece of a matrix, behind its product. `change` is where
 * in an AdapterLayer the matrix is. */
#define CHANGE(matrix) offsetof(AdapterLayer, matrix)
static __attribute__((noinline)) void raise_piece(const Pass *p, int layer, size_t change, int slot, const Blocks *w,
                                                  int piece, float *y, int stride) {
    const int all = w->rows / GROUP_ROWS, groups = groups_of(p, w, PASS_GROUPS);
    const int end = (piece + 1) * groups < all ? (piece + 1) * groups : all;
    for (int span = 0; span < p->span_count; span++) {
        if (!p->spans[span].adapter) continue;
        const LowRank *low = (const void *)((const char *)(p->spans[span].adapter + layer) + change);
        if (!low->rank) continue;
        for (int t = p->begin[span]; t < p->begin[span + 1]; t++)
            for (int group = piece * groups; group < end; group++)
                raise_group(low, low_of(p, t, slot), group, y + (int64_t)t * stride);
    }
}

/* A piece of the hidden layer of all tokens, whole blocks of 32 columns: silu(gate) * up, quantized. */
INLINE void gate_piece(const Pass *p, int number, int piece) {
    const DecoderLayer *layer = p->model->layer + number;
    const int F = p->model->hidden, blocks = groups_of(p, &layer->gate, PASS_GROUPS) / PASS_GROUPS;
    const int from = piece * blocks, end = (piece + 1) * blocks < F / BLOCK_COLUMNS ? (piece + 1) * blocks : F / BLOCK_COLUMNS;
    const int first = from * BLOCK_COLUMNS;
    multiply_precisely(p, &layer->gate, &p->in, piece, p->gated, F, 0, 0);
    multiply_precisely(p, &layer->up, &p->in, piece, p->up, F, 0, 0);
    if (p->low_width) {
        raise_piece(p, number, CHANGE(gate), 0, &layer->gate, piece, p->gated, F);
        raise_piece(p, number, CHANGE(up), 1, &layer->up, piece, p->up, F);
    }
    for (int t = 0; t < p->tokens; t++) {
        float *row = p->gated + (int64_t)t * F;
        gate(row + first, p->up + (int64_t)t * F + first, (end - from) * BLOCK_COLUMNS);
        quantize_some_blocks(row, F, from, end, &p->inner, t);
        if (is_precise(p, t)) quantize_left_over(row, F, from, end, &p->inner, t, p->tokens + t);
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
        STEP(step, T, t) {
            norm_token(p, p->x + (int64_t)t * D, layer->attention_norm, t, 1);
            const AdapterLayer *adapter = adapter_of(p, l, t);
            if (!adapter) continue;
            lower(&adapter->query, &p->in, t, T + t, low_of(p, t, 0));
            lower(&adapter->key, &p->in, t, T + t, low_of(p, t, 1));
            lower(&adapter->value, &p->in, t, T + t, low_of(p, t, 2));
        }
        step_wait(step++, T);
        const int queries = pieces_of(p, &layer->query), keys = pieces_of(p, &layer->key);
        STEP(step, queries + 2 * keys, i) {
            const int which = i < queries ? 0 : 1 + (i - queries) / keys;
            const Blocks *w = which == 0 ? &layer->query : which == 1 ? &layer->key : &layer->value;
            float *y = p->qkv + (which ? (m->heads + (which - 1) * m->kv_heads) * d : 0);
            const int piece = which ? (i - queries) % keys : i;
            const size_t change = which == 0 ? CHANGE(query) : which == 1 ? CHANGE(key) : CHANGE(value);
            multiply_precisely(p, w, &p->in, piece, y, qkv_width(m), 0, 1);
            if (p->low_width) raise_piece(p, l, change, which, w, piece, y, qkv_width(m));
        }
        step_wait(step++, queries + 2 * keys);
        STEP(step, T * m->kv_heads, i) place_token(p, l, i / m->kv_heads, i % m->kv_heads);
        step_wait(step++, T * m->kv_heads);
        STEP(step, attention, i) attend_piece(p, l, i);
        step_wait(step++, attention);
        STEP(step, T, t) {
            if (p->is_split) gather_token(p, t);
            quantize_input(p, m->heads * d, t, is_precise(p, t));
            const AdapterLayer *adapter = adapter_of(p, l, t);
            if (adapter) lower(&adapter->out, &p->in, t, is_precise(p, t) ? T + t : 0, low_of(p, t, 0));
        }
        step_wait(step++, T);
        const int outs = pieces_of(p, &layer->out), gates = pieces_of(p, &layer->gate);
        STEP(step, outs, i) {
            multiply_precisely(p, &layer->out, &p->in, i, p->x, D, 1, 0);
            if (p->low_width) raise_piece(p, l, CHANGE(out), 0, &layer->out, i, p->x, D);
        }
        step_wait(step++, outs);
        STEP(step, T, t) {
            norm_token(p, p->x + (int64_t)t * D, layer->mlp_norm, t, is_precise(p, t));
            const AdapterLayer *adapter = adapter_of(p, l, t);
            if (!adapter) continue;
            lower(&adapter->gate, &p->in, t, is_precise(p, t) ? T + t : 0, low_of(p, t, 0));
            lower(&adapter->up, &p->in, t, is_precise(p, t) ? T + t : 0, low_of(p, t, 1));
        }
        step_wait(step++, T);
        STEP(step, gates, i) gate_piece(p, l, i);
        step_wait(step++, gates);
        if (p->low_width) {
            STEP(step, T, t) {
                const AdapterLayer *adapter = adapter_of(p, l, t);
                if (adapter) lower(&adapter->down, &p->inner, t, is_precise(p, t) ? T + t : 0, low_of(p, t, 0));
            }
            step_wait(step++, T);
        }
        STEP(step, outs, i) {
            multiply_precisely(p, &layer->down, &p->inner, i, p->x, D, 1, 0);
            if (p->low_width) raise_piece(p, l, CHANGE(down), 0, &layer->down, i, p->x, D);
        }
        step_wait(step++, outs);
    }
    STEP(step, p->wanted_count, i)
    norm_token(p, p->x + (int64_t)p->wanted[i] * D, m->norm, i, is_exact(p, span_of(p, p->begin, p->wanted[i])));
    step_wait(step++, p->wanted_count);
    const int groups = groups_of(p, &m->output, PASS_LAST_GROUPS);
    const int last = p->wanted_count ? group_pieces(&m->output, groups) : 0;
    STEP(step, last, i) {
        multiply_piece(&m->output, &p->in, p->wanted_count, i, groups, p->logits, m->output.rows,
                       ACTIVATION_NONE, 0);
        for (int w = 0; w < p->wanted_count; w++) {
            if (!is_exact(p, span_of(p, p->begin, p->wanted[w]))) continue;
            const Quantized rest = rows_of(&p->in, D, p->tokens + w);
            multiply_piece(&m->output, &rest, 1, i, groups, p->logits + (int64_t)w * m->output.rows,
                           m->output.rows, ACTIVATION_NONE, 1);
        }
    }
    step_wait(step, last);
}

/* Memory of a pass, taken at once: a cursor over it. With a null base it counts. */
INLINE void *take(char **cursor, size_t bytes) {
    void *found = *cursor;
    *cursor += (bytes + 63) / 64 * 64;
    return found;
}

static int widest(int width, const AdapterLayer *layer, int layers) {
    for (int l = 0; l < layers; l++) {
        const LowRank *change = &layer[l].query;
        for (int i = 0; i < (int)(sizeof(AdapterLayer) / sizeof(LowRank)); i++)
            if (low_rows(change + i) > width) width = low_rows(change + i);
    }
    return width;
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
        if (spans[i].adapter) p.low_width = widest(p.low_width, spans[i].adapter, m->layers);
        pieces += m->kv_heads * ((spans[i].count * share + QUERIES - 1) / QUERIES);
    }
    if (p.tokens <= PASS_TOKENS_FEW) p.pieces_wanted = pool_threads();
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
        p.low = take(&cursor, 4 * T * LOW_SLOTS * (size_t)p.low_width);
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
