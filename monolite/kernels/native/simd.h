/* What a variant's instructions are: vectors of LANES floats or ints, and three operations that the
 * compiler doesn't make of plain C. The rest is arithmetic on vector types, which it does.
 *
 *   dot(acc, w, a)   acc[l] += sum over j < 4 of (w[4l + j] - 128 + OFFSET) * a[4l + j],
 *                    w unsigned, a signed bytes: with OFFSET 128 the caller subtracts 128 * sum(a)
 *   count_bits       per 64-bit word
 *   vround           to the nearest integer, as floats
 */
#ifndef SIMD_H
#define SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#else
#define LANES 4 /* portable: what every machine of the architecture has, SSE2 or NEON */
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint64_t v8u64 __attribute__((vector_size(64)));
typedef uint16_t v8u16 __attribute__((vector_size(16)));
typedef int8_t vb __attribute__((vector_size(LANES)));
typedef uint8_t vu __attribute__((vector_size(LANES)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE vi load_bytes(const void *p) { /* 4 * LANES bytes */
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vi splat_int(int32_t x) { return x - (vi){0}; }
#if defined(__AVX512VNNI__)
INLINE vf vmax(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
INLINE vf vmax(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf vmin(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vf choose(vi where, vf a, vf b) { return (vf)((where & (vi)a) | (~where & (vi)b)); }
INLINE vf vmax(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf vmin(vf a, vf b) { return choose(a < b, a, b); }
#endif
INLINE vf vabs(vf a) { return (vf)((vi)a & splat_int(0x7fffffff)); }

#if defined(__AVX512VNNI__)
#define OFFSET 128
INLINE vi dot(vi acc, vi w, vi a) {
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)a);
}
INLINE vf vround(vf a) { return (vf)_mm512_roundscale_ps((__m512)a, 0); }
INLINE float sum(vf a) { return _mm512_reduce_add_ps((__m512)a); }
INLINE int32_t sum_int(vi a) { return _mm512_reduce_add_epi32((__m512i)a); }
INLINE float highest(vf a) { return _mm512_reduce_max_ps((__m512)a); }
#elif defined(__AVX2__)
#ifdef __AVXVNNI__
#define OFFSET 128
INLINE vi dot(vi acc, vi w, vi a) {
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, (__m256i)a);
}
#else
#define OFFSET 0
/* maddubs adds two products in 16 bits: 2 * 127 * 128 fits, since a is at most 127 either way. */
INLINE vi dot(vi acc, vi w, vi a) {
    __m256i q = _mm256_xor_si256((__m256i)w, _mm256_set1_epi8((char)0x80));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8((__m256i)a, q));
    return acc + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#endif
INLINE vf vround(vf a) { return (vf)_mm256_round_ps((__m256)a, 8); }
#elif defined(__ARM_FEATURE_DOTPROD)
#define OFFSET 0
INLINE vi dot(vi acc, vi w, vi a) {
    int8x16_t q = vreinterpretq_s8_u8(veorq_u8((uint8x16_t)w, vdupq_n_u8(0x80)));
    return (vi)vdotq_s32((int32x4_t)acc, q, (int8x16_t)a);
}
#elif defined(__SSE2__)
#define OFFSET 128
/* Every other byte of a lane, as two pairs of 16 bits: columns 0 and 2, then 1 and 3. */
INLINE vi dot(vi acc, vi w, vi a) {
    const __m128i low = _mm_set1_epi16(0xff), x = (__m128i)w, y = (__m128i)a;
    acc += (vi)_mm_madd_epi16(_mm_and_si128(x, low), _mm_srai_epi16(_mm_slli_epi16(y, 8), 8));
    return acc + (vi)_mm_madd_epi16(_mm_srli_epi16(x, 8), _mm_srai_epi16(y, 8));
}
#elif defined(__ARM_NEON)
#define OFFSET 0
INLINE vi dot(vi acc, vi w, vi a) {
    int8x16_t x = (int8x16_t)veorq_u8((uint8x16_t)w, vdupq_n_u8(0x80)), y = (int8x16_t)a;
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)));
    int32x4_t high = vpaddlq_s16(vmull_high_s8(x, y));
    return acc + (vi)vpaddq_s32(low, high);
}
#else
#define OFFSET 0
INLINE vi dot(vi acc, vi w, vi a) {
    uint8_t wb[4 * LANES];
    int8_t ab[4 * LANES];
    memcpy(wb, &w, sizeof wb);
    memcpy(ab, &a, sizeof ab);
    for (int l = 0; l < LANES; l++)
        for (int j = 4 * l; j < 4 * l + 4; j++) acc[l] += ((int)wb[j] - 128) * ab[j];
    return acc;
}
#endif
#if defined(__ARM_NEON)
INLINE vf vround(vf a) { return (vf)vrndnq_f32((float32x4_t)a); }
#elif LANES == 4
/* Adding 1.5 * 2^23 leaves no bit for a fraction; right up to 2^22 either way. */
INLINE vf vround(vf a) { return a + splat(12582912.0f) - splat(12582912.0f); }
#endif

#if LANES != 16
INLINE float sum(vf a) {
    float s = 0;
    for (int l = 0; l < LANES; l++) s += a[l];
    return s;
}
INLINE int32_t sum_int(vi a) {
    int32_t s = 0;
    for (int l = 0; l < LANES; l++) s += a[l];
    return s;
}
INLINE float highest(vf a) {
    float m = a[0];
    for (int l = 1; l < LANES; l++) m = a[l] > m ? a[l] : m;
    return m;
}
#endif

/* As dot, but w is 0 to 15 and taken as it is. */
INLINE vi dot_small(vi acc, vi w, vi a) {
#if OFFSET == 128
    return dot(acc, w, a);
#elif defined(__AVX2__)
    __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)a);
    return acc + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
    return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)a);
