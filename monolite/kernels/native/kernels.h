/* The library's interface. Python reaches it through ctypes (native.py), which releases the GIL for
 * the length of a call. Pointers need no alignment. Every call that computes shares its work with
 * the pool's threads, or, where another call has the pool, does it alone.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

#define KERNELS_ABI 5

/* Weights of y = W x + b, W float [rows, columns] quantized by row:
 *   W[r, c] ~ scale[r] * (packed[r, c] - 128)
 * and packed, one byte a weight, so that one vector holds the same four columns of 16 rows:
 *
 *   group r/16      column quad c/4      row r%16     column c%4
 *   [rows / 16]     [columns / 4]        [16]         [4]
 *
 * rows is a multiple of 32, columns of 4 (packing.py pads with zeros).
 */
typedef struct {
    const uint8_t *packed;
    const float *scale; /* [rows] */
    const float *bias;  /* [rows], or null */
    const float *smooth; /* [columns] or null: x is multiplied by it before it is quantized, and W
                            was divided by it (SmoothQuant, Xiao et al. 2022) */
    int32_t rows, columns;
} Linear;

/* Weights W [rows, columns] quantized in blocks of 32 columns: W = minimum + scale * n. A block of 16
 * rows, which one vector of 64 bytes reads four columns of:
 *
 *   bits 4:  | n of columns 0-3 and 4-7 | 8-11, 12-15 | 16-19, 20-23 | 24-27, 28-31 | scale | minimum |
 *            | 16 rows x 4 bytes: low   |             |              |              | 16 float16 each |
 *            | half 0-3, high half 4-7  |             |              |              |
 *              64 bytes                   64            64             64             32      32  = 320
 *   bits 8:  | n of columns 0-3 | 4-7 | … | 28-31 | scale |   minimum = -128 scale
 *              64                 64        64      32      = 544
 *
 * packed: [rows / 16, columns / 32, block]. llama.cpp's Q4_0, Q4_1 and Q8_0 fit without loss. */
#define BLOCK_BYTES(bits) ((bits) == 4 ? 320 : 544)
typedef struct {
    const uint8_t *packed;
    const float *bias; /* [rows], or null */
    int32_t rows, columns, bits;
} Blocks;

/* A layer's keys and values of one sequence: cache.h draws them. key_bits 32 keeps both as floats;
 * parts is width / 32 where that is whole, else 1. width is a multiple of 8, capacity of 16. */
#define KEY_WIDTH_MAX 256
typedef struct {
    uint8_t *keys;
    uint8_t *first_keys;   /* with 4 bits */
    uint16_t *key_scale;   /* float16 [heads, capacity / 16, parts, 16] */
    void *values;          /* int8 or float [heads, capacity, width] */
    uint16_t *value_scale; /* float16 [heads, capacity] */
    int64_t capacity;
    int32_t heads, width, key_bits, parts;
} Cache;

typedef struct {
    const float *attention_norm, *mlp_norm; /* [width] */
    Blocks query, key, value, out, gate, up, down;
    const float *key_mean; /* [kv_heads, head_width] or null: what is taken off 4-bit keys */
} DecoderLayer;

/* A llama-like decoder: RMS norms, rotary positions, grouped queries, SwiGLU; decoder.h has the pass. */
typedef struct {
    const DecoderLayer *layer;
    const float *norm;  /* [width], before the output */
    Blocks output;      /* [vocabulary, width] */
    int32_t layers, width, hidden, heads, kv_heads, head_width;
    int32_t neighbours; /* as kernels_rotate's */
    int32_t spread;     /* queries and keys are turned by a Hadamard matrix after their positions */
    float epsilon;
} Decoder;

/* What an adapter adds to one matrix W, beside it: W x + scale * B (A x) (LoRA, Hu et al. 2022). A is
 * [rank, columns] in blocks of 8 bits, its rows filled up to a multiple of 16; B int8, 16 rows of W
 * together: [rows / 16, rank, 16]. rank 0: nothing. */
typedef struct {
    Blocks a;
    const int8_t *b;
    const float *scale; /* [rows]: of B's row, alpha / rank within */
    int32_t rank;
} LowRank;

typedef struct {
    LowRank query, key, value, out, gate, up, down;
} AdapterLayer;

/* Tokens of one sequence: positions first to first + count - 1 of its caches, one a layer. */
typedef struct {
    const Cache *layer;
    const AdapterLayer *adapter; /* [layers], or null */
    int64_t first;
    int32_t count;
} DecoderSpan;

typedef struct {
    Linear qkv; /* query, key, value one below the other; query already divided by sqrt(head) */
    Linear out, up, down;
    const float *attention_norm_weight, *attention_norm_bias; /* [width] */
    const float *output_norm_weight, *output_norm_bias;       /* [width] */
} EncoderLayer;

