#include "pool.h"
#include "variant.h"

extern const Variant variant_portable;
#if defined(__x86_64__)
extern const Variant variant_avx512, variant_avx512vnni, variant_avxvnni, variant_avx2;
#elif defined(__aarch64__)
#include <sys/auxv.h>
extern const Variant variant_neon;
#endif

/* The best first. */
static const Variant *const variants[] = {
#if defined(__x86_64__)
    &variant_avx512, &variant_avx512vnni, &variant_avxvnni, &variant_avx2,
#elif defined(__aarch64__)
    &variant_neon,
#endif
    &variant_portable,
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static const Variant *chosen = &variant_portable;

#if defined(__x86_64__)
#include <cpuid.h>
/* CPUID leaf 7, subleaf 1, EAX bit 4; gcc 12 has no name for it in __builtin_cpu_supports. */
static int has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}
#endif

int kernels_abi(void) { return KERNELS_ABI; }
int kernels_variants(void) { return VARIANTS; }
const char *kernels_variant_name(int variant) { return variants[variant]->name; }

int kernels_variant_runs(int variant) {
    const Variant *v = variants[variant];
#if defined(__x86_64__)
    /* These builtins also look whether the system keeps the registers. */
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vnni");
    if (v == &variant_avx2) return avx2;
    if (v == &variant_avxvnni) return avx2 && has_avxvnni();
    if (v == &variant_avx512vnni) return avx512;
    if (v == &variant_avx512) return avx512 && __builtin_cpu_supports("avx512vpopcntdq");
#elif defined(__aarch64__)
    if (v == &variant_neon) return !!(getauxval(AT_HWCAP) & (1 << 20)); /* HWCAP_ASIMDDP */
#endif
    return v == &variant_portable;
}

int kernels_select(int variant, int threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels_variant_runs(variant)) return 0;
    chosen = variants[variant];
    pool_resize(threads);
    return 1;
}

int kernels_encode(const Encoder *model, const int32_t *ids, const int32_t *lengths, int32_t count,
                   float *out) {
    return chosen->encode(model, ids, lengths, count, out);
}
int kernels_linear(const Linear *weights, const float *x, int32_t count, int32_t activation,
                   float *y) {
    return chosen->linear(weights, x, count, activation, y);
}
void kernels_quantize(const float *x, int64_t count, int32_t width, int32_t width_padded,
                      uint8_t *codes, float *scale) {
    chosen->quantize(x, count, width, width_padded, codes, scale);
}
void kernels_signs(const float *x, int64_t first, int64_t count, int32_t width, uint64_t *bits) {
    chosen->signs(x, first, count, width, bits);
}
int64_t kernels_search(const Rows *rows, const float *query, int64_t k, int64_t candidates,
                       int64_t *found, float *scores) {
    return chosen->search(rows, query, k, candidates, found, scores);
}
void kernels_dot(const float *x, int64_t count, int32_t width, const float *query, float *scores) {
    chosen->dot(x, count, width, query, scores);
}
int kernels_blocks(const Blocks *weights, const float *x, int32_t count, int32_t activation,
                   int32_t add, float *y) {
    return chosen->blocks(weights, x, count, activation, add, y);
}
void kernels_rms_norm(const float *x, int64_t count, int32_t width, const float *weight,
                      float epsilon, float *y) {
    chosen->rms_norm(x, count, width, weight, epsilon, y);
}
void kernels_layer_norm(const float *x, int64_t count, int32_t width, const float *weight,
                        const float *bias, float epsilon, float *y) {
    chosen->layer_norm(x, count, width, weight, bias, epsilon, y);
}
void kernels_softmax(float *x, int64_t count, int32_t width) { chosen->softmax(x, count, width); }
void kernels_rotate(float *x, int64_t count, int32_t heads, int32_t width, const float *cosine,
                    const float *sine, int32_t neighbours) {
    chosen->rotate(x, count, heads, width, cosine, sine, neighbours);
}
void kernels_gate(float *x, const float *up, int64_t count) { chosen->gate(x, up, count); }
void kernels_append(const Cache *cache, int64_t first, int64_t count, const float *keys,
                    const float *values) {
    chosen->append(cache, first, count, keys, values);
}
void kernels_attend(const Cache *cache, const float *queries, int32_t count, int32_t query_heads,
                    const int64_t *visible, float *out) {
    chosen->attend(cache, queries, count, query_heads, visible, out);
}
int kernels_decode(const Decoder *model, const DecoderSpan *spans, int32_t span_count, float *x,
                   const float *cosine, const float *sine, const int32_t *wanted,
                   int32_t wanted_count, float *logits) {
    return chosen->decode(model, spans, span_count, x, cosine, sine, wanted, wanted_count, logits);
}