#elif defined(__ARM_NEON)
    return dot(acc, w ^ splat_int((int32_t)0x80808080u), a);
#else
    int8_t wb[4 * LANES], ab[4 * LANES];
    memcpy(wb, &w, sizeof wb);
    memcpy(ab, &a, sizeof ab);
    for (int l = 0; l < LANES; l++)
        for (int j = 4 * l; j < 4 * l + 4; j++) acc[l] += wb[j] * ab[j];
    return acc;
#endif
}

/* The lanes as bytes; they are within -128 to 127. */
INLINE void store_bytes(int8_t *p, vi v) {
#if defined(__AVX512VNNI__)
    __m128i bytes = _mm512_cvtepi32_epi8((__m512i)v);
    memcpy(p, &bytes, LANES);
#elif defined(__AVX2__)
    __m128i low = _mm256_castsi256_si128((__m256i)v), high = _mm256_extracti128_si256((__m256i)v, 1);
    __m128i words = _mm_packs_epi32(low, high), bytes = _mm_packs_epi16(words, words);
    memcpy(p, &bytes, LANES);
#elif defined(__SSE2__)
    __m128i words = _mm_packs_epi32((__m128i)v, (__m128i)v), bytes = _mm_packs_epi16(words, words);
    memcpy(p, &bytes, LANES);
#else
    vb bytes = __builtin_convertvector(v, vb);
    memcpy(p, &bytes, LANES);
#endif
}

/* LANES float16 as floats. */
INLINE vf load_halves(const void *p) {
#if defined(__AVX512VNNI__)
    __m256i h;
    memcpy(&h, p, sizeof h);
    return (vf)_mm512_cvtph_ps(h);
#elif defined(__AVX2__)
    __m128i h;
    memcpy(&h, p, sizeof h);
    return (vf)_mm256_cvtph_ps(h);
#elif defined(__ARM_NEON)
    float16x4_t h;
    memcpy(&h, p, sizeof h);
    return (vf)vcvt_f32_f16(h);
#else
    /* Exponents differ by 112; multiplying mends subnormals too. Nothing here is infinite. */
    uint16_t h[LANES];
    memcpy(h, p, sizeof h);
    vi bits, sign;
    for (int l = 0; l < LANES; l++) bits[l] = (h[l] & 0x7fff) << 13, sign[l] = (h[l] & 0x8000) << 16;
    return (vf)((vi)((vf)bits * 0x1p112f) | sign);
#endif
}

