/* Every kernel in two variants of one library, on the same odd sizes and misaligned arrays.
 *
 *     variants_agree neon portable
 *
 * For machines that only an emulator has: the portable variant is held to numpy elsewhere
 * (test_kernels.py, test_language.py), and here the other variant to it. Prints what differs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

static int failures;
static uint64_t state = 88172645463325252u;

static uint32_t chance(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32);
}
static int between(int least, int most) { return least + (int)(chance() % (uint32_t)(most - least + 1)); }
static float number(void) { return (float)((double)chance() / 2147483648.0 - 1.0); }

/* Memory that begins where no vector likes, and after which nothing may be touched. */
static void *room(size_t bytes) {
    size_t off = (size_t)between(0, 15);
    char *all = calloc(1, bytes + 16 + 16);
    return all + off;
}
static float *numbers(size_t count) {
    float *x = room(4 * count);
    for (size_t i = 0; i < count; i++) { float v = number(); memcpy((char *)x + 4 * i, &v, 4); }
    return x;
}
static uint8_t *bytes(size_t count) {
    uint8_t *x = room(count);
    for (size_t i = 0; i < count; i++) x[i] = (uint8_t)between(1, 255);
    return x;
}
static uint16_t *halves(size_t count, uint16_t *at) { /* between 2^-7 and 2^-5 */
    for (size_t i = 0; i < count; i++) {
        uint16_t h = (uint16_t)(0x2000 + chance() % 0x800);
        memcpy((char *)at + 2 * i, &h, 2);
    }
    return at;
}

static int variant_number(const char *name) {
    for (int i = 0; i < kernels_variants(); i++)
        if (!strcmp(kernels_variant_name(i), name)) return i;
    printf("no variant %s\n", name);
    exit(2);
}
static int variants[2];
static void use(int which) {
    if (!kernels_select(variants[which], which ? 1 : 3)) printf("variant %d can't run\n", which), exit(2);
}

static void close_to(const char *what, const float *a, const float *b, size_t count, float tolerance) {
    for (size_t i = 0; i < count; i++) {
        float x, y;
        memcpy(&x, (const char *)a + 4 * i, 4), memcpy(&y, (const char *)b + 4 * i, 4);
        if (!(fabsf(x - y) <= tolerance * (1 + fabsf(y)))) {
            if (failures++ < 20) printf("%s[%zu]: %g and %g\n", what, i, (double)x, (double)y);
            return;
        }
    }
}
static void same(const char *what, const void *a, const void *b, size_t count) {
    if (memcmp(a, b, count) && failures++ < 20) printf("%s differs\n", what);
}

static Linear linear_of(int rows, int columns) {
    return (Linear){.packed = bytes((size_t)rows * (size_t)columns), .scale = numbers((size_t)rows),
                    .bias = numbers((size_t)rows), .rows = rows, .columns = columns};
}

static void check_linear(void) {
    int rows = 32 * between(1, 3), columns = 4 * between(1, 40), count = between(1, 30);
    Linear weights = linear_of(rows, columns);
    if (chance() % 2) weights.smooth = numbers((size_t)columns);
    float *x = numbers((size_t)(count * columns)), *y[2];
    for (int i = 0; i < 2; i++) {
        y[i] = room(4 * (size_t)(count * rows));
        use(i), kernels_linear(&weights, x, count, (int)(columns % 3), y[i]);
    }
    close_to("linear", y[0], y[1], (size_t)(count * rows), 1e-4f);
}

static Blocks blocks_of(int rows, int columns, int bits) {
    int codes = bits == 4 ? 256 : 512, count = rows / 16 * (columns / 32);
    uint8_t *packed = bytes((size_t)(count * BLOCK_BYTES(bits)));
    for (int b = 0; b < count; b++)
        halves((size_t)(BLOCK_BYTES(bits) - codes) / 2, (uint16_t *)(packed + b * BLOCK_BYTES(bits) + codes));
    return (Blocks){packed, numbers((size_t)rows), rows, columns, bits};
}