/* BERT's encoder (Devlin et al. 2019): post-norm layers, GELU by erf. */
typedef struct {
    int32_t layers, width, hidden, heads;
    float epsilon;
    int32_t pooling; /* 0: mean over the tokens, 1: the first token */
    const int8_t *words;      /* [vocabulary, width] */
    const float *word_scale;  /* [vocabulary] */
    const float *positions;   /* [positions, width], token type 0 added */
    const float *norm_weight, *norm_bias;
    const EncoderLayer *layer;
} Encoder;

/* Rows for cosine search. width_padded is width rounded up to 64; padding is 128 in codes.
 *   codes: [count, width_padded]            code = round(x / scale) + 128
 *   bits:  [count / 8, words, 8] of uint64  bit = x > 0; eight rows side by side, word by word
 *   allowed: bit r%8 of byte r/8 set where row r may be found; null for all rows
 */
typedef struct {
    const uint8_t *codes;
    const float *scale;
    const uint64_t *bits; /* null: no prefilter */
    const uint8_t *allowed;
    int64_t count;
    int32_t width, width_padded;
} Rows;

int kernels_abi(void);
/* Number of variants compiled in, their names, and whether this machine can run one. */
int kernels_variants(void);
const char *kernels_variant_name(int variant);
int kernels_variant_runs(int variant);
/* Use a variant and a number of threads; 0 where this machine can't run it. */
int kernels_select(int variant, int threads);

/* Sentences to vectors of length 1. ids: sum(lengths) token ids in the vocabulary, sentence after
 * sentence; out: float [count, width]. Returns 0 where memory is short.
 */
int kernels_encode(const Encoder *model, const int32_t *ids, const int32_t *lengths, int32_t count,
                   float *out);
/* y [count, rows] = x [count, columns] W' + b, x quantized by row. activation 0: none, 1: GELU,
 * 2: SiLU. */
int kernels_linear(const Linear *weights, const float *x, int32_t count, int32_t activation,
                   float *y);

/* Quantize float rows [count, width] to codes and scale, laid out as in Rows. */
void kernels_quantize(const float *x, int64_t count, int32_t width, int32_t width_padded,
                      uint8_t *codes, float *scale);
/* Signs of float rows, written into bits from row `first` on. */
void kernels_signs(const float *x, int64_t first, int64_t count, int32_t width, uint64_t *bits);
/* The best k rows by dot product with query [width], best first, equal scores by lower row. With
 * `candidates` above 0 and bits at hand, only that many rows nearest by Hamming distance are
 * scored. Returns how many were found, or -1 where memory is short.
 */
int64_t kernels_search(const Rows *rows, const float *query, int64_t k, int64_t candidates,
                       int64_t *found, float *scores);
/* Dot products of float rows [count, width] with query. */
void kernels_dot(const float *x, int64_t count, int32_t width, const float *query, float *scores);


/* y [count, rows] = f(x [count, columns] W' + b), x quantized in blocks; with `add`, y += that. */
int kernels_blocks(const Blocks *weights, const float *x, int32_t count, int32_t activation,
                   int32_t add, float *y);
/* Rows [count, width]; y may be x. Softmax, rotation and gate work in place: see rows.h. */
void kernels_rms_norm(const float *x, int64_t count, int32_t width, const float *weight,
                      float epsilon, float *y);
void kernels_layer_norm(const float *x, int64_t count, int32_t width, const float *weight,
                        const float *bias, float epsilon, float *y);
void kernels_softmax(float *x, int64_t count, int32_t width);
void kernels_rotate(float *x, int64_t count, int32_t heads, int32_t width, const float *cosine,
                    const float *sine, int32_t neighbours);
void kernels_gate(float *x, const float *up, int64_t count);
/* Quantize keys and values [count, heads, width] into a cache, from position `first` on. */
void kernels_append(const Cache *cache, int64_t first, int64_t count, const float *keys,
                    const float *values);
/* out [count, query_heads, width] = softmax(query key' / sqrt(width)) value; token t sees the first
 * visible[t] positions. query_heads is a multiple of the cache's heads. */
void kernels_attend(const Cache *cache, const float *queries, int32_t count, int32_t query_heads,
                    const int64_t *visible, float *out);
/* A pass of the spans' tokens, end to end in x [tokens, width], which is overwritten; cosine and sine
 * [tokens, head_width / 2] are of their positions. Writes their keys and values, and logits
 * [wanted_count, output.rows] of the tokens whose numbers `wanted` has. 0 where memory is short. */
int kernels_decode(const Decoder *model, const DecoderSpan *spans, int32_t span_count, float *x,
                   const float *cosine, const float *sine, const int32_t *wanted,
                   int32_t wanted_count, float *logits);

#endif