/* The first n lanes, with zeros after them; n from 1 to LANES. */
INLINE vf load_some(const float *p, int n) {
    if (n >= LANES) return load(p);
#if defined(__AVX512VNNI__)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = {0};
    memcpy(&v, p, sizeof(float) * (size_t)n);
    return v;
#endif
}
INLINE void store_some(float *p, vf v, int n) {
    if (n >= LANES) store(p, v);
    else memcpy(p, &v, sizeof(float) * (size_t)n);
}
/* LANES signed bytes as floats. gcc 12 would take __builtin_convertvector of bytes one by one. */
INLINE vf load_bytes_as_floats(const int8_t *p) {
#if defined(__AVX512VNNI__)
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
#else
    vb v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, vf);
#endif
}
INLINE vf load_some_bytes(const int8_t *p, int n) {
    vb v = {0};
    memcpy(&v, p, (size_t)(n < LANES ? n : LANES));
    return __builtin_convertvector(v, vf);
}
INLINE vi lane_numbers(void) {
    vi v;
    for (int l = 0; l < LANES; l++) v[l] = l;
    return v;
}
/* The first n lanes of v, of `rest` the others. */
INLINE vf only_or(vf v, vf rest, int n) {
    vi which = lane_numbers() < splat_int(n);
    return (vf)(((vi)v & which) | ((vi)rest & ~which));
}
INLINE vf only(vf v, int n) { return n >= LANES ? v : only_or(v, splat(0), n); }

INLINE v8u64 count_bits(v8u64 x) {
#if defined(__AVX512VPOPCNTDQ__)
    return (v8u64)_mm512_popcnt_epi64((__m512i)x);
#elif defined(__AVX512VNNI__)
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_set1_epi8(15);
    __m512i bytes = _mm512_add_epi8(
        _mm512_shuffle_epi8(table, _mm512_and_si512((__m512i)x, low)),
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16((__m512i)x, 4), low)));
    return (v8u64)_mm512_sad_epu8(bytes, _mm512_setzero_si512());
#elif defined(__AVX2__)
    const __m256i table = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_set1_epi8(15);
    __m256i half[2];
    memcpy(half, &x, sizeof half);
    for (int i = 0; i < 2; i++) {
        __m256i bytes = _mm256_add_epi8(
            _mm256_shuffle_epi8(table, _mm256_and_si256(half[i], low)),
            _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(half[i], 4), low)));
        half[i] = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
    }
    memcpy(&x, half, sizeof half);
    return x;
#else
    for (int l = 0; l < 8; l++) x[l] = (uint64_t)__builtin_popcountll(x[l]);
    return x;
#endif
}

/* e^x by x = n ln 2 + r and a polynomial in r; relative error under 2e-7 from -87 to 88. */
INLINE vf vexp(vf x) {
    x = vmin(vmax(x, splat(-87.0f)), splat(88.0f));
    vf n = vround(x * 1.44269504f);
    vf r = x - n * 0.693145752f - n * 1.42860677e-6f;
    vf p = splat(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vi exponent = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)exponent;
}

/* x (1 + erf(x / sqrt 2)) / 2 without a power or a division. erf is odd: x times a polynomial in x x,
 * here in u = 2 (x / 4.75)^2 - 1, fitted for the least largest error of the product up to 4.75, where
 * it reaches 1 and stays. Off by 6e-6 at most. */
INLINE vf vgelu(vf x) {
    vf c = vmax(vmin(x, splat(4.75f)), splat(-4.75f));
    vf u = c * c * 0.08864266f - 1.0f;
    vf p = splat(0.00143224897f);
    p = p * u - 0.00394581491f;
    p = p * u + 0.00477861473f;
    p = p * u - 0.006874213f;
    p = p * u + 0.0135151902f;
    p = p * u - 0.0218087509f;
    p = p * u + 0.0303898212f;
    p = p * u - 0.0405379273f;
    p = p * u + 0.0532346591f;
    p = p * u - 0.0736690015f;
    p = p * u + 0.148748338f;
    return x * (c * p + 0.5f);
}

/* x / (1 + e^-x) */
INLINE vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }

enum { ACTIVATION_NONE, ACTIVATION_GELU, ACTIVATION_SILU };

INLINE vf activate(vf x, int activation) {
    if (activation == ACTIVATION_GELU) return vgelu(x);
    if (activation == ACTIVATION_SILU) return vsilu(x);
    return x;
}

#endif