static void check_blocks(void) {
    int bits = chance() % 2 ? 4 : 8, rows = 16 * between(1, 5), blocks = between(1, 4), count = between(1, 19);
    Blocks weights = blocks_of(rows, 32 * blocks, bits);
    float *x = numbers((size_t)(count * 32 * blocks)), *y[2];
    for (int i = 0; i < 2; i++) {
        y[i] = room(4 * (size_t)(count * rows));
        use(i), kernels_blocks(&weights, x, count, blocks % 3, 0, y[i]);
    }
    close_to("blocks", y[0], y[1], (size_t)(count * rows), 1e-4f);
}

static void check_rows(void) {
    int count = between(1, 3), width = between(1, 70), half = between(1, 20), heads = between(1, 3);
    size_t size = (size_t)(count * width), turned = (size_t)(count * heads * 2 * half);
    float *x = numbers(size), *weight = numbers((size_t)width), *bias = numbers((size_t)width);
    float *r = numbers(turned), *c = numbers((size_t)(count * half)), *s = numbers((size_t)(count * half));
    float *rms[2], *layer[2], *soft[2], *rotated[2], *gated[2];
    for (int i = 0; i < 2; i++) {
        use(i);
        rms[i] = room(4 * size), layer[i] = room(4 * size), soft[i] = room(4 * size), gated[i] = room(4 * size);
        rotated[i] = room(4 * turned);
        kernels_rms_norm(x, count, width, weight, 1e-5f, rms[i]);
        kernels_layer_norm(x, count, width, weight, bias, 1e-5f, layer[i]);
        memcpy(soft[i], x, 4 * size), kernels_softmax(soft[i], count, width);
        memcpy(gated[i], x, 4 * size), kernels_gate(gated[i], rms[0], (int64_t)size);
        memcpy(rotated[i], r, 4 * turned), kernels_rotate(rotated[i], count, heads, 2 * half, c, s, half % 2);
    }
    close_to("rms_norm", rms[0], rms[1], size, 1e-4f);
    close_to("layer_norm", layer[0], layer[1], size, 1e-3f);
    close_to("softmax", soft[0], soft[1], size, 1e-5f);
    close_to("gate", gated[0], gated[1], size, 1e-5f);
    close_to("rotate", rotated[0], rotated[1], turned, 1e-5f);
}

/* Room for 16 positions or more, empty. */
static Cache cache_of(int heads, int capacity, int width, int bits) {
    const int parts = width % 32 ? 1 : width / 32;
    const size_t at = (size_t)(heads * capacity), wide = at * (size_t)width, first = (size_t)(heads * 16 * width);
    return (Cache){room(wide * (size_t)bits / 8), room(first), room(2 * at * (size_t)parts), room(bits == 32 ? 4 * wide : wide),
                   room(2 * at), capacity, heads, width, bits, parts};
}

static void check_cache(void) {
    int heads = between(1, 2), share = between(1, 3), width = 8 * between(1, 9);
    int bits = chance() % 3 == 0 ? 32 : chance() % 2 ? 4 : 8;
    int stored = between(1, 48), count = between(1, 5);
    size_t given = (size_t)(stored * heads * width), asked = (size_t)(count * heads * share * width);
    float *keys = numbers(given), *values = numbers(given), *queries = numbers(asked), *out[2];
    int64_t visible[5];
    for (int i = 0; i < count; i++) visible[i] = between(0, stored);
    Cache cache[2];
    for (int i = 0; i < 2; i++) {
        cache[i] = cache_of(heads, 48, width, bits);
        out[i] = room(4 * asked);
        use(i), kernels_append(cache + i, 0, stored, keys, values);
        kernels_attend(cache, queries, count, heads * share, visible, out[i]);
    }
    same("keys", cache[0].keys, cache[1].keys, (size_t)(heads * 48 * width * bits / 8));
    same("first keys", cache[0].first_keys, cache[1].first_keys, (size_t)(heads * 16 * width));
    same("values", cache[0].values, cache[1].values, (size_t)(heads * 48 * width) * (bits == 32 ? 4 : 1));
    close_to("attend", out[0], out[1], asked, 1e-3f);
}

static void check_search(void) {
    int width = between(1, 140), padded = (width + 63) / 64 * 64, words = padded / 64, count = between(1, 900);
    int64_t k = between(1, 30), candidates = chance() % 2 ? between(1, 100) : 0, found[2][30], some[2];
    float *x = numbers((size_t)(count * width)), *query = numbers((size_t)width), *scores[2], *dots[2];
    size_t blocks = (size_t)(count + 7) / 8;
    uint8_t *allowed = chance() % 2 ? bytes(blocks) : 0, *codes[2];
    float *scale[2];
    uint64_t *bits[2];
    for (int i = 0; i < 2; i++) {
        use(i);
        codes[i] = room((size_t)(count * padded)), scale[i] = room(4 * (size_t)count);
        bits[i] = room(64 * blocks * (size_t)words), scores[i] = room(4 * 30), dots[i] = room(4 * (size_t)count);
        kernels_quantize(x, count, width, padded, codes[i], scale[i]);
        kernels_signs(x, 0, count, width, bits[i]);
        kernels_dot(x, count, width, query, dots[i]);
        Rows rows = {codes[i], scale[i], bits[i], allowed, count, width, padded};
        some[i] = kernels_search(&rows, query, k, candidates, found[i], scores[i]);
    }
    same("codes", codes[0], codes[1], (size_t)(count * padded));
    same("scales", scale[0], scale[1], 4 * (size_t)count);
    same("bits", bits[0], bits[1], 64 * blocks * (size_t)words);
    close_to("dot", dots[0], dots[1], (size_t)count, 1e-4f);
    if (some[0] != some[1]) printf("search found %ld and %ld\n", (long)some[0], (long)some[1]), failures++;
    else same("search", found[0], found[1], 8 * (size_t)some[0]);
    if (some[0] == some[1]) same("scores", scores[0], scores[1], 4 * (size_t)some[0]);
}

static void check_encoder(void) {
    enum { D = 64, F = 96, WORDS = 30, PLACES = 20, TEXTS = 3 };
    EncoderLayer layers[2];
    float *ones = room(4 * D), *zeros = room(4 * D), *out[2];
    for (int i = 0; i < D; i++) { float one = 1; memcpy((char *)ones + 4 * i, &one, 4); }
    for (int l = 0; l < 2; l++) {
        layers[l] = (EncoderLayer){linear_of(3 * D, D), linear_of(D, D), linear_of(F, D), linear_of(D, F),
                                   ones, zeros, ones, zeros};
        for (int m = 0; m < 4; m++) { /* outputs as large as inputs */
            Linear *w = (Linear *)&layers[l].qkv + m;
            for (int r = 0; r < w->rows; r++) { float s = 0.002f; memcpy((char *)w->scale + 4 * r, &s, 4); }
        }
    }
    float *word_scale = room(4 * WORDS);
    for (int i = 0; i < WORDS; i++) { float s = 0.01f; memcpy((char *)word_scale + 4 * i, &s, 4); }
    Encoder model = {.layers = 2, .width = D, .hidden = F, .heads = 2, .epsilon = 1e-12f,
                     .words = (const int8_t *)bytes(WORDS * D), .word_scale = word_scale,
                     .positions = numbers(PLACES * D), .norm_weight = ones, .norm_bias = zeros, .layer = layers};
    int32_t lengths[TEXTS], ids[TEXTS * PLACES];
    for (int i = 0; i < TEXTS; i++) lengths[i] = between(1, PLACES);
    for (int i = 0; i < TEXTS * PLACES; i++) ids[i] = between(0, WORDS - 1);
    for (int i = 0; i < 2; i++) out[i] = room(4 * TEXTS * D), use(i), kernels_encode(&model, ids, lengths, TEXTS, out[i]);
    for (int t = 0; t < TEXTS; t++) {
        float cosine = 0;
        for (int i = 0; i < D; i++) {
            float a, b;
            memcpy(&a, (char *)out[0] + 4 * (t * D + i), 4), memcpy(&b, (char *)out[1] + 4 * (t * D + i), 4);
            cosine += a * b;
        }
        if (!(cosine > 0.999f)) printf("encode: cosine %g\n", (double)cosine), failures++;
    }
}

/* A change of a matrix, as large as a tenth of it; sometimes none. */
static LowRank change_of(int rows, int columns) {
    const int rank = between(0, 3) ? between(1, 40) : 0;
    float *scale = numbers((size_t)rows);
    for (int r = 0; r < rows; r++) { float s = number() * 1e-4f; memcpy((char *)scale + 4 * r, &s, 4); }
    return (LowRank){blocks_of((rank + 15) / 16 * 16, columns, 8), (const int8_t *)bytes((size_t)(rows * rank)), scale, rank};
}

static void check_decoder(void) {
    enum { D = 32, F = 96, H = 4, G = 2, WIDTH = 24, WORDS = 48, SPANS = 2, MOST = 150 };
    DecoderLayer layers[2];
    for (int l = 0; l < 2; l++)
        layers[l] = (DecoderLayer){numbers(D), numbers(D), blocks_of(H * WIDTH, D, 4), blocks_of(G * WIDTH, D, 8),
                                   blocks_of(G * WIDTH, D, 8), blocks_of(D, H * WIDTH, 8), blocks_of(F, D, 8),
                                   blocks_of(F, D, 8), blocks_of(D, F, 8), l ? numbers(G * WIDTH) : 0};
    Decoder model = {layers, numbers(D), blocks_of(WORDS, D, 8), 2, D, F, H, G, WIDTH, (int)(chance() % 2), 1, 1e-5f};
    const int counts[SPANS] = {between(1, MOST), between(0, 3)}, tokens = counts[0] + counts[1];
    AdapterLayer adapter[2];
    for (int l = 0; l < 2; l++)
        adapter[l] = (AdapterLayer){change_of(H * WIDTH, D), change_of(G * WIDTH, D), change_of(G * WIDTH, D),
                                    change_of(D, H * WIDTH), change_of(F, D), change_of(F, D), change_of(D, F)};
    const int adapted = between(0, 3);
    int bits = chance() % 3 == 0 ? 32 : chance() % 2 ? 4 : 8;
    float *x = numbers((size_t)(tokens * D)), *cosine = numbers((size_t)(tokens * WIDTH / 2));
    float *sine = numbers((size_t)(tokens * WIDTH / 2)), *out[2];
    int32_t wanted[2] = {tokens - 1, 0};
    for (int i = 0; i < 2; i++) {
        Cache caches[SPANS][2];
        DecoderSpan spans[SPANS];
        for (int s = 0; s < SPANS; s++) {
            for (int l = 0; l < 2; l++) caches[s][l] = cache_of(G, 160, WIDTH, bits);
            spans[s] = (DecoderSpan){caches[s], adapted >> s & 1 ? adapter : 0, 0, counts[s]};
        }
        float *stream = room((size_t)(4 * tokens * D));
        memcpy(stream, x, (size_t)(4 * tokens * D));
        out[i] = room(4 * 2 * WORDS);
        use(i);
        if (!kernels_decode(&model, spans, SPANS, stream, cosine, sine, wanted, 2, out[i])) printf("decode: no memory\n"), failures++;
    }
    for (int row = 0; row < 2; row++) {
        double product = 0, left = 0, right = 0;
        for (int i = 0; i < WORDS; i++) {
            float a, b;
            memcpy(&a, (char *)out[0] + 4 * (row * WORDS + i), 4), memcpy(&b, (char *)out[1] + 4 * (row * WORDS + i), 4);
            product += (double)a * b, left += (double)a * a, right += (double)b * b;
        }
        if (!(product > 0.99 * sqrt(left * right))) printf("decode: cosine %g\n", product / sqrt(left * right)), failures++;
    }
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    for (int i = 0; i < 2; i++) variants[i] = variant_number(arguments[i + 1]);
    for (int round = 0; round < 60; round++) {
        check_linear();
        check_blocks();
        check_rows();
        check_cache();
        check_search();
        if (round < 6) check_encoder(), check_decoder();
    }
    printf("%s and %s: %d differences\n", arguments[1], arguments[2], failures);
    return failures != 0;
}
